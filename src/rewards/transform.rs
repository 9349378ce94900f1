//! Rewards centred per prompt and saturated above what is good enough (Wang et al. 2024, "Transforming and Combining
//! Rewards for Aligning Large Language Models", arXiv 2402.00742), the sum that means "all of these", and the simpler
//! transforms that it is compared with. Plain numbers in, plain numbers out.

use std::fmt;
use std::str::FromStr;

use tch::Tensor;

use crate::error::{Error, Result};
use crate::ops::stable::{ln_sigmoid, sigmoid};
use crate::ops::statistics;

/// Samples of a prompt from which on its own reference value is trusted; see [`references`].
pub const ENOUGH_SAMPLES: usize = 8;

/// The value that a reward is compared with, one a prompt: the reward that is good enough.
///
/// As text: `mean`, `quantile:0.85`, `gaussian:0.85`, `fixed:0.5`, `canonical`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reference {
    /// Mean reward of the prompt's samples.
    Mean,
    /// Quantile of the samples, linear between neighbours. The paper's choice is .85.
    Quantile(f64),
    /// Quantile of a normal distribution with the samples' mean and (population) standard deviation: steadier than
    /// [`Quantile`](Self::Quantile) with few samples.
    Gaussian(f64),
    /// One value for all prompts.
    Fixed(f64),
    /// The reward of an answer to the prompt that is known to be acceptable.
    Canonical,
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = |name: &str, value: &str| match value.parse() {
            Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
            _ => Err(format!(
                "`{value}` in `{name}:{value}` is not between 0 and 1"
            )),
        };
        match text.split_once(':') {
            None if text == "mean" => Ok(Self::Mean),
            None if text == "canonical" => Ok(Self::Canonical),
            Some((name @ "quantile", value)) => share(name, value).map(Self::Quantile),
            Some((name @ "gaussian", value)) => share(name, value).map(Self::Gaussian),
            Some(("fixed", value)) => finite(value).map(Self::Fixed),
            _ => Err(
                "use `mean`, `quantile:0.85`, `gaussian:0.85`, `fixed:VALUE` or `canonical`"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mean => formatter.write_str("mean"),
            Self::Quantile(share) => write!(formatter, "quantile:{share}"),
            Self::Gaussian(share) => write!(formatter, "gaussian:{share}"),
            Self::Fixed(value) => write!(formatter, "fixed:{value}"),
            Self::Canonical => formatter.write_str("canonical"),
        }
    }
}

fn finite(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| format!("`{text}` is not a number"))
}

/// The known rewards of one prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// Rewards of answers that the untuned model gave, at least one.
    pub samples: Vec<f64>,
    /// Reward of an acceptable answer, for [`Reference::Canonical`].
    pub canonical: Option<f64>,
}

/// The reference value of every prompt.
///
/// With fewer than `enough` samples (see [`ENOUGH_SAMPLES`]; 0 for never), a value made of samples is pulled towards
/// the same quantity of all prompts' samples together: `w own + (1 - w) all` with `w = samples / enough`. Fixed and
/// canonical values stay as they are.
///
/// # Errors
/// A prompt without samples, without the canonical reward that is asked for, or with a value that is not finite.
pub fn references(choice: Reference, prompts: &[Prompt], enough: usize) -> Result<Vec<f64>> {
    for (index, prompt) in prompts.iter().enumerate() {
        let mut values = prompt.samples.iter().chain(&prompt.canonical);
        if values.any(|value| !value.is_finite()) {
            return Err(Error::config(format!(
                "a reward of prompt {index} is not finite"
            )));
        }
    }
    let own = |index: usize, prompt: &Prompt| match choice {
        Reference::Fixed(value) => Ok(value),
        Reference::Canonical => prompt.canonical.ok_or_else(|| {
            Error::config(format!(
                "prompt {index} has no canonical answer to compare with"
            ))
        }),
        Reference::Mean | Reference::Quantile(_) | Reference::Gaussian(_) => {
            of_samples(choice, &prompt.samples)
                .ok_or_else(|| Error::config(format!("prompt {index} has no samples")))
        }
    };
    let own = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| own(index, prompt));
    let own = own.collect::<Result<Vec<f64>>>()?;
    let pooled: Vec<f64> = prompts.iter().flat_map(|p| p.samples.clone()).collect();
    let Some(all) = of_samples(choice, &pooled) else {
        return Ok(own);
    };
    let shrunk = own.iter().zip(prompts).map(|(own, prompt)| {
        let weight = if prompt.samples.len() < enough {
            prompt.samples.len() as f64 / enough as f64
        } else {
            1.0
        };
        weight * own + (1.0 - weight) * all
    });
    Ok(shrunk.collect())
}

/// A value made of samples; `None` of no samples, and for choices that are not made of samples.
fn of_samples(choice: Reference, samples: &[f64]) -> Option<f64> {
    if samples.is_empty() {
        return None;
    }
    match choice {
        Reference::Mean => Some(mean(samples)),
        Reference::Quantile(share) => Some(quantile(samples, share)),
        Reference::Gaussian(share) => {
            Some(mean(samples) + normal_quantile(share) * deviation(samples))
        }
        Reference::Fixed(_) | Reference::Canonical => None,
    }
}

/// The transform of a reward before it is compared with others.
///
/// As text: `log-sigmoid`, `standardise`, `clip:LIMIT`, `par`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transform {
    /// [`log_sigmoid`]: the log-probability of being better than the reference.
    LogSigmoid,
    /// Distance from the mean of the prompt's samples in their (population) standard deviations; 0 where the samples
    /// do not differ. Takes no reference.
    Standardise,
    /// Distance from the reference, cut off at this limit on both sides.
    Clip(f64),
    /// Preference as reward (Fu et al. 2025, arXiv 2502.18770): mean probability of being better than each of the
    /// prompt's samples. Takes no reference.
    Par,
}

impl Transform {
    /// The transformed reward of an answer, given its prompt's reference value and samples.
    ///
    /// # Panics
    /// Without samples, where the transform takes them.
    pub fn apply(self, reward: f64, reference: f64, samples: &[f64]) -> f64 {
        let needed = matches!(self, Self::Standardise | Self::Par);
        assert!(!needed || !samples.is_empty(), "at least one sample");
        match self {
            Self::LogSigmoid => log_sigmoid(reward, reference),
            Self::Standardise => {
                let deviation = deviation(samples);
                if deviation > 0.0 {
                    (reward - mean(samples)) / deviation
                } else {
                    0.0
                }
            }
            Self::Clip(limit) => (reward - reference).clamp(-limit, limit),
            Self::Par => {
                let wins = samples.iter().map(|sample| sigmoid(reward - sample));
                wins.sum::<f64>() / samples.len() as f64
            }
        }
    }
}

impl FromStr for Transform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "log-sigmoid" => Ok(Self::LogSigmoid),
            None if text == "standardise" => Ok(Self::Standardise),
            None if text == "par" => Ok(Self::Par),
            Some(("clip", limit)) => match finite(limit)? {
                limit if limit > 0.0 => Ok(Self::Clip(limit)),
                limit => Err(format!("the limit {limit} is not above 0")),
            },
            _ => Err("use `log-sigmoid`, `standardise`, `clip:LIMIT` or `par`".to_owned()),
        }
    }
}

impl fmt::Display for Transform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LogSigmoid => formatter.write_str("log-sigmoid"),
            Self::Standardise => formatter.write_str("standardise"),
            Self::Clip(limit) => write!(formatter, "clip:{limit}"),
            Self::Par => formatter.write_str("par"),
        }
    }
}

/// `ln sigmoid(reward - reference)`: the log-probability, under Bradley-Terry, that an answer is better than one of
/// the reference value.
///
/// Its [slope](log_sigmoid_slope) is 1 far below the reference and 0 far above: what is poor is improved, what is
/// good is left alone, and a reward that is driven up without limit gains nothing.
pub fn log_sigmoid(reward: f64, reference: f64) -> f64 {
    ln_sigmoid(reward - reference)
}

/// Derivative of [`log_sigmoid`] with respect to the reward: `sigmoid(reference - reward)`.
pub fn log_sigmoid_slope(reward: f64, reference: f64) -> f64 {
    sigmoid(reference - reward)
}

/// The log-probability that an answer is good in every property, taken as independent: the sum of its
/// [`log_sigmoid`]s, from (reward, reference) a property.
///
/// A logical AND: unlike in a [sum of rewards](weighted_sum), more of one property makes up for little of another.
pub fn all_good(properties: &[(f64, f64)]) -> f64 {
    let each = properties.iter();
    each.map(|&(reward, reference)| log_sigmoid(reward, reference))
        .sum()
}

/// The plain combination, from (reward, weight) a property.
pub fn weighted_sum(properties: &[(f64, f64)]) -> f64 {
    properties
        .iter()
        .map(|(reward, weight)| reward * weight)
        .sum()
}

/// The policy that rewards ask for: `base exp(reward / gamma)`, normalised, over answers with probabilities `base`
/// under the untuned model. It maximises the expected reward less `gamma` times the divergence from the base.
///
/// # Panics
/// Where the lengths differ.
pub fn optimal_policy(base: &[f64], rewards: &[f64], gamma: f64) -> Vec<f64> {
    assert_eq!(base.len(), rewards.len(), "one reward for each answer");
    let greatest = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let pairs = base.iter().zip(rewards);
    let weights: Vec<f64> = pairs
        .map(|(base, reward)| base * ((reward - greatest) / gamma).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Population standard deviation.
fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares = values.iter().map(|value| (value - mean).powi(2));
    (squares.sum::<f64>() / values.len() as f64).sqrt()
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    statistics::quantile(&sorted, share)
}

/// The value below which this share of a standard normal distribution lies.
fn normal_quantile(share: f64) -> f64 {
    Tensor::from(share).special_ndtri().double_value(&[])
}
