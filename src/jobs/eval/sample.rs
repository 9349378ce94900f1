//! The images of a run or of its base model: those that are there, and the rest sampled.

use std::path::{Path, PathBuf};

use tch::{Device, Kind};

use super::plan::EvalPlan;
use crate::error::{Error, Result};
use crate::jobs::Display;
use crate::jobs::open::image::{Beside, base_of, open, open_checkpoint};
use crate::jobs::policy::diffusion::VAE;
use crate::models::diffusion::pipeline::{Pipeline, Request, SampleSettings, to_rgb};
use crate::run::checkpoint::weights_at;
use crate::run::evaluation::{self, EvaluationImage};

/// Refuses a guidance that pushes away from the prompt or nowhere.
pub(super) fn check_guidance(guidance: f64) -> Result<()> {
    if guidance.is_finite() && guidance >= 1.0 {
        Ok(())
    } else {
        Err(Error::config("`--guidance` must be 1 or more"))
    }
}

/// The model that draws.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Model {
    Tuned,
    Base,
}

/// Samples images and counts what it does.
pub(super) struct Sampling {
    device: Device,
    kind: Kind,
    pub(super) sampled: u64,
    pub(super) reused: u64,
    pub(super) sample_forwards: u64,
}

impl Sampling {
    pub(super) fn new(device: Device, kind: Kind) -> Self {
        Self {
            device,
            kind,
            sampled: 0,
            reused: 0,
            sample_forwards: 0,
        }
    }

    /// The words that name all that decides an image beside prompt and seed.
    ///
    /// A size that is not stated is the base model's own, which its hash decides.
    pub(super) fn origin(&self, plan: &EvalPlan, model: Model) -> String {
        let base = &plan.manifest.base_unet_sha256;
        let weights = match model {
            Model::Tuned => format!("weights {} on {base}", plan.weights_sha256),
            Model::Base => format!("weights {base}"),
        };
        let drawing = &plan.drawing;
        let size = drawing
            .size
            .map_or_else(|| "own size".to_owned(), |side| format!("{side} pixels"));
        let sampler = drawing.sampler.name();
        let vae = plan.manifest.record.inputs.get(VAE);
        let vae = vae.map_or_else(String::new, |hash| format!(", VAE {hash}"));
        format!(
            "{weights}{vae}, {sampler}, {} steps, guidance {}, {size}, {:?}",
            drawing.steps, drawing.guidance, self.kind
        )
    }

    /// Files of the images of prompts below `folder`, prompt by prompt; what is missing is sampled.
    pub(super) fn images(
        &mut self,
        plan: &EvalPlan,
        model: Model,
        (folder, prompts): (&Path, &[String]),
        display: &mut dyn Display,
    ) -> Result<Vec<PathBuf>> {
        let origin = self.origin(plan, model);
        let (each, seed) = (plan.drawing.per_prompt, plan.drawing.seed);
        let images = evaluation::plan(folder, prompts, each, seed);
        let mut missing = Vec::new();
        for image in &images {
            if !image.is_there(&origin)? {
                missing.push(image);
            }
        }
        self.reused += (images.len() - missing.len()) as u64;
        if !missing.is_empty() {
            if missing.len() < images.len() {
                let there = images.len() - missing.len();
                display.say(&format!(
                    "{there} of {} images are there already",
                    images.len()
                ));
            }
            self.sample(plan, model, (prompts, &missing), &origin, display)?;
        }
        Ok(images.into_iter().map(|image| image.path).collect())
    }

    fn sample(
        &mut self,
        plan: &EvalPlan,
        model: Model,
        (prompts, missing): (&[String], &[&EvaluationImage]),
        origin: &str,
        display: &mut dyn Display,
    ) -> Result<()> {
        let pipeline = self.open(plan, model)?;
        let drawing = &plan.drawing;
        let [height, width] = drawing
            .size
            .map_or_else(|| pipeline.native_size(), |side| [side, side]);
        pipeline.check_size(width, height)?;
        if model == Model::Tuned {
            for note in pipeline.prompt_notes(prompts)? {
                display.say(&format!("warning: {note}"));
            }
        }
        let settings = SampleSettings {
            sampler: drawing.sampler.into(),
            steps: drawing.steps,
            guidance: drawing.guidance,
            width,
            height,
            batch: drawing.batch,
        };
        let text = pipeline.encode_prompts(prompts, width, height)?;
        let negative = pipeline.encode_negative(&[String::new()], width, height)?;
        let requests: Vec<Request> = missing
            .iter()
            .map(|image| Request {
                row: image.row as i64,
                seed: image.seed,
            })
            .collect();
        let phase = if model == Model::Base {
            "denoising steps of base images"
        } else {
            "denoising steps of images"
        };
        let mut advance = |done, total| {
            display.advance(phase, done, total);
            Ok(())
        };
        pipeline.sample(
            &text,
            &negative,
            &requests,
            &settings,
            &mut advance,
            |index, image| missing[index].store(&to_rgb(&image), origin),
        )?;
        self.sampled += missing.len() as u64;
        self.sample_forwards += pipeline.sample_forwards();
        Ok(())
    }

    fn open(&self, plan: &EvalPlan, model: Model) -> Result<Pipeline> {
        let variant = plan.config.model.variant.as_deref();
        let (device, kind) = (self.device, self.kind);
        // Both are seen through the run's autoencoder.
        let beside = Beside {
            vae: plan.manifest.vae.as_deref(),
            variant,
            ..Beside::default()
        };
        Ok(match (model, plan.step) {
            (Model::Base, _) => {
                let base = base_of(&plan.manifest.base_model, &plan.run)?;
                open(&base, &beside, device, kind)?.pipeline
            }
            (Model::Tuned, None) => open(&plan.run, &beside, device, kind)?.pipeline,
            (Model::Tuned, Some(step)) => {
                let weights = weights_at(&plan.run, step)?;
                open_checkpoint(&plan.run, &weights, None, device, kind)?
            }
        })
    }
}
