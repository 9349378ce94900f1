//! The work of a run on images, in pieces that are counted: of one subject, or of pairs of images.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::parts::validations;
use crate::config::{
    AdapterSection, ModelSection, ObjectiveKind, PairsConfig, SamplerSection, SubjectConfig,
    TrainSection,
};
use crate::data::photo;
use crate::error::Result;
use crate::jobs::pairs::data::{PairInputs, preview_prompts};
use crate::jobs::prompts::{RunPrompts, SubjectPrompts};
use crate::trainer::subject::base_forwards;

/// The settings of a run's size, from either kind of configuration.
pub(crate) struct ImageRun<'a> {
    pub(crate) model: &'a ModelSection,
    pub(crate) adapter: &'a AdapterSection,
    pub(crate) train: &'a TrainSection,
    pub(crate) sampler: &'a SamplerSection,
    /// Folder of the reward encoder, where images are scored.
    pub(crate) reward: Option<&'a Path>,
    /// Samples in a training step's pass.
    pub(crate) samples: i64,
    /// The base model stays beside one of which all weights are trained.
    pub(crate) frozen_copy: bool,
    /// Encoded images and prompts stay in the computer's memory.
    pub(crate) encoded_on_host: bool,
}

impl<'a> ImageRun<'a> {
    /// Of a run on one subject: a step's pass sees photos, and as many generated images where the objective has them.
    pub(crate) fn subject(config: &'a SubjectConfig) -> Self {
        let objective = &config.objective;
        let rpo = objective.kind == ObjectiveKind::Rpo;
        let has_generated = rpo || objective.prior_weight > 0.0;
        let preserves = objective.dop_weight > 0.0;
        // Photos, generated images, and photos again under the class word.
        let sides = 1 + usize::from(has_generated) + usize::from(preserves);
        Self {
            model: &config.model,
            adapter: &config.adapter,
            train: &config.train,
            sampler: &config.sampler,
            reward: Some(&config.reward.encoder),
            samples: (config.train.batch * sides) as i64,
            frozen_copy: preserves || rpo && objective.noise_bank == 0,
            encoded_on_host: false,
        }
    }

    /// Of a run on pairs of images: a step's pass sees both images of a pair.
    pub(crate) fn pairs(config: &'a PairsConfig, inputs: &PairInputs) -> Self {
        Self {
            model: &config.model,
            adapter: &config.adapter,
            train: &config.train,
            sampler: &config.sampler,
            reward: None,
            samples: 2 * config.train.batch as i64,
            frozen_copy: inputs.objective.needs_reference(),
            encoded_on_host: true,
        }
    }

    /// Passes of the policy, by image, in so many steps.
    pub(crate) fn policy_forwards(&self, steps: u64) -> u64 {
        steps * self.train.accumulation as u64 * self.samples as u64
    }
}

/// The work of a run, in pieces that are counted.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Work {
    /// Images that are sampled before training.
    pub(crate) negatives: u64,
    /// Validations, the one of the untuned model included, where nothing stops the run early.
    pub(crate) validations: u64,
    /// Images that are sampled at one of them.
    pub(crate) validation_images: u64,
    /// As the manifest of the run counts them.
    pub(crate) unet_forwards_sampling: u64,
    /// Those of policy and base model in steps, and in validations on pairs.
    pub(crate) unet_forwards_training: u64,
    /// Those among them of the base model in steps, or before them.
    pub(crate) base_forwards: u64,
    /// Those among them of validations.
    pub(crate) validation_forwards: u64,
    /// Photos, negatives and validation images.
    pub(crate) reward_image_encodes: u64,
    /// Images that are encoded to latents.
    pub(crate) vae_encodes: u64,
    /// Prompts that are encoded.
    pub(crate) prompts: u64,
}

impl Work {
    /// Of a run on one subject.
    pub(crate) fn subject(config: &SubjectConfig, run: &ImageRun) -> Result<Self> {
        let words = SubjectPrompts::new(&config.subject)?;
        let prompts = RunPrompts::new(config, &words)?;
        let photos = words.subject.photos.len() as u64;
        let (sampled, negatives) = match &config.negatives.folder {
            Some(folder) if !prompts.negatives.is_empty() => (0, photo::list(folder)?.len() as u64),
            _ => {
                let count = (prompts.negatives.len() * config.negatives.per_prompt) as u64;
                (count, count)
            }
        };
        let validations = validations(config.validation.every, config.train.steps);
        let preserved = u64::from(config.objective.dop_weight > 0.0);
        let class_alone = prompts.class_alone(config);
        let validated = prompts.validation.len() + class_alone.len();
        let validation_images = (validated * config.validation.images_per_prompt) as u64;
        let rpo = config.objective.kind == ObjectiveKind::Rpo;
        let (labelled, mut base_forwards) = if rpo {
            let images = [photos, negatives].map(|count| count as usize);
            (negatives, base_forwards(config, images))
        } else {
            (0, 0)
        };
        let steps = config.train.steps * config.train.accumulation as u64;
        base_forwards += preserved * steps * config.train.batch as u64;
        Ok(Self {
            negatives: sampled,
            validations,
            validation_images,
            unet_forwards_sampling: sampling_forwards(
                &config.sampler,
                sampled + validations * validation_images,
            ),
            unet_forwards_training: run.policy_forwards(config.train.steps) + base_forwards,
            base_forwards,
            validation_forwards: 0,
            reward_image_encodes: photos + labelled + validations * validation_images,
            vae_encodes: photos + negatives,
            // That of the photos, where it is held also with the class word alone, and the empty one.
            prompts: (prompts.negatives.len() + validated) as u64 + 2 + preserved,
        })
    }

    /// Of a run on pairs; those that turn out to be of equal pictures are counted too.
    pub(crate) fn pairs(config: &PairsConfig, inputs: &PairInputs, run: &ImageRun) -> Result<Self> {
        let objective = &inputs.objective;
        let held_out = inputs.held_out.len() * config.denoising.validation_draws;
        let validations = validations(config.validation.every, config.train.steps);
        // Of the base model once, where it need not answer anew.
        let base = match (objective.needs_reference(), objective.needs_token_kl()) {
            (false, _) => 0,
            (true, true) => validations,
            (true, false) => validations.min(1),
        };
        let validation_forwards = 2 * held_out as u64 * (validations + base);
        let policy = run.policy_forwards(config.train.steps);
        let base_forwards = if objective.needs_reference() {
            policy
        } else {
            0
        };
        let previews = preview_prompts(config)?.len();
        let validation_images = (previews * config.preview.images_per_prompt) as u64;
        Ok(Self {
            validations,
            validation_images,
            unet_forwards_sampling: sampling_forwards(
                &config.sampler,
                validations * validation_images,
            ),
            unet_forwards_training: policy + base_forwards + validation_forwards,
            base_forwards,
            validation_forwards,
            vae_encodes: inputs.images.sources.len() as u64,
            // Those of previews, and the empty one twice.
            prompts: (inputs.images.prompts.len() + previews) as u64 + 2,
            ..Self::default()
        })
    }

    /// Passes of the base model for each of the policy's in a step.
    pub(crate) fn base_share(&self) -> f64 {
        let both = self.unet_forwards_training - self.validation_forwards;
        self.base_forwards as f64 / (both - self.base_forwards).max(1) as f64
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} images encoded, {} sampled before training, {} validations of {} images; U-Net passes: {} sampling, {} training",
            self.vae_encodes,
            self.negatives,
            self.validations,
            self.validation_images,
            self.unet_forwards_sampling,
            self.unet_forwards_training
        )
    }
}

/// With guidance, with the prompt and without it.
pub(crate) fn passes_of_step(sampler: &SamplerSection) -> u64 {
    if sampler.guidance > 1.0 { 2 } else { 1 }
}

fn sampling_forwards(sampler: &SamplerSection, images: u64) -> u64 {
    images * sampler.steps as u64 * passes_of_step(sampler)
}
