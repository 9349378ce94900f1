//! Before the first step: every image and prompt is encoded once, every pair gets its label.

use image::RgbImage;
use tch::{Device, Tensor};

use super::validate::Judge;
use super::{ImageTask, conditioning};
use crate::config::{ImageConfig, ObjectiveKind, ObjectiveSection};
use crate::data::prompts::strip_token;
use crate::error::Result;
use crate::models::diffusion::Conditioning;
use crate::models::diffusion::pipeline::{Pipeline, SampleSettings};
use crate::models::encoders::DualEncoder;
use crate::rewards::bradley_terry::{Statistics, probability, statistics};
use crate::rewards::comparable::{Baseline, Choice, Property, comparable, configured};
use crate::rewards::harmonic::{image_similarity, lambda_harmonic, text_similarity, unit};
use crate::rewards::oracle::leave_one_out;
use crate::rewards::transform::Reference as ValueReference;
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
    config: &ImageConfig,
    inputs: Inputs,
    settings: SampleSettings,
) -> Result<ImageTask> {
    let Inputs {
        photos,
        squares,
        photo_prompt,
        generated,
        validation_prompts,
        token,
    } = inputs;
    let photo_conditioning = conditioning(&pipeline, &[photo_prompt], &settings)?;
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
            let seen = Seen {
                photos: &photo_features,
                generated: &features,
                texts: &texts,
                prompt_of: &prompt_of,
            };
            labels = Some(label_pairs(&seen, config)?);
        }
        let prompts = conditioning(&pipeline, &prompts, &settings)?;
        generated_pool = Some(LatentPool::encode(&pipeline, &images, prompts, prompt_rows));
    }

    let judge = Judge::new(
        &pipeline,
        encoder,
        photo_features,
        validation_prompts,
        &token,
        config,
        settings,
    )?;
    Ok(ImageTask {
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
        labels,
        judge,
        training_forwards: 0,
        profile: None,
        counts_before: Vec::new(),
    })
}

/// What the reward encoder sees of photos and generated images.
struct Seen<'a> {
    /// `[r, d]`
    photos: &'a Tensor,
    /// `[n, d]`
    generated: &'a Tensor,
    /// Of the different prompts, `[t, d]`.
    texts: &'a Tensor,
    /// The prompt of each generated image.
    prompt_of: &'a [usize],
}

/// What a configuration does to rewards before they become labels; `None` where it asks for nothing.
///
/// # Errors
/// A transform or a reference that does not exist.
pub fn label_transform(objective: &ObjectiveSection) -> Result<Option<(Choice, ValueReference)>> {
    configured(
        "objective",
        objective.transform.as_deref(),
        &objective.reference,
    )
}

/// Labels of all pairs: `P = sigmoid((r(photo, c) - r(generated, c)) / tau)` with c the generated image's prompt, of
/// rewards that are transformed where the configuration asks for it; these have been divided by tau before.
///
/// A photo's own image similarity is its leave-one-out mean: with itself among the references it would count a
/// cosine of 1. A single photo has no other and gets the full similarity.
fn label_pairs(seen: &Seen, config: &ImageConfig) -> Result<PairLabels> {
    let Seen {
        photos,
        generated,
        texts,
        prompt_of,
    } = *seen;
    let (lambda, tau) = (config.objective.lambda, config.objective.tau);
    let own = leave_one_out(photos).unwrap_or_else(|| vec![1.0; photos.size()[0] as usize]);
    let own: Vec<f64> = own.into_iter().map(unit).collect();
    let count = texts.size()[0];
    let of_photos = (0..count).map(|text| text_similarity(photos, &texts.narrow(0, text, 1)));
    let text_rows: Vec<i64> = prompt_of.iter().map(|&row| row as i64).collect();
    let own_texts = texts.index_select(0, &rows(&text_rows, texts.device())); // [n, d]
    let likeness = Property {
        given: vec![own; count as usize],
        samples: image_similarity(generated, photos),
    };
    let alignment = Property {
        given: of_photos.collect(),
        samples: text_similarity(generated, &own_texts),
    };
    let both = |images: &[f64], texts: &[f64]| -> Vec<f64> {
        let pairs = images.iter().zip(texts);
        pairs
            .map(|(&image, &text)| lambda_harmonic(image, text, lambda))
            .collect()
    };
    let given = likeness.given.iter().zip(&alignment.given);
    let plain = Property {
        given: given.map(|(images, texts)| both(images, texts)).collect(),
        samples: both(&likeness.samples, &alignment.samples),
    };
    let (values, tau) = match label_transform(&config.objective)? {
        None => (plain, tau),
        Some((choice, reference)) => {
            let properties = match choice {
                Choice::One(_) => vec![&plain],
                Choice::And => vec![&likeness, &alignment],
            };
            let values = comparable(
                choice,
                reference,
                Baseline::Samples,
                &properties,
                prompt_of,
                tau,
            )?;
            (values, 1.0)
        }
    };
    let photos = 0..photos.size()[0] as usize;
    let rewards: Vec<(f64, f64)> = photos
        .flat_map(|photo| {
            let samples = values.samples.iter().zip(prompt_of);
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
