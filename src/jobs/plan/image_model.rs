//! Sizes of the parts of a run that tunes a diffusion model, from configurations and the headers of weight files.

use std::path::PathBuf;

use super::image_run::ImageRun;
use crate::config::{AdapterKind, AdapterSection, ModelSection, NamedTargets, Targets};
use crate::error::Result;
use crate::jobs::open::image::{lora_config, weights_of};
use crate::models::diffusion::{PassShape, Trained, UNetConfig, UNetCost, VaeSource};
use crate::models::encoders;
use crate::models::json;
use crate::models::lora::{LoraConfig, PipelineWeights, Targets as LoraTargets, sites};
use crate::models::single_file::is_there;
use crate::models::weights::Checkpoint;

/// Sizes of the parts, from configurations and the headers of weight files.
pub(crate) struct ImageModel {
    pub(crate) unet: UNetConfig,
    /// Folder of the autoencoder, on the disk or inside a file.
    pub(crate) vae: PathBuf,
    pub(crate) side: i64,
    pub(crate) latent: i64,
    pub(crate) tokens: i64,
    /// Channels of the autoencoder at full and half size.
    pub(crate) vae_channels: [i64; 2],
    /// Parameters of autoencoder, text encoders and reward encoder.
    pub(crate) others: [u64; 3],
    pub(crate) adapted: u64,
}

/// Floating-point operations of the U-Net in a training step; `reference` is the share of the policy's passes that the
/// base model makes too.
pub(crate) fn step_flops(run: &ImageRun, cost: &UNetCost, reference: f64) -> f64 {
    // A backward pass computes gradients of activations, as many operations again, and of trained weights.
    let full = run.adapter.kind == AdapterKind::Full;
    let backward = if full { 2.0 } else { 1.0 };
    let again = f64::from(u8::from(run.train.checkpoint_activations));
    cost.flops() * run.train.accumulation as f64 * (1.0 + reference + backward + again)
}

/// The LoRA that a run will train.
pub(crate) struct PlannedLora {
    /// Of one that the run goes on from, its modules with the rank that most of them have.
    pub(crate) config: LoraConfig,
    /// Of one that the run goes on from, the numbers in it.
    numbers: Option<u64>,
}

impl PlannedLora {
    pub(crate) fn new(model: &ModelSection, adapter: &AdapterSection) -> Result<Self> {
        let config = lora_config(adapter);
        let start = adapter.start.as_deref();
        let Some(start) = start.filter(|_| adapter.kind == AdapterKind::Lora) else {
            let numbers = None;
            return Ok(Self { config, numbers });
        };
        let base = PipelineWeights::open(&model.base, model.variant.as_deref())?;
        let (rank, numbers, modules) = base.read_lora(&weights_of(start)?)?.unet_size();
        Ok(Self {
            config: LoraConfig {
                rank,
                targets: LoraTargets::Suffixes(modules),
                ..config
            },
            numbers: Some(numbers),
        })
    }
}

fn trained(adapter: &AdapterSection) -> Trained {
    match (&adapter.kind, &adapter.targets) {
        (AdapterKind::Full, _) => Trained::All,
        (AdapterKind::Lora, _) if adapter.start.is_some() => Trained::AllLinear,
        (AdapterKind::Lora, Targets::Named(NamedTargets::Attention)) => Trained::Attention,
        (AdapterKind::Lora, _) => Trained::AllLinear,
    }
}

impl ImageModel {
    pub(crate) fn open(run: &ImageRun) -> Result<Self> {
        let base = &run.model.base;
        let unet = UNetConfig::open(&base.join("unet"))?;
        let source = VaeSource::find(base, run.model.vae.as_deref())?;
        let vae = source.settings()?;
        let channels: Vec<i64> = vae
            .get("block_out_channels")
            .and_then(|list| serde_json::from_value(list.clone()).ok())
            .unwrap_or_else(|| vec![64]);
        let factor = 1 << (channels.len().max(1) - 1);
        let native = unet.sample_size.map_or(64, |size| size[0]) * factor;
        let side = run.train.resolution.map_or(native, i64::from);
        let text = json::read_object(&base.join("text_encoder/config.json"))?;
        let tokens = text
            .get("max_position_embeddings")
            .and_then(serde_json::Value::as_i64);
        let variant = run.model.variant.as_deref();
        let weights =
            Checkpoint::open_component(&base.join("unet"), "diffusion_pytorch_model", variant)?;
        let lora = PlannedLora::new(run.model, run.adapter)?;
        let adapted = if let Some(numbers) = lora.numbers {
            numbers
        } else {
            let places = sites::of_checkpoint(&weights);
            let chosen = lora.config.targets.choose(&places)?;
            let size = |name: &String| places[name].adapter_size(lora.config.rank);
            chosen.iter().map(size).sum()
        };
        let mut texts = 0;
        for part in ["text_encoder", "text_encoder_2"] {
            if is_there(&base.join(part).join("config.json")) {
                texts += elements(&Checkpoint::open_component(
                    &base.join(part),
                    "model",
                    variant,
                )?);
            }
        }
        Ok(Self {
            latent: side / factor,
            side,
            tokens: tokens.unwrap_or(77),
            vae_channels: [channels[0], channels.get(1).copied().unwrap_or(channels[0])],
            others: [
                elements(&source.weights(variant)?),
                texts,
                match run.reward {
                    Some(encoder) => elements(&encoders::weights(encoder)?),
                    None => 0,
                },
            ],
            adapted,
            unet,
            vae: source.folder().to_owned(),
        })
    }

    /// Of a training step's pass.
    pub(crate) fn step_cost(&self, run: &ImageRun) -> UNetCost {
        UNetCost::new(&self.unet, trained(run.adapter), self.shape(run.samples))
    }

    pub(crate) fn shape(&self, samples: i64) -> PassShape {
        PassShape {
            samples,
            latent: [self.latent; 2],
            tokens: self.tokens,
        }
    }
}

/// Numbers in a checkpoint, from its headers.
fn elements(checkpoint: &Checkpoint) -> u64 {
    let size = |name: &str| {
        checkpoint
            .shape(name)
            .map_or(0, |shape| shape.iter().product::<i64>() as u64)
    };
    checkpoint.names().map(size).sum()
}
