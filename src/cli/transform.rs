//! `--transform` and `--reference`: rewards made comparable across prompts before they are compared.

use std::fmt;
use std::str::FromStr;

use clap::Args;

use super::candidates::Candidates;
use crate::error::Result;
use crate::rewards::transform::{
    ENOUGH_SAMPLES, Prompt, Reference, Transform, all_good, references,
};

#[derive(Args)]
pub(super) struct TransformArgs {
    /// What is done to rewards: `log-sigmoid` (log-probability of being better than the prompt's reference value),
    /// `and` (the sum of the log-sigmoids of likeness and alignment; takes no lambda), `standardise`, `clip:LIMIT`
    /// (distance from the reference value) or `par` (mean probability of being better than the prompt's images).
    #[arg(long, value_name = "KIND")]
    transform: Option<Choice>,
    /// The reference value of a prompt, from the rewards of its images: `mean`, `quantile:Q`, `gaussian:Q`; or
    /// `fixed:VALUE` (a reward divided by tau), or `canonical`, the mean reward of the photos. With fewer than 8 images of a
    /// prompt, it is pulled towards that of all images.
    #[arg(long, value_name = "KIND", requires = "transform")]
    #[arg(default_value = "quantile:0.85", allow_hyphen_values = true)]
    reference: Reference,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Choice {
    /// Of one reward.
    One(Transform),
    /// Of likeness and alignment together.
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

/// One quantity of all photos and images.
pub(super) struct Property {
    /// `[text][photo]`
    pub(super) photos: Vec<Vec<f64>>,
    /// `[image]`
    pub(super) images: Vec<f64>,
}

impl TransformArgs {
    /// Whether likeness and alignment are taken one by one.
    pub(super) fn takes_parts(&self) -> bool {
        self.transform == Some(Choice::And)
    }

    /// The transformed reward; `None` where no transform is asked for.
    ///
    /// `reward` is the reward of both sides, `parts` are likeness and alignment; `tau` is the difference that counts
    /// as 1, by which all of them are divided first.
    pub(super) fn apply(
        &self,
        reward: &Property,
        parts: [&Property; 2],
        tau: f64,
        candidates: &Candidates,
    ) -> Result<Option<Property>> {
        let Some(choice) = self.transform else {
            return Ok(None);
        };
        let properties = match choice {
            Choice::One(_) => vec![reward],
            Choice::And => parts.to_vec(),
        };
        let prompts: Vec<Vec<Prompt>> = properties
            .iter()
            .map(|property| property.prompts(tau, candidates))
            .collect();
        let references = prompts
            .iter()
            .map(|prompts| references(self.reference, prompts, ENOUGH_SAMPLES))
            .collect::<Result<Vec<_>>>()?;
        let value = |text: usize, reward_of: &dyn Fn(&Property) -> f64| match choice {
            Choice::One(transform) => transform.apply(
                reward_of(reward) / tau,
                references[0][text],
                &prompts[0][text].samples,
            ),
            Choice::And => {
                let pairs = properties.iter().zip(&references);
                let pairs = pairs.map(|(part, values)| (reward_of(part) / tau, values[text]));
                all_good(&pairs.collect::<Vec<_>>())
            }
        };
        let photos = (0..candidates.texts.len()).map(|text| {
            let photos = 0..candidates.references.len();
            photos
                .map(|photo| value(text, &|property| property.photos[text][photo]))
                .collect()
        });
        let images = candidates.text_of.iter().enumerate();
        Ok(Some(Property {
            photos: photos.collect(),
            images: images
                .map(|(image, &text)| value(text, &|property| property.images[image]))
                .collect(),
        }))
    }

    /// The choices as they are written, for records: transform and reference.
    pub(super) fn names(&self) -> Option<(String, String)> {
        Some((self.transform?.to_string(), self.reference.to_string()))
    }
}

impl Property {
    /// The rewards of each prompt's images, and the mean of the photos as the acceptable answer, all in units of
    /// `tau`.
    fn prompts(&self, tau: f64, candidates: &Candidates) -> Vec<Prompt> {
        let canonical = |photos: &Vec<f64>| photos.iter().sum::<f64>() / photos.len() as f64 / tau;
        let mut prompts: Vec<Prompt> = self
            .photos
            .iter()
            .map(|photos| Prompt {
                samples: Vec::new(),
                canonical: Some(canonical(photos)),
            })
            .collect();
        for (&reward, &text) in self.images.iter().zip(&candidates.text_of) {
            prompts[text].samples.push(reward / tau);
        }
        prompts
    }
}
