//! The images of a run or of its base model: those that are there, and the rest sampled.

use std::path::{Path, PathBuf};

use tch::{Device, Kind};

use super::super::model;
use super::super::progress::Progress;
use super::DreambenchArgs;
use super::plan::Plan;
use crate::error::Result;
use crate::models::diffusion::pipeline::{Request, SampleSettings, to_rgb};
use crate::run::evaluation::{self, EvaluationImage};

/// Which model draws.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Model {
    Tuned,
    Base,
}

/// Samples images and counts what it does.
pub(super) struct Sampling<'a> {
    args: &'a DreambenchArgs,
    device: Device,
    kind: Kind,
    pub(super) sampled: u64,
    pub(super) reused: u64,
    pub(super) sample_forwards: u64,
}

impl<'a> Sampling<'a> {
    pub(super) fn new(args: &'a DreambenchArgs, device: Device, kind: Kind) -> Self {
        Self {
            args,
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
    pub(super) fn origin(&self, plan: &Plan, model: Model) -> String {
        let base = &plan.manifest.base_unet_sha256;
        let weights = match model {
            Model::Tuned => format!("weights {} on {base}", plan.weights_sha256),
            Model::Base => format!("weights {base}"),
        };
        let size = self
            .size(plan)
            .map_or_else(|| "own size".to_owned(), |side| format!("{side} pixels"));
        let sampler = self.args.sampler.name();
        format!(
            "{weights}, {sampler}, {} steps, guidance {}, {size}, {:?}",
            self.args.steps, self.args.guidance, self.kind
        )
    }

    fn size(&self, plan: &Plan) -> Option<i64> {
        self.args
            .size
            .or(plan.config.train.resolution)
            .map(i64::from)
    }

    /// Files of the images below `folder`, prompt by prompt; what is missing is sampled.
    pub(super) fn images(
        &mut self,
        plan: &Plan,
        model: Model,
        folder: &Path,
        progress: &mut Progress,
    ) -> Result<Vec<PathBuf>> {
        let origin = self.origin(plan, model);
        let each = self.args.images_per_prompt as usize;
        let images = evaluation::plan(folder, &plan.prompts, each, self.args.seed);
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
                progress.say(&format!(
                    "{there} of {} images are there already",
                    images.len()
                ));
            }
            self.sample(plan, model, &missing, &origin, progress)?;
        }
        Ok(images.into_iter().map(|image| image.path).collect())
    }

    fn sample(
        &mut self,
        plan: &Plan,
        model: Model,
        missing: &[&EvaluationImage],
        origin: &str,
        progress: &mut Progress,
    ) -> Result<()> {
        let variant = plan.config.model.variant.as_deref();
        let loaded = match model {
            Model::Tuned => model::open(&plan.run, None, variant, self.device, self.kind)?,
            Model::Base => {
                let base = model::base_of(&plan.manifest, &plan.run)?;
                model::open(&base, None, variant, self.device, self.kind)?
            }
        };
        let pipeline = &loaded.pipeline;
        let [height, width] = self
            .size(plan)
            .map_or_else(|| pipeline.native_size(), |side| [side, side]);
        pipeline.check_size(width, height)?;
        if model == Model::Tuned {
            for (index, lost) in pipeline.truncations(&plan.prompts)? {
                progress.say(&format!(
                    "warning: the end of the prompt `{}` is beyond what the model reads: `{lost}`",
                    plan.prompts[index]
                ));
            }
        }
        let settings = SampleSettings {
            sampler: self.args.sampler.into(),
            steps: self.args.steps as usize,
            guidance: self.args.guidance,
            width,
            height,
            batch: self.args.batch as usize,
        };
        let text = pipeline.encode_prompts(&plan.prompts, width, height)?;
        let negative = pipeline.encode_negative(&[String::new()], width, height)?;
        let requests: Vec<Request> = missing
            .iter()
            .map(|image| Request {
                row: image.row as i64,
                seed: image.seed,
            })
            .collect();
        let phase = if model == Model::Base {
            "base images"
        } else {
            "images"
        };
        let go_on = || Ok(());
        pipeline.sample(
            &text,
            &negative,
            &requests,
            &settings,
            &go_on,
            |index, image| {
                missing[index].store(&to_rgb(&image), origin)?;
                progress.advance(phase, index as u64 + 1, missing.len() as u64);
                Ok(())
            },
        )?;
        self.sampled += missing.len() as u64;
        self.sample_forwards += pipeline.sample_forwards();
        Ok(())
    }
}
