//! Images as latents and prompts as conditioning, each encoded once. They stay in the computer's memory and go to the device
//! a batch at a time: an image at 512 pixels takes 128 KiB.

use tch::{Device, Tensor};

use crate::error::Result;
use crate::models::diffusion::Conditioning;
use crate::models::diffusion::pipeline::Pipeline;
use crate::ops::transfer::upload;
use crate::trainer::denoising::rows;

/// Prompts that are encoded at a time.
const PROMPTS_TOGETHER: usize = 64;

/// All images and prompts of a run on pairs.
pub struct Latents {
    /// Means and standard deviations of the unscaled latents, `[n, 2c, h, w]`, on the CPU.
    moments: Tensor,
    /// Of the different prompts, then of the empty one, on the CPU.
    conditioning: Conditioning,
    /// Row of the empty prompt.
    pub(super) empty_prompt: i64,
}

impl Latents {
    /// Of the moments of images (see [`moments`](crate::trainer::denoising::moments)) on the CPU, with the prompts encoded for images of `side` pixels.
    ///
    /// # Errors
    /// A prompt that the text encoder does not take.
    pub fn new(
        pipeline: &Pipeline,
        moments: Tensor,
        prompts: &[String],
        side: i64,
    ) -> Result<Self> {
        let mut all = prompts.to_vec();
        all.push(String::new());
        let parts = all.chunks(PROMPTS_TOGETHER).map(|some| {
            let encoded = pipeline.encode_prompts(some, side, side)?;
            Ok(encoded.to_device(Device::Cpu))
        });
        let parts: Vec<Conditioning> = parts.collect::<Result<_>>()?;
        Ok(Self {
            moments,
            conditioning: Conditioning::cat(&parts.iter().collect::<Vec<_>>()),
            empty_prompt: prompts.len() as i64,
        })
    }

    /// Moments of some images, `[b, 2c, h, w]`.
    pub(super) fn moments(&self, images: &[i64], device: Device) -> Tensor {
        let some = self.moments.index_select(0, &rows(images, Device::Cpu));
        upload(&some, device)
    }

    /// The network's conditioning for some prompts.
    pub(super) fn conditioning(&self, prompts: &[i64], device: Device) -> Conditioning {
        let some = self.conditioning.select(&rows(prompts, Device::Cpu));
        some.to_device(device)
    }
}
