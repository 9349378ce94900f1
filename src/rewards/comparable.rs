//! Rewards made comparable across prompts, wherever rewards are read: one transform of one reward, or the sum that means
//! that several properties hold together.

use std::fmt;
use std::str::FromStr;

use super::transform::{ENOUGH_SAMPLES, Prompt, Reference, Transform, all_good, references};
use crate::error::{Error, Result};

/// The transform of rewards.
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

/// The choice of a configuration's section by its keys `transform` and `reference`; `None` where there is no transform.
///
/// # Errors
/// A transform or a reference that does not exist.
pub fn configured(
    section: &str,
    transform: Option<&str>,
    reference: &str,
) -> Result<Option<(Choice, Reference)>> {
    let Some(transform) = transform else {
        return Ok(None);
    };
    let bad = |key: &str, value: &str, problem: String| {
        Error::config(format!("`{section}.{key} = \"{value}\"`: {problem}"))
    };
    let choice = transform
        .parse()
        .map_err(|problem| bad("transform", transform, problem))?;
    let reference = reference
        .parse()
        .map_err(|problem| bad("reference", reference, problem))?;
    Ok(Some((choice, reference)))
}

/// One quantity of answers that every prompt has, and of samples of one prompt each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Property {
    /// `[prompt][answer]`; their mean is what [`Reference::Canonical`] takes.
    pub given: Vec<Vec<f64>>,
    /// `[sample]`.
    pub samples: Vec<f64>,
}

/// The answers that a prompt's samples are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// The samples themselves.
    Samples,
    /// The given answers, as those of the untuned model: a sample is compared with them and not with its like.
    Given,
}

impl Property {
    /// The known values of each prompt, in units of `tau`.
    fn prompts(&self, baseline: Baseline, prompt_of: &[usize], tau: f64) -> Vec<Prompt> {
        let mean = |given: &Vec<f64>| given.iter().sum::<f64>() / given.len() as f64 / tau;
        let mut prompts: Vec<Prompt> = self
            .given
            .iter()
            .map(|given| Prompt {
                samples: match baseline {
                    Baseline::Samples => Vec::new(),
                    Baseline::Given => given.iter().map(|reward| reward / tau).collect(),
                },
                canonical: (!given.is_empty()).then(|| mean(given)),
            })
            .collect();
        if baseline == Baseline::Samples {
            for (&reward, &prompt) in self.samples.iter().zip(prompt_of) {
                prompts[prompt].samples.push(reward / tau);
            }
        }
        prompts
    }
}

/// The transformed rewards, of properties that are alike in form: of the first alone, or of all for [`Choice::And`].
///
/// `prompt_of` `[sample]` are the samples' prompts; `tau` is the difference that counts as 1, by which all rewards are
/// divided first; `baseline` says what reference values are made of.
///
/// # Errors
/// See [`references`].
///
/// # Panics
/// Without a property.
pub fn comparable(
    choice: Choice,
    reference: Reference,
    baseline: Baseline,
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
        .map(|property| property.prompts(baseline, prompt_of, tau))
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

/// The transformed rewards of answers, `[prompt][answer]`, from `[prompt][answer][property]`.
///
/// With a `baseline` of the same form, as of the untuned model's answers to the same prompts, rewards are compared with
/// it, and not with those of the prompt's other answers; [`Reference::Canonical`] needs one.
///
/// # Errors
/// See [`references`].
pub fn of_answers(
    choice: Choice,
    reference: Reference,
    rewards: &[Vec<Vec<f64>>],
    baseline: Option<&[Vec<Vec<f64>>]>,
    tau: f64,
) -> Result<Vec<Vec<f64>>> {
    let count = rewards.iter().flatten().map(Vec::len).max().unwrap_or(0);
    let given = |place: usize| match baseline {
        Some(baseline) => baseline
            .iter()
            .map(|answers| answers.iter().map(|all| all[place]).collect())
            .collect(),
        None => vec![Vec::new(); rewards.len()],
    };
    let properties: Vec<Property> = (0..count)
        .map(|place| Property {
            given: given(place),
            samples: rewards.iter().flatten().map(|all| all[place]).collect(),
        })
        .collect();
    let properties: Vec<&Property> = properties.iter().collect();
    let prompt_of = rewards.iter().enumerate();
    let prompt_of = prompt_of.flat_map(|(prompt, answers)| vec![prompt; answers.len()]);
    let prompt_of: Vec<usize> = prompt_of.collect();
    let from = match baseline {
        Some(_) => Baseline::Given,
        None => Baseline::Samples,
    };
    let all = comparable(choice, reference, from, &properties, &prompt_of, tau)?;
    let mut values = all.samples.into_iter();
    let of_prompt = |answers: &Vec<Vec<f64>>| values.by_ref().take(answers.len()).collect();
    Ok(rewards.iter().map(of_prompt).collect())
}
