//! Images of prompts that a run samples again and again, always from the same noise (common random numbers), to see how the
//! model changes.

use std::path::PathBuf;

use tch::Tensor;

use crate::error::{Error, Result};
use crate::models::diffusion::pipeline::{Pipeline, Request, SampleSettings, to_rgb};
use crate::models::diffusion::{Conditioning, Plan};
use crate::ops::random::derive_seed;
use crate::trainer::event::{Event, Observer, Sample};

/// Prompts with the noise that their images come from.
pub struct Preview {
    pub(super) prompts: Vec<String>,
    pub(super) requests: Vec<Request>,
    conditioning: Conditioning,
    negative: Conditioning,
    settings: SampleSettings,
}

/// The images of so many prompts, with the noise that all validations of a run have.
pub fn requests(prompts: usize, images_per_prompt: usize, seed: u64) -> Vec<Request> {
    (0..prompts * images_per_prompt)
        .map(|index| Request {
            row: (index / images_per_prompt) as i64,
            seed: derive_seed(seed, "validation", &[index as u64]) as u64,
        })
        .collect()
}

impl Preview {
    /// So many images of each prompt.
    ///
    /// # Errors
    /// A prompt that the text encoder does not take.
    pub fn new(
        pipeline: &Pipeline,
        prompts: Vec<String>,
        images_per_prompt: usize,
        seed: u64,
        settings: SampleSettings,
    ) -> Result<Self> {
        let SampleSettings { width, height, .. } = settings;
        // Before anything is trained: a setting of the scheduler that this sampler does not follow.
        Plan::new(&pipeline.schedule, settings.sampler, settings.steps)?;
        let requests = requests(prompts.len(), images_per_prompt, seed);
        Ok(Self {
            conditioning: pipeline.encode_prompts(&prompts, width, height)?,
            negative: pipeline.encode_negative(&[String::new()], width, height)?,
            prompts,
            requests,
            settings,
        })
    }

    /// Samples all images after `step` steps.
    ///
    /// # Errors
    /// The user interrupts.
    pub(super) fn sample(
        &self,
        pipeline: &Pipeline,
        step: u64,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Sample>> {
        let mut samples = Vec::with_capacity(self.requests.len());
        // The loop writes the checkpoint and says where it lies.
        let interrupted = || Error::Interrupted {
            step,
            checkpoint: PathBuf::new(),
        };
        let mut advance = |done, total| {
            observer.event(&Event::Progress {
                phase: "denoising steps of validation",
                done,
                total,
            })?;
            if observer.interrupted() {
                Err(interrupted())
            } else {
                Ok(())
            }
        };
        let take = |index: usize, image: Tensor| {
            let request = self.requests[index];
            let prompt = self.prompts[request.row as usize].clone();
            samples.push(Sample {
                prompt,
                seed: request.seed,
                image: to_rgb(&image),
            });
            Ok(())
        };
        pipeline.sample(
            &self.conditioning,
            &self.negative,
            &self.requests,
            &self.settings,
            &mut advance,
            take,
        )?;
        Ok(samples)
    }
}
