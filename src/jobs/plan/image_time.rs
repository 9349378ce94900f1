//! Seconds of a run on images by phase: its pieces are timed on random weights of the model's size, and multiplied by how
//! often the run does them.

use std::time::Instant;

use serde::Serialize;
use tch::{Device, Kind, Tensor, no_grad};

use super::image_model::{ImageModel, PlannedLora};
use super::image_run::{ImageRun, Work, passes_of_step};
use super::parts::Timed;
use crate::config::AdapterKind;
use crate::error::{Error, Result};
use crate::models::diffusion::pipeline::{images_together, to_rgb};
use crate::models::diffusion::{AddedConditioning, Conditioning, UNet, Vae};
use crate::models::encoders::DualEncoder;
use crate::models::lora::LoraSet;
use crate::models::prompt_encoder::TextPart;
use crate::ops::tape::Tape;
use crate::trainer::optimizer::{AdamW, AdamWConfig};

/// Prompts that are timed together.
const PROMPTS_TOGETHER: u64 = 64;

/// By phase, as the manifest of a run has them.
#[derive(Serialize)]
pub struct Seconds {
    negatives: f64,
    encode: f64,
    /// Steps alone.
    steps: f64,
    validations: f64,
    /// Of one step.
    step: f64,
}

impl Timed for Seconds {
    fn phases(&self) -> Vec<(&'static str, f64)> {
        vec![
            ("negatives", self.negatives),
            ("encode", self.encode),
            ("training steps", self.steps),
            ("validations", self.validations),
        ]
    }
}

pub(crate) fn measure(
    run: &ImageRun,
    model: &ImageModel,
    work: &Work,
    (device, kind): (Device, Kind),
) -> Result<Seconds> {
    let pieces = Pieces {
        run,
        model,
        device,
        kind,
    };
    let images = work.validations * work.validation_images;
    let (decode, encode) = pieces.autoencoder()?;
    let reward = pieces.reward()?;
    let words = pieces.prompts(work.prompts)?;
    let unet = UNet::fresh(&run.model.base.join("unet"), 0, device)?;
    let sample = if work.unet_forwards_sampling > 0 {
        pieces.sampling(&unet)? + decode
    } else {
        0.0
    };
    let StepSeconds { base, whole } = pieces.step(&unet)?;
    let step = whole + run.train.accumulation as f64 * work.base_share() * base;
    let before = work.reward_image_encodes.saturating_sub(images);
    Ok(Seconds {
        negatives: work.negatives as f64 * sample,
        encode: words + work.vae_encodes as f64 * encode + before as f64 * reward,
        steps: run.train.steps as f64 * step,
        validations: images as f64 * (sample + reward)
            + work.validation_forwards as f64 * base / run.samples as f64,
        step,
    })
}

/// The pieces of a run that are timed, each in the sizes of the run.
struct Pieces<'a> {
    run: &'a ImageRun<'a>,
    model: &'a ImageModel,
    device: Device,
    kind: Kind,
}

/// Seconds of the parts of a training step.
struct StepSeconds {
    /// A pass without a graph: the base model's, or a validation's.
    base: f64,
    /// All passes of the policy and back, and the update.
    whole: f64,
}

impl Pieces<'_> {
    /// Of a call after the first, in the mean of as many as half a second holds.
    fn timed(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        const LONG_ENOUGH: f64 = 0.5;
        let mut synchronized = || {
            work()?;
            if let Device::Cuda(index) = self.device {
                tch::Cuda::synchronize(index as i64);
            }
            Ok::<_, Error>(())
        };
        synchronized()?;
        let start = Instant::now();
        let mut calls = 0.0;
        while calls == 0.0 || start.elapsed().as_secs_f64() < LONG_ENOUGH {
            synchronized()?;
            calls += 1.0;
        }
        Ok(start.elapsed().as_secs_f64() / calls)
    }

    /// Of decoding and encoding an image.
    fn autoencoder(&self) -> Result<(f64, f64)> {
        let ImageModel { side, latent, .. } = *self.model;
        let vae = Vae::fresh(&self.model.vae, 0, self.device)?;
        let together = images_together(side, side).min(self.run.sampler.batch as i64);
        let float = (Kind::Float, self.device);
        // Noise, because zeros lead to numbers so small that a CPU is slow with them.
        let latents = Tensor::randn(
            [together, self.model.unet.in_channels, latent, latent],
            float,
        );
        let pictures = Tensor::randn([together, 3, side, side], float);
        let decode = self.timed(|| {
            let _ = no_grad(|| vae.decode(&latents));
            Ok(())
        })?;
        let encode = self.timed(|| {
            let _ = no_grad(|| vae.encode(&pictures));
            Ok(())
        })?;
        Ok((decode / together as f64, encode / together as f64))
    }

    /// Of scoring an image, where images are scored.
    fn reward(&self) -> Result<f64> {
        let Some(folder) = self.run.reward else {
            return Ok(0.0);
        };
        let (batch, side) = (self.run.sampler.batch, self.model.side);
        let encoder = DualEncoder::fresh(folder, 0, self.device)?;
        let picture = to_rgb(&Tensor::randn([3, side, side], (Kind::Float, Device::Cpu)));
        let pictures = vec![picture; batch];
        let all = self.timed(|| no_grad(|| encoder.encode_images(&pictures)).map(drop))?;
        Ok(all / batch as f64)
    }

    /// Of all prompts.
    fn prompts(&self, count: u64) -> Result<f64> {
        let together = count.min(PROMPTS_TOGETHER);
        let encoder = TextPart::fresh(&self.run.model.base, 0, self.device)?;
        let prompts = vec![String::new(); together as usize];
        let some = self.timed(|| no_grad(|| encoder.states(&prompts)).map(drop))?;
        Ok(some / together as f64 * count as f64)
    }

    /// Of an image's denoising.
    fn sampling(&self, unet: &UNet) -> Result<f64> {
        let sampler = self.run.sampler;
        let rows = passes_of_step(sampler) as i64 * sampler.batch as i64;
        let (noisy, at, prompt) = self.inputs(rows);
        let cache = unet.context_cache(&prompt, self.kind);
        let forward = self.timed(|| {
            let _ = no_grad(|| unet.forward_cached(&noisy, &at, &prompt, &cache));
            Ok(())
        })?;
        Ok(forward * sampler.steps as f64 / sampler.batch as f64)
    }

    /// Latents, timesteps and text of `rows` samples, in the model's widths.
    fn inputs(&self, rows: i64) -> (Tensor, Tensor, Conditioning) {
        let ImageModel {
            unet,
            latent,
            tokens,
            ..
        } = self.model;
        let zeros = |shape: &[i64], kind| Tensor::zeros(shape, (kind, self.device));
        let width = unet.cross_attention_dim[0];
        let mut text = Conditioning::new(zeros(&[rows, *tokens, width], self.kind));
        text.added = unet.added.map(|added| AddedConditioning {
            text_embeds: zeros(&[rows, added.pooled()], self.kind),
            time_ids: zeros(&[rows, 6], Kind::Float),
        });
        let shape = [rows, unet.in_channels, *latent, *latent];
        let noisy = Tensor::randn(shape, (self.kind, self.device));
        let at = Tensor::full([rows], 500, (Kind::Int64, self.device));
        (noisy, at, text)
    }

    /// Of a training step's parts.
    fn step(&self, unet: &UNet) -> Result<StepSeconds> {
        let train = self.run.train;
        let (noisy, at, prompt) = self.inputs(self.run.samples);
        for (_, tensor) in unet.parameters() {
            let _ = tensor.set_requires_grad(false);
        }
        let base = self.timed(|| {
            let _ = no_grad(|| unet.forward(&noisy, &at, &prompt, None));
            Ok(())
        })?;
        let lora = match self.run.adapter.kind {
            AdapterKind::Lora => {
                let config = PlannedLora::new(self.run.model, self.run.adapter)?.config;
                let float = Kind::Float;
                let adapters = unet.adapters();
                Some(LoraSet::attach(adapters, &config, 0, self.device, float)?)
            }
            AdapterKind::Full => None,
        };
        let trained =
            |(name, tensor): &(String, Tensor)| (name.clone(), tensor.set_requires_grad(true));
        let parameters = lora.as_ref().map_or_else(
            || unet.parameters().iter().map(trained).collect(),
            LoraSet::parameters,
        );
        let mut optimizer = AdamW::new(AdamWConfig::from(train), parameters);
        let whole = self.timed(|| {
            for _ in 0..train.accumulation {
                let tape = train.checkpoint_activations.then(Tape::new);
                let prediction = unet.forward(&noisy, &at, &prompt, tape.as_ref());
                prediction
                    .to_kind(Kind::Float)
                    .square()
                    .mean(Kind::Float)
                    .backward();
                if let Some(tape) = tape {
                    tape.backward();
                }
            }
            optimizer.step(0.0, train.clip_norm).map(drop)
        })?;
        Ok(StepSeconds { base, whole })
    }
}
