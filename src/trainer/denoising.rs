//! The use of a U-Net by both tasks on images: noisy latents with their targets, and the base model's predictions.

use std::rc::Rc;

use image::RgbImage;
use tch::{Device, Kind, Tensor, no_grad};

use crate::models::diffusion::pipeline::{Pipeline, from_rgb, images_together};
use crate::models::diffusion::{Conditioning, UNet};
use crate::models::lora::LoraSet;
use crate::ops::halving::in_halves;
use crate::ops::random::{derive_seed, integers, randn};
use crate::ops::transfer::{upload, upload_slice};

/// Where the base model's prediction comes from.
pub enum Reference {
    /// The same U-Net with its adapters switched off.
    AdapterOff(Rc<LoraSet>),
    /// The same U-Net with the adapters' weights of before the first step, in the order of [`LoraSet::parameters`].
    AdapterAtStart(Rc<LoraSet>, Vec<Tensor>),
    /// A frozen copy.
    Frozen(Box<UNet>),
}

/// A noisy batch and what the network should answer.
pub(super) struct Batch {
    pub(super) noisy: Tensor,
    pub(super) timesteps: Tensor,
    pub(super) target: Tensor,
    pub(super) conditioning: Conditioning,
}

/// Images of a batch with the counters of what is drawn for each. Equal counters give equal draws.
pub(super) struct Seen<'a> {
    /// Means and standard deviations of the unscaled latents, `[b, 2c, h, w]`.
    pub(super) moments: &'a Tensor,
    /// The network's conditioning, `b` rows.
    pub(super) conditioning: Conditioning,
    /// Of the draw from each posterior.
    pub(super) posterior: &'a [[u64; 2]],
    /// Of each noise.
    pub(super) noise: &'a [[u64; 2]],
    /// Of each image.
    pub(super) timesteps: &'a [i64],
    /// Deviation of the constant that is added to each channel of the noise.
    pub(super) noise_offset: f64,
}

impl Batch {
    /// The first rows under another conditioning of one row.
    pub(super) fn first_under(&self, rows: i64, conditioning: &Conditioning) -> Self {
        Self {
            noisy: self.noisy.narrow(0, 0, rows),
            timesteps: self.timesteps.narrow(0, 0, rows),
            target: self.target.narrow(0, 0, rows),
            conditioning: conditioning.repeat_interleave(rows),
        }
    }

    /// The rows of both.
    pub(super) fn cat(&self, other: &Self) -> Self {
        let cat = |one: &Tensor, two: &Tensor| Tensor::cat(&[one, two], 0);
        Self {
            noisy: cat(&self.noisy, &other.noisy),
            timesteps: cat(&self.timesteps, &other.timesteps),
            target: cat(&self.target, &other.target),
            conditioning: Conditioning::cat(&[&self.conditioning, &other.conditioning]),
        }
    }
}

/// Timesteps of a schedule of `steps` steps, each from its own counters.
pub(super) fn timesteps(seed: u64, rows: &[[u64; 2]], steps: usize) -> Vec<i64> {
    rows.iter()
        .flat_map(|row| integers(derive_seed(seed, "timestep", row), steps as u64, 1))
        .collect()
}

/// Draws latents and adds noise.
pub(super) fn noisy(pipeline: &Pipeline, seed: u64, seen: Seen) -> Batch {
    let halves = seen.moments.chunk(2, 1); // mean and std, both [b, c, h, w]
    let draw = normal(seed, "posterior", seen.posterior, &halves[0]);
    let clean = pipeline.vae.scale(&(&halves[0] + &halves[1] * draw)); // [b, c, h, w]
    let mut noise = normal(seed, "noise", seen.noise, &clean);
    if seen.noise_offset > 0.0 {
        let like = clean.narrow(2, 0, 1).narrow(3, 0, 1); // [b, c, 1, 1]
        noise += normal(seed, "noise offset", seen.noise, &like) * seen.noise_offset;
    }
    let timesteps = upload_slice(seen.timesteps, clean.device());
    let schedule = &pipeline.schedule;
    Batch {
        noisy: schedule
            .add_noise(&clean, &noise, &timesteps)
            .to_kind(pipeline.kind()),
        target: schedule.target(&clean, &noise, &timesteps),
        timesteps,
        conditioning: seen.conditioning,
    }
}

/// Unit-normal noise in the shape of `like` `[b, c, h, w]`, each row from its own counters.
fn normal(seed: u64, purpose: &str, rows: &[[u64; 2]], like: &Tensor) -> Tensor {
    let mut shape = like.size();
    shape[0] = 1;
    let rows: Vec<Tensor> = rows
        .iter()
        .map(|row| randn(derive_seed(seed, purpose, row), &shape, Device::Cpu))
        .collect();
    upload(&Tensor::cat(&rows, 0), like.device()) // [b, c, h, w]
}

/// The base model's prediction, `[b, c, h, w]`, without a graph; `policy` is the U-Net that may carry adapters.
pub(super) fn base_prediction(policy: &UNet, reference: &Reference, batch: &Batch) -> Tensor {
    no_grad(|| {
        let forward =
            |unet: &UNet| unet.forward(&batch.noisy, &batch.timesteps, &batch.conditioning, None);
        match reference {
            Reference::AdapterOff(lora) => {
                let _off = lora.off();
                forward(policy)
            }
            Reference::AdapterAtStart(lora, start) => {
                let parameters = lora.parameters();
                let put = |weights: &[Tensor]| {
                    for ((_, parameter), weights) in parameters.iter().zip(weights) {
                        parameter.shallow_clone().copy_(weights);
                    }
                };
                let now: Vec<Tensor> = parameters.iter().map(|(_, own)| own.copy()).collect();
                put(start);
                let answer = forward(policy);
                put(&now);
                answer
            }
            Reference::Frozen(unet) => forward(unet),
        }
    })
}

/// Means and standard deviations of the unscaled latents of images of one size, `[n, 2c, h, w]`.
pub fn moments(pipeline: &Pipeline, images: &[RgbImage]) -> Tensor {
    let [width, height] = images
        .first()
        .map_or([1, 1], |image| [image.width(), image.height()]);
    let together = images_together(i64::from(width), i64::from(height)) as usize;
    let parts = in_halves(images.len(), together, |range| {
        let posterior = pipeline.encode_images(&from_rgb(&images[range]));
        Ok(Tensor::cat(&[posterior.mean, posterior.std], 1))
    });
    Tensor::cat(&parts.unwrap_or_default(), 0)
}

/// Mean outside the graph, left on the device.
pub(super) fn mean(values: &Tensor) -> Tensor {
    values.detach().mean(Kind::Float)
}

/// Row indices as a tensor on `device`.
pub(super) fn rows(indices: &[i64], device: Device) -> Tensor {
    upload_slice(indices, device)
}
