//! Images of prompts that a run samples again and again, always from the same noise (common random numbers), to see how the
//! model changes.

use std::path::PathBuf;

use image::RgbImage;
use tch::Tensor;

use crate::distributed::Peers;
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

    /// Samples all images after `step` steps: each process some of them, in the batches in which one would, and all get all.
    ///
    /// # Errors
    /// The user interrupts; another process has ended or does not answer.
    pub(super) fn sample(
        &self,
        pipeline: &Pipeline,
        peers: &Peers,
        step: u64,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Sample>> {
        let own = peers.deal(self.requests.len(), self.settings.batch);
        let requests: Vec<Request> = own.iter().map(|&index| self.requests[index]).collect();
        let mut images: Vec<Option<RgbImage>> = vec![None; self.requests.len()];
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
        let take = |place: usize, image: Tensor| {
            images[own[place]] = Some(to_rgb(&image));
            Ok(())
        };
        pipeline.sample(
            &self.conditioning,
            &self.negative,
            &requests,
            &self.settings,
            &mut advance,
            take,
        )?;
        let size = (self.settings.width as u32, self.settings.height as u32);
        let images = all_images(peers, images, size)?;
        let drawn = self.requests.iter().zip(images);
        let sample = |(request, image): (&Request, RgbImage)| Sample {
            prompt: self.prompts[request.row as usize].clone(),
            seed: request.seed,
            image,
        };
        Ok(drawn.map(sample).collect())
    }
}

/// Images of one size, each made by one process, which all have afterwards.
///
/// # Errors
/// Another process has ended or does not answer.
pub fn all_images(
    peers: &Peers,
    own: Vec<Option<RgbImage>>,
    (width, height): (u32, u32),
) -> Result<Vec<RgbImage>> {
    if peers.are_none() {
        return Ok(own.into_iter().flatten().collect());
    }
    let (count, size) = (own.len(), (3 * width * height) as usize);
    let mut bytes = vec![0_u8; count * size];
    for (image, place) in own.iter().zip(bytes.chunks_mut(size)) {
        if let Some(image) = image {
            place.copy_from_slice(image.as_raw());
        }
    }
    let all = Tensor::from_slice(&bytes);
    // Of every image all but one process have zeros.
    peers.sum(&all)?;
    all.copy_data_u8(&mut bytes, count * size);
    let image = |bytes: &[u8]| RgbImage::from_raw(width, height, bytes.to_vec());
    Ok(bytes.chunks(size).filter_map(image).collect())
}
