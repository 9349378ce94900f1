//! Before the first step: every image and prompt is encoded once, every pair gets its label.

use std::rc::Rc;

use image::RgbImage;
use tch::{Device, Tensor};

use super::validate::Judge;
use super::{SubjectTask, conditioning};
use crate::config::{ObjectiveKind, ObjectiveSection, SubjectConfig};
use crate::data::prompts::strip_token;
use crate::distributed::Share;
use crate::error::Result;
use crate::models::diffusion::Conditioning;
use crate::models::diffusion::pipeline::{Pipeline, SampleSettings};
use crate::models::encoders::DualEncoder;
use crate::rewards::bradley_terry::{Statistics, probability, statistics};
use crate::rewards::comparable::configured;
use crate::rewards::subject::{Features, PhotoRewards, Weighing};
use crate::trainer::denoising::{Reference, moments, rows};
use crate::trainer::event::Sample;

/// The images and prompts of a run.
pub struct Inputs {
    /// The subject's photos, as loaded: the reward encoder crops them its own way.
    pub photos: Vec<RgbImage>,
    /// The photos at the training resolution.
    pub squares: Vec<RgbImage>,
    /// The prompt under which the photos are learnt.
    pub photo_prompt: String,
    /// That prompt with the class word alone.
    pub photo_class_prompt: String,
    /// The generated images with their prompts; empty where the objective needs none.
    pub generated: Vec<Sample>,
    /// Held-out prompts on which the reward is measured.
    pub validation_prompts: Vec<String>,
    /// The subject's token, which the reward encoder does not get to see.
    pub token: String,
}

/// Images as latent posteriors, with the conditioning of each.
pub(super) struct LatentPool {
    /// Mean and standard deviation of the unscaled latents, `[n, 2c, h, w]`.
    moments: Tensor,
    /// Distinct prompts.
    conditioning: Conditioning,
    /// Row of each image's prompt.
    prompt_rows: Vec<i64>,
}

impl LatentPool {
    fn encode(
        pipeline: &Pipeline,
        images: &[RgbImage],
        prompts: Conditioning,
        prompt_rows: Vec<i64>,
    ) -> Self {
        Self {
            moments: moments(pipeline, images),
            conditioning: prompts,
            prompt_rows,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.prompt_rows.len()
    }

    pub(super) fn device(&self) -> Device {
        self.moments.device()
    }

    /// Means and standard deviations of some images, `[b, 2c, h, w]`.
    pub(super) fn latents(&self, indices: &[i64]) -> Tensor {
        self.moments.index_select(0, &rows(indices, self.device()))
    }

    /// Conditioning of some images.
    pub(super) fn conditioning(&self, indices: &[i64]) -> Conditioning {
        let prompt_rows: Vec<i64> = indices
            .iter()
            .map(|&index| self.prompt_rows[index as usize])
            .collect();
        self.conditioning.select(&rows(&prompt_rows, self.device()))
    }
}

/// Bradley-Terry probabilities that a photo is preferred to a generated image under the latter's prompt.
pub(super) struct PairLabels {
    /// `[photos x generated]`, row by row.
    probabilities: Vec<f64>,
    generated: usize,
    pub(super) statistics: Statistics,
}

impl PairLabels {
    pub(super) fn probability(&self, photo: i64, generated: i64) -> f64 {
        self.probabilities[photo as usize * self.generated + generated as usize]
    }
}

/// The prompts in order of first appearance and, for each image, the row of its prompt.
fn distinct(prompts: impl Iterator<Item = String>) -> (Vec<String>, Vec<i64>) {
    let mut known: Vec<String> = Vec::new();
    let rows = prompts
        .map(|prompt| {
            let row = known.iter().position(|other| *other == prompt);
            row.unwrap_or_else(|| {
                known.push(prompt);
                known.len() - 1
            }) as i64
        })
        .collect();
    (known, rows)
}

pub(super) fn prepare(
    pipeline: Pipeline,
    reference: Option<Reference>,
    encoder: DualEncoder,
    config: &SubjectConfig,
    inputs: Inputs,
    settings: SampleSettings,
) -> Result<SubjectTask> {
    let Inputs {
        photos,
        squares,
        photo_prompt,
        photo_class_prompt,
        generated,
        validation_prompts,
        token,
    } = inputs;
    let photo_conditioning = conditioning(&pipeline, &[photo_prompt], &settings)?;
    let preserved = (config.objective.dop_weight > 0.0)
        .then(|| conditioning(&pipeline, &[photo_class_prompt], &settings))
        .transpose()?;
    let photo_rows = vec![0; squares.len()];
    let photo_pool = LatentPool::encode(&pipeline, &squares, photo_conditioning, photo_rows);

    let photo_features = encoder.encode_images(&photos)?;
    let (mut generated_pool, mut labels) = (None, None);
    if !generated.is_empty() {
        let (prompts, prompt_rows) = distinct(generated.iter().map(|sample| sample.prompt.clone()));
        let images: Vec<RgbImage> = generated.into_iter().map(|sample| sample.image).collect();
        if config.objective.kind == ObjectiveKind::Rpo {
            let stripped: Vec<String> = prompts
                .iter()
                .map(|prompt| strip_token(prompt, &token))
                .collect();
            let texts = encoder.encode_texts(&stripped)?;
            let features = encoder.encode_images(&images)?;
            let prompt_of: Vec<usize> = prompt_rows.iter().map(|&row| row as usize).collect();
            let features = Features {
                photos: &photo_features,
                images: &features,
                texts: &texts,
                prompt_of: &prompt_of,
            };
            labels = Some(label_pairs(&features, config)?);
        }
        let prompts = conditioning(&pipeline, &prompts, &settings)?;
        generated_pool = Some(LatentPool::encode(&pipeline, &images, prompts, prompt_rows));
    }

    let judge = Judge::new(
        &pipeline,
        Rc::new(encoder),
        photo_features,
        validation_prompts,
        &token,
        config,
        settings,
    )?;
    Ok(SubjectTask {
        pipeline,
        reference,
        bank: None,
        objective: config.objective.clone(),
        checkpoint_activations: config.train.checkpoint_activations,
        batch: config.train.batch,
        accumulation: config.train.accumulation as u64,
        seed: config.run.seed,
        photos: photo_pool,
        generated: generated_pool,
        preserved,
        labels,
        judge,
        share: Share::whole(),
        training_forwards: 0,
        profile: None,
    })
}

/// How a configuration makes labels of rewards.
///
/// # Errors
/// A transform or a reference that does not exist.
pub fn label_weighing(objective: &ObjectiveSection) -> Result<Weighing> {
    let transform = objective.transform.as_deref();
    Ok(Weighing {
        lambda: objective.lambda,
        tau: objective.tau,
        transform: configured("objective", transform, &objective.reference)?,
    })
}

/// Labels of all pairs: `P = sigmoid((r(photo, c) - r(generated, c)) / tau)` with c the generated image's prompt, of
/// rewards that are transformed where the configuration asks for it; these have been divided by tau before.
fn label_pairs(features: &Features, config: &SubjectConfig) -> Result<PairLabels> {
    let weighing = label_weighing(&config.objective)?;
    let rewards = PhotoRewards::new(features, &weighing)?;
    let (values, tau) = rewards.compared(&weighing);
    let photos = 0..features.photos.size()[0] as usize;
    let rewards: Vec<(f64, f64)> = photos
        .flat_map(|photo| {
            let samples = values.samples.iter().zip(features.prompt_of);
            samples.map(move |(&sample, &prompt)| (photo, prompt, sample))
        })
        .map(|(photo, prompt, sample)| (values.given[prompt][photo], sample))
        .collect();
    Ok(PairLabels {
        probabilities: rewards
            .iter()
            .map(|&(photo, generated)| probability(photo, generated, tau))
            .collect(),
        generated: values.samples.len(),
        statistics: statistics(&rewards, tau),
    })
}
