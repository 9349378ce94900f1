//! `--transform` and `--reference`: rewards made comparable across prompts before they are compared.

use clap::Args;

use crate::error::Result;
use crate::rewards::comparable::{Choice, Property, comparable};
use crate::rewards::transform::Reference;

#[derive(Args)]
pub(super) struct TransformArgs {
    /// What is done to rewards: `log-sigmoid` (log-probability of being better than the prompt's reference value),
    /// `and` (the sum of the log-sigmoids of likeness and alignment, of all outputs for texts; takes no lambda),
    /// `standardise`, `clip:LIMIT` (distance from the reference value) or `par` (mean probability of being better than
    /// the prompt's images or answers).
    #[arg(long, value_name = "KIND")]
    transform: Option<Choice>,
    /// The reference value of a prompt, from the rewards of its images or answers: `mean`, `quantile:Q`, `gaussian:Q`; or
    /// `fixed:VALUE` (a reward divided by tau), or `canonical`, the mean reward of the photos. With fewer than 8 images of a
    /// prompt, it is pulled towards that of all images.
    #[arg(long, value_name = "KIND", requires = "transform")]
    #[arg(default_value = "quantile:0.85", allow_hyphen_values = true)]
    reference: Reference,
}

impl TransformArgs {
    /// Whether likeness and alignment are taken one by one.
    pub(super) fn takes_parts(&self) -> bool {
        self.transform == Some(Choice::And)
    }

    /// The transformed reward; `None` where no transform is asked for. `reward` is likeness and alignment together, which
    /// are `parts`; see [`comparable`].
    pub(super) fn apply(
        &self,
        reward: &Property,
        parts: [&Property; 2],
        tau: f64,
        prompt_of: &[usize],
    ) -> Result<Option<Property>> {
        let Some(choice) = self.transform else {
            return Ok(None);
        };
        let properties = match choice {
            Choice::One(_) => vec![reward],
            Choice::And => parts.to_vec(),
        };
        comparable(choice, self.reference, &properties, prompt_of, tau).map(Some)
    }

    /// The transformed rewards of answers, `[prompt][answer]`, from `[prompt][answer][output]`; `None` where no transform
    /// is asked for.
    pub(super) fn of_answers(
        &self,
        rewards: &[Vec<Vec<f64>>],
        tau: f64,
    ) -> Result<Option<Vec<Vec<f64>>>> {
        let Some(choice) = self.transform else {
            return Ok(None);
        };
        let outputs = rewards.iter().flatten().map(Vec::len).max().unwrap_or(0);
        let properties: Vec<Property> = (0..outputs)
            .map(|output| Property {
                given: vec![Vec::new(); rewards.len()],
                samples: rewards.iter().flatten().map(|all| all[output]).collect(),
            })
            .collect();
        let properties: Vec<&Property> = properties.iter().collect();
        let prompt_of = rewards.iter().enumerate();
        let prompt_of = prompt_of.flat_map(|(prompt, answers)| vec![prompt; answers.len()]);
        let prompt_of: Vec<usize> = prompt_of.collect();
        let all = comparable(choice, self.reference, &properties, &prompt_of, tau)?;
        let mut values = all.samples.into_iter();
        let of_prompt = |answers: &Vec<Vec<f64>>| values.by_ref().take(answers.len()).collect();
        Ok(Some(rewards.iter().map(of_prompt).collect()))
    }

    /// The choices as they are written, for records: transform and reference.
    pub(super) fn names(&self) -> Option<(String, String)> {
        Some((self.transform?.to_string(), self.reference.to_string()))
    }
}
