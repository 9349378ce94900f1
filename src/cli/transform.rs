//! `--transform` and `--reference`: rewards made comparable across prompts before they are compared.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Error, Result};
use crate::rewards::comparable::{Baseline, Choice, Property, comparable, of_answers};
use crate::rewards::transform::Reference;

#[derive(Args)]
pub(super) struct TransformArgs {
    /// Transform of rewards: `log-sigmoid` (log-probability of being better than the prompt's reference value),
    /// `and` (the sum of the log-sigmoids of likeness and alignment, of all outputs for texts; takes no lambda),
    /// `standardise`, `clip:LIMIT` (distance from the reference value) or `par` (mean probability of being better than
    /// the prompt's images or answers).
    #[arg(long, value_name = "KIND")]
    transform: Option<Choice>,
    /// The reference value of a prompt, from the rewards of its images or answers: `mean`, `quantile:Q`, `gaussian:Q`; or
    /// `fixed:VALUE` (a reward divided by tau), or `canonical`, the mean reward of the photos, or of `--reference-data`. A prompt
    /// with fewer than 8 images has its value pulled towards that of all images.
    #[arg(long, value_name = "KIND", requires = "transform")]
    #[arg(default_value = "quantile:0.85", allow_hyphen_values = true)]
    reference: Reference,
    /// Texts: answers of the untuned model to the same prompts, of whose rewards the reference values are made, instead of
    /// those of the answers that are judged. Their rewards are kept beside the reward model.
    #[arg(long, value_name = "FILE", requires_all = ["transform", "data"], conflicts_with_all = ["images", "answers"])]
    reference_data: Option<PathBuf>,
}

impl TransformArgs {
    /// `true` if a transform was asked for.
    pub(super) fn is_asked(&self) -> bool {
        self.transform.is_some()
    }

    /// `true` if likeness and alignment are taken one by one.
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
        let samples = Baseline::Samples;
        comparable(choice, self.reference, samples, &properties, prompt_of, tau).map(Some)
    }

    /// The transformed rewards of answers, `[prompt][answer]`, from `[prompt][answer][output]` and what `baseline` gives of
    /// `--reference-data`; `None` where no transform is asked for.
    pub(super) fn of_answers(
        &self,
        rewards: &[Vec<Vec<f64>>],
        tau: f64,
        baseline: impl FnOnce(&Path) -> Result<Vec<Vec<Vec<f64>>>>,
    ) -> Result<Option<Vec<Vec<f64>>>> {
        let Some(choice) = self.transform else {
            return Ok(None);
        };
        let baseline = self.reference_data.as_deref().map(baseline).transpose()?;
        if baseline.is_none() && self.reference == Reference::Canonical {
            return Err(Error::config(
                "`--reference canonical` needs answers to texts that are known to be acceptable",
            )
            .with_hint("give them by `--reference-data FILE`"));
        }
        of_answers(choice, self.reference, rewards, baseline.as_deref(), tau).map(Some)
    }

    /// The transform with its reference value; `None` where none is asked for.
    pub(super) fn choice(&self) -> Option<(Choice, Reference)> {
        Some((self.transform?, self.reference))
    }

    /// The choices as they are written, for records: transform and reference.
    pub(super) fn names(&self) -> Option<(String, String)> {
        Some((self.transform?.to_string(), self.reference.to_string()))
    }
}
