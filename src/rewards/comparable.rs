//! Rewards made comparable across prompts, wherever rewards are read: one transform of one reward, or the sum that means
//! that several properties hold together.

use std::fmt;
use std::str::FromStr;

use super::transform::{ENOUGH_SAMPLES, Prompt, Reference, Transform, all_good, references};
use crate::error::Result;

/// What is done to rewards.
///
/// As text: `and`, or a [`Transform`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// To one reward.
    One(Transform),
    /// To several properties together: the sum of their log-sigmoids.
    And,
}

impl fmt::Display for Choice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(transform) => transform.fmt(formatter),
            Self::And => formatter.write_str("and"),
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "and" => Ok(Self::And),
            text => text.parse().map(Self::One).map_err(|_| {
                "use `log-sigmoid`, `and`, `standardise`, `clip:LIMIT` or `par`".to_owned()
            }),
        }
    }
}

/// One quantity of answers that every prompt has, and of samples of one prompt each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Property {
    /// `[prompt][answer]`; their mean is what [`Reference::Canonical`] takes.
    pub given: Vec<Vec<f64>>,
    /// `[sample]`; of these the other reference values are made.
    pub samples: Vec<f64>,
}

impl Property {
    /// What is known of each prompt, in units of `tau`.
    fn prompts(&self, prompt_of: &[usize], tau: f64) -> Vec<Prompt> {
        let mean = |given: &Vec<f64>| given.iter().sum::<f64>() / given.len() as f64 / tau;
        let mut prompts: Vec<Prompt> = self
            .given
            .iter()
            .map(|given| Prompt {
                samples: Vec::new(),
                canonical: (!given.is_empty()).then(|| mean(given)),
            })
            .collect();
        for (&reward, &prompt) in self.samples.iter().zip(prompt_of) {
            prompts[prompt].samples.push(reward / tau);
        }
        prompts
    }
}

/// The transformed rewards, of properties that are alike in form: of the first alone, or of all for [`Choice::And`].
///
/// `prompt_of` `[sample]` are the samples' prompts; `tau` is the difference that counts as 1, by which all rewards are
/// divided first.
///
/// # Errors
/// See [`references`].
///
/// # Panics
/// Without a property.
pub fn comparable(
    choice: Choice,
    reference: Reference,
    properties: &[&Property],
    prompt_of: &[usize],
    tau: f64,
) -> Result<Property> {
    let properties = match choice {
        Choice::One(_) => &properties[..1],
        Choice::And => properties,
    };
    let prompts: Vec<Vec<Prompt>> = properties
        .iter()
        .map(|property| property.prompts(prompt_of, tau))
        .collect();
    let levels = prompts
        .iter()
        .map(|prompts| references(reference, prompts, ENOUGH_SAMPLES))
        .collect::<Result<Vec<_>>>()?;
    let value = |prompt: usize, reward_of: &dyn Fn(&Property) -> f64| match choice {
        Choice::One(transform) => {
            let samples = &prompts[0][prompt].samples;
            transform.apply(reward_of(properties[0]) / tau, levels[0][prompt], samples)
        }
        Choice::And => {
            let pairs = properties.iter().zip(&levels);
            let pairs = pairs.map(|(property, levels)| (reward_of(property) / tau, levels[prompt]));
            all_good(&pairs.collect::<Vec<_>>())
        }
    };
    let given = properties[0].given.iter().enumerate();
    let samples = prompt_of.iter().enumerate();
    Ok(Property {
        given: given
            .map(|(prompt, given)| {
                let answers = 0..given.len();
                answers
                    .map(|answer| value(prompt, &|property| property.given[prompt][answer]))
                    .collect()
            })
            .collect(),
        samples: samples
            .map(|(sample, &prompt)| value(prompt, &|property| property.samples[sample]))
            .collect(),
    })
}
