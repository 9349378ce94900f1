//! A diffusion model to be tuned.

use std::path::Path;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::config::{AdapterKind, AdapterSection, ModelSection, SamplerSection, TrainSection};
use crate::error::Result;
use crate::jobs::open::image::lora_config;
use crate::models::diffusion::pipeline::{Kinds, Pipeline, SampleSettings};
use crate::models::diffusion::{UNet, VaeSource};
use crate::models::lora::LoraSet;
use crate::ops::random::derive_seed;
use crate::run::checkpoint::{BestWeights, Part};
use crate::trainer::denoising::Reference;

/// Name among a run's inputs of the LoRA that it goes on from.
pub(crate) const START: &str = "start LoRA";
/// The same of the autoencoder that stands in the place of the base's.
pub(crate) const VAE: &str = "VAE";

/// SHA-256 of the autoencoder that stands in the place of the base's, where there is one.
///
/// # Errors
/// It cannot be read, or does not fit the base.
pub(crate) fn vae_sha256(model: &ModelSection) -> Result<Option<String>> {
    let source = VaeSource::find(&model.base, model.vae.as_deref())?;
    if !source.is_separate() {
        return Ok(None);
    }
    source.sha256(model.variant.as_deref()).map(Some)
}

/// The base model, its U-Net stored in f32 where all of it is trained, and the LoRA that training goes on from. That of the
/// U-Net is switched off until [`trained_parts`]; those of text encoders act from the beginning.
pub(crate) fn open_to_train(
    model: &ModelSection,
    adapter: &AdapterSection,
    device: Device,
    kind: Kind,
) -> Result<(Pipeline, Option<LoraSet>)> {
    let full = adapter.kind == AdapterKind::Full;
    let kinds = Kinds {
        compute: kind,
        unet: if full { Kind::Float } else { kind },
    };
    let (vae, variant) = (model.vae.as_deref(), model.variant.as_deref());
    let pipeline = Pipeline::open(&model.base, vae, variant, device, kinds)?;
    let Some(file) = &adapter.start else {
        return Ok((pipeline, None));
    };
    let start = LoraSet::start(&pipeline.adapters(), file)?;
    start.set_enabled(false);
    Ok((pipeline, Some(start)))
}

/// A sentence on what training goes on from and what it is compared with.
pub(crate) fn start_note(adapter: &AdapterSection, start: &LoraSet) -> String {
    let (trained, frozen) = start.counts();
    let file = adapter.start.as_deref().unwrap_or(Path::new(""));
    let text = match frozen {
        0 => String::new(),
        _ => format!("; {frozen} modules of text encoders act and stay as they are"),
    };
    format!(
        "start: goes on from `{}`, {trained} modules of the U-Net with their own ranks and strengths (`adapter.rank`, \
         `adapter.alpha` and `adapter.targets` are not used){text}; the reference is the base model without the former",
        file.display()
    )
}

pub(crate) type TrainedParts = (Vec<(String, Tensor)>, Option<Reference>, BestWeights);

/// The trained tensors as f32 leaves, the reference model where it is needed, and how the best weights are written.
pub(crate) fn trained_parts(
    pipeline: &Pipeline,
    (model, adapter): (&ModelSection, &AdapterSection),
    start: Option<LoraSet>,
    seed: u64,
    needs_reference: bool,
) -> Result<TrainedParts> {
    let (device, kind) = (pipeline.device(), pipeline.kind());
    match adapter.kind {
        AdapterKind::Lora => {
            let seed = derive_seed(seed, "lora", &[]) as u64;
            let lora = match start {
                Some(start) => start,
                None => LoraSet::attach(
                    pipeline.unet.adapters(),
                    &lora_config(adapter),
                    seed,
                    device,
                    Kind::Float,
                )?,
            };
            lora.set_enabled(true);
            let lora = Rc::new(lora);
            let reference = needs_reference.then(|| Reference::AdapterOff(Rc::clone(&lora)));
            Ok((lora.parameters(), reference, BestWeights::Lora(lora)))
        }
        AdapterKind::Full => {
            let folder = model.base.join("unet");
            let variant = model.variant.as_deref();
            let frozen = || {
                UNet::open(&folder, variant, device, kind)
                    .map(|unet| Reference::Frozen(Box::new(unet)))
            };
            let reference = if needs_reference {
                Some(frozen()?)
            } else {
                None
            };
            let parameters: Vec<(String, Tensor)> = pipeline
                .unet
                .parameters()
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.set_requires_grad(true)))
                .collect();
            Ok((
                parameters,
                reference,
                BestWeights::Parts(vec![Part::unet(folder.join("config.json"))]),
            ))
        }
    }
}

/// Sampler and size of the images that a run samples: the training resolution.
pub(crate) fn sample_settings(
    train: &TrainSection,
    sampler: &SamplerSection,
    pipeline: &Pipeline,
) -> Result<SampleSettings> {
    let side = train
        .resolution
        .map_or_else(|| pipeline.native_size()[0], i64::from);
    pipeline.check_size(side, side)?;
    Ok(SampleSettings {
        sampler: sampler.kind.into(),
        steps: sampler.steps,
        guidance: sampler.guidance,
        width: side,
        height: side,
        batch: sampler.batch,
    })
}
