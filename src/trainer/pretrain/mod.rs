//! Training the parts of a small text-to-image model from scratch on the emoji world: the autoencoder, image-text
//! encoders, and the U-Net with its text encoder. Scenes are drawn as they are needed, from counters, so that a
//! resumed run sees the ones it would have seen.

mod encoder;
mod unet;
mod vae;

use std::ops::Range;

use image::RgbImage;
use tch::{Kind, Tensor};

pub use self::encoder::EncoderTask;
pub use self::unet::UNetTask;
pub use self::vae::{VaeTask, normalize_latents};
use crate::data::world::Scene;
use crate::ops::random::derive_seed;

/// Scenes are drawn and encoded in slices of this many: bounds memory, not results.
const SLICE: u64 = 64;

/// Seed of the scenes of one purpose.
fn scene_seed(seed: u64, purpose: &str) -> u64 {
    derive_seed(seed, purpose, &[]) as u64
}

/// `0..count` in slices.
fn slices(count: u64) -> impl Iterator<Item = Range<u64>> {
    (0..count)
        .step_by(SLICE as usize)
        .map(move |begin| begin..(begin + SLICE).min(count))
}

/// Pictures and captions of scenes.
fn split(scenes: Vec<Scene>) -> (Vec<RgbImage>, Vec<String>) {
    scenes
        .into_iter()
        .map(|scene| (scene.image, scene.caption))
        .unzip()
}

/// Parameters under `prefix`, made leaves that require a gradient; running statistics of batch norms stay as they
/// are.
fn trainable(prefix: &str, parameters: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    parameters
        .iter()
        .map(|(name, tensor)| {
            let statistic = name.ends_with(".running_mean") || name.ends_with(".running_var");
            let tensor = tensor.set_requires_grad(!statistic);
            (format!("{prefix}{name}"), tensor)
        })
        .collect()
}

/// Mean outside the graph, left on the device.
fn mean(values: &Tensor) -> Tensor {
    values.detach().mean(Kind::Float)
}
