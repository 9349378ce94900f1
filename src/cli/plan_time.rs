//! Seconds of an image run by phase: its pieces are timed on random weights of the model's size, and multiplied by how
//! often the run does them.

use std::rc::Rc;
use std::time::Instant;

use serde::Serialize;
use tch::{Device, Kind, Tensor, no_grad};

use super::model::lora_config;
use super::plan::{Model, Work, samples_of_step};
use crate::config::{AdapterKind, ImageConfig};
use crate::error::{Error, Result};
use crate::models::diffusion::pipeline::{images_together, to_rgb};
use crate::models::diffusion::{AddedConditioning, Conditioning, UNet, Vae};
use crate::models::encoders::DualEncoder;
use crate::models::lora::LoraSet;
use crate::models::prompt_encoder::TextPart;
use crate::ops::tape::Tape;
use crate::trainer::optimizer::{AdamW, AdamWConfig};

/// By phase, as the manifest of a run has them.
#[derive(Serialize)]
pub(super) struct Seconds {
    negatives: f64,
    encode: f64,
    /// Steps alone.
    steps: f64,
    validations: f64,
    /// Of one step.
    step: f64,
}

impl Seconds {
    pub(super) fn rows(&self) -> [(&'static str, f64); 5] {
        [
            ("negatives", self.negatives),
            ("encode", self.encode),
            ("training steps", self.steps),
            ("validations", self.validations),
            (
                "all but loading",
                self.negatives + self.encode + self.steps + self.validations,
            ),
        ]
    }
}

/// Of a call after the first, in the mean of as many as half a second holds.
fn timed(mut work: impl FnMut() -> Result<()>, device: Device) -> Result<f64> {
    const LONG_ENOUGH: f64 = 0.5;
    let mut synchronized = || {
        work()?;
        if let Device::Cuda(index) = device {
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

/// Text of `rows` prompts in the model's widths.
fn text(model: &Model, rows: i64, kind: Kind, device: Device) -> Conditioning {
    let width = model.unet.cross_attention_dim[0];
    let mut text = Conditioning::new(Tensor::zeros([rows, model.tokens, width], (kind, device)));
    text.added = model.unet.added.map(|added| AddedConditioning {
        text_embeds: Tensor::zeros([rows, added.pooled()], (kind, device)),
        time_ids: Tensor::zeros([rows, 6], (Kind::Float, device)),
    });
    text
}

pub(super) fn measure(
    config: &ImageConfig,
    model: &Model,
    work: &Work,
    device: Device,
    kind: Kind,
) -> Result<Seconds> {
    let base = &config.model.base;
    let batch = config.sampler.batch as i64;
    let (image, latent) = (
        [batch, 3, model.side, model.side],
        [batch, model.unet.in_channels, model.latent, model.latent],
    );
    let (decode, encode) = {
        let vae = Vae::fresh(&base.join("vae"), 0, device)?;
        let together = batch.min(images_together(model.side, model.side));
        let latents = Tensor::zeros(latent, (Kind::Float, device)).narrow(0, 0, together);
        let decode = timed(
            || {
                let _ = no_grad(|| vae.decode(&latents));
                Ok(())
            },
            device,
        )?;
        let pictures = Tensor::zeros([together, 3, model.side, model.side], (Kind::Float, device));
        (
            decode / together as f64,
            timed(
                || {
                    let _ = no_grad(|| vae.encode(&pictures));
                    Ok(())
                },
                device,
            )? / together as f64,
        )
    };
    let reward = {
        let encoder = DualEncoder::fresh(&config.reward.encoder, 0, device)?;
        let pictures: Vec<_> = Tensor::zeros(image, (Kind::Float, Device::Cpu))
            .unbind(0)
            .iter()
            .map(to_rgb)
            .collect();
        timed(
            || no_grad(|| encoder.encode_images(&pictures)).map(drop),
            device,
        )? / batch as f64
    };

    let words = {
        let encoder = TextPart::fresh(base, 0, device)?;
        let prompts = vec![String::new(); work.prompts as usize];
        timed(|| no_grad(|| encoder.states(&prompts)).map(drop), device)?
    };

    let unet = UNet::fresh(&base.join("unet"), 0, device)?;
    let sides = if config.sampler.guidance > 1.0 { 2 } else { 1 };
    let noisy = Tensor::zeros(
        [sides * batch, latent[1], latent[2], latent[3]],
        (kind, device),
    );
    let at = Tensor::full([sides * batch], 500, (Kind::Int64, device));
    let prompt = text(model, sides * batch, kind, device);
    let cache = unet.context_cache(&prompt, kind);
    let forward = || {
        let _ = unet.forward_cached(&noisy, &at, &prompt, &cache);
        Ok(())
    };
    let sample = timed(forward, device)? * config.sampler.steps as f64 / batch as f64 + decode;
    let step = step(
        config,
        model,
        &unet,
        work.base_share(config),
        (device, kind),
    )?;
    let per_image = sample + reward;
    let train = &config.train;
    Ok(Seconds {
        negatives: work.negatives as f64 * sample,
        encode: words
            + work.vae_encodes as f64 * encode
            + work
                .reward_image_encodes
                .saturating_sub(work.validations * work.validation_images) as f64
                * reward,
        steps: train.steps as f64 * step,
        validations: (work.validations * work.validation_images) as f64 * per_image,
        step,
    })
}

/// Of a training step: both passes, backward, update; the base model makes `base_share` of the policy's passes.
fn step(
    config: &ImageConfig,
    model: &Model,
    unet: &UNet,
    base_share: f64,
    (device, kind): (Device, Kind),
) -> Result<f64> {
    for (_, tensor) in unet.parameters() {
        let _ = tensor.set_requires_grad(config.adapter.kind == AdapterKind::Full);
    }
    let lora = match config.adapter.kind {
        AdapterKind::Lora => {
            let lora = lora_config(&config.adapter);
            Some(Rc::new(LoraSet::attach(
                unet.adapters(),
                &lora,
                0,
                device,
                Kind::Float,
            )?))
        }
        AdapterKind::Full => None,
    };
    let parameters = lora.as_ref().map_or_else(
        || {
            unet.parameters()
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
                .collect()
        },
        |lora| lora.parameters(),
    );
    let mut optimizer = AdamW::new(AdamWConfig::from(&config.train), parameters);
    let samples = samples_of_step(config);
    let noisy = Tensor::randn(
        [samples, model.unet.in_channels, model.latent, model.latent],
        (kind, device),
    );
    let at = Tensor::full([samples], 500, (Kind::Int64, device));
    let prompt = text(model, samples, kind, device);
    let base = if base_share > 0.0 {
        if let Some(lora) = &lora {
            lora.set_enabled(false);
        }
        let forward = || {
            let _ = no_grad(|| unet.forward(&noisy, &at, &prompt, None));
            Ok(())
        };
        let seconds = timed(forward, device)?;
        if let Some(lora) = &lora {
            lora.set_enabled(true);
        }
        seconds * base_share * config.train.accumulation as f64
    } else {
        0.0
    };
    let policy = timed(
        || {
            for _ in 0..config.train.accumulation {
                let tape = config.train.checkpoint_activations.then(Tape::new);
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
            optimizer.step(0.0, config.train.clip_norm).map(drop)
        },
        device,
    )?;
    Ok(base + policy)
}
