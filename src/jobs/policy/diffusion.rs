//! A diffusion model to be tuned.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::config::{
    AdapterKind, AdapterSection, ModelSection, ReferenceOf, SamplerSection, TrainSection,
};
use crate::error::{Error, Result};
use crate::jobs::open::image::{UNET, lora_config, take_weights, tuned_unet, weights_of};
use crate::models::diffusion::pipeline::{Kinds, Pipeline, SampleSettings};
use crate::models::diffusion::{UNet, VaeSource};
use crate::models::lora::{LoraSet, read};
use crate::models::weights::Checkpoint;
use crate::ops::random::derive_seed;
use crate::run::checkpoint::{BestWeights, Part};
use crate::trainer::denoising::Reference;

/// Name among a run's inputs of what it goes on from.
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

/// What training goes on from, beside the base model.
pub(crate) enum Start {
    /// A LoRA. That of the U-Net is switched off until [`trained_parts`]; those of text encoders act from the beginning.
    Lora(LoraSet),
    /// The folder of a tuned U-Net, whose weights are taken by [`trained_parts`].
    UNet(PathBuf),
}

/// The base model, its U-Net stored in f32 where all of it is trained, and what training goes on from.
///
/// # Errors
/// Weights that cannot be read or do not fit, or a start of the other kind.
pub(crate) fn open_to_train(
    model: &ModelSection,
    adapter: &AdapterSection,
    device: Device,
    kind: Kind,
) -> Result<(Pipeline, Option<Start>)> {
    let full = adapter.kind == AdapterKind::Full;
    let kinds = Kinds {
        compute: kind,
        unet: if full { Kind::Float } else { kind },
    };
    let (vae, variant) = (model.vae.as_deref(), model.variant.as_deref());
    let pipeline = Pipeline::open(&model.base, vae, variant, device, kinds)?;
    let Some(given) = &adapter.start else {
        return Ok((pipeline, None));
    };
    let weights = weights_of(given)?;
    let unet = tuned_unet(&weights);
    let start = match (full, unet) {
        (true, Some(folder)) => Start::UNet(folder),
        (true, None) => {
            let message = "no U-Net in it, but `adapter.kind = \"full\"` goes on with all weights";
            return Err(Error::weights(given, message).with_hint(
                "give a run that tuned all weights, or the folder of its U-Net; a LoRA is merged into the base first with `preftune \
                 export --format merged`",
            ));
        }
        (false, Some(_)) => {
            let message = "a whole U-Net, but `adapter.kind = \"lora\"` goes on with a LoRA";
            return Err(Error::weights(given, message).with_hint(
                "take what `preftune export --format diffusers` writes of it as `model.base`, or set `adapter.kind = \"full\"`",
            ));
        }
        (false, None) => {
            let start = LoraSet::start(&pipeline.adapters(), &weights)?;
            start.set_enabled(false);
            Start::Lora(start)
        }
    };
    Ok((pipeline, Some(start)))
}

/// SHA-256 of what training goes on from.
///
/// # Errors
/// It cannot be read.
pub(crate) fn start_sha256(start: &Path) -> Result<String> {
    let weights = weights_of(start)?;
    match tuned_unet(&weights) {
        Some(folder) => Checkpoint::open_component(&folder, UNET, None)?.sha256(),
        None => read::sha256(&weights),
    }
}

/// A sentence on what training goes on from and what it is compared with.
pub(crate) fn start_note(adapter: &AdapterSection, start: &Start) -> String {
    let given = adapter.start.as_deref().unwrap_or(Path::new("")).display();
    let reference = match (adapter.reference, start) {
        (ReferenceOf::Start, _) => "the reference is this start",
        (ReferenceOf::Base, Start::Lora(_)) => "the reference is the base model without the former",
        (ReferenceOf::Base, Start::UNet(_)) => "the reference is the base model",
    };
    match start {
        Start::UNet(_) => format!("start: goes on from all weights of `{given}`; {reference}"),
        Start::Lora(start) => {
            let (trained, frozen) = start.counts();
            let text = match frozen {
                0 => String::new(),
                _ => format!("; {frozen} modules of text encoders act and stay as they are"),
            };
            format!(
                "start: goes on from `{given}`, {trained} modules of the U-Net with their own ranks and strengths (`adapter.rank`, \
                 `adapter.alpha` and `adapter.targets` are not used){text}; {reference}"
            )
        }
    }
}

pub(crate) type TrainedParts = (Vec<(String, Tensor)>, Option<Reference>, BestWeights);

/// The trained tensors as f32 leaves, the reference model where it is needed, and how the best weights are written.
pub(crate) fn trained_parts(
    pipeline: &Pipeline,
    (model, adapter): (&ModelSection, &AdapterSection),
    start: Option<Start>,
    seed: u64,
    needs_reference: bool,
) -> Result<TrainedParts> {
    match adapter.kind {
        AdapterKind::Lora => {
            let start = start.and_then(|start| match start {
                Start::Lora(lora) => Some(lora),
                Start::UNet(_) => None,
            });
            let lora = lora_to_train(pipeline, adapter, start, seed)?;
            let at_start = adapter.reference == ReferenceOf::Start;
            let reference = needs_reference.then(|| {
                let lora = Rc::clone(&lora);
                if !at_start {
                    return Reference::AdapterOff(lora);
                }
                let copies = lora.parameters().into_iter();
                let copies = copies.map(|(_, own)| own.detach().copy()).collect();
                Reference::AdapterAtStart(lora, copies)
            });
            Ok((lora.parameters(), reference, BestWeights::Lora(lora)))
        }
        AdapterKind::Full => {
            let start = start.and_then(|start| match start {
                Start::Lora(_) => None,
                Start::UNet(folder) => Some(folder),
            });
            all_weights(
                pipeline,
                (model, adapter),
                start.as_deref(),
                needs_reference,
            )
        }
    }
}

fn lora_to_train(
    pipeline: &Pipeline,
    adapter: &AdapterSection,
    start: Option<LoraSet>,
    seed: u64,
) -> Result<Rc<LoraSet>> {
    let lora = match start {
        Some(start) => start,
        None => LoraSet::attach(
            pipeline.unet.adapters(),
            &lora_config(adapter),
            derive_seed(seed, "lora", &[]) as u64,
            pipeline.device(),
            Kind::Float,
        )?,
    };
    lora.set_enabled(true);
    Ok(Rc::new(lora))
}

fn all_weights(
    pipeline: &Pipeline,
    (model, adapter): (&ModelSection, &AdapterSection),
    start: Option<&Path>,
    needs_reference: bool,
) -> Result<TrainedParts> {
    let folder = model.base.join("unet");
    let variant = model.variant.as_deref();
    let (device, kind) = (pipeline.device(), pipeline.kind());
    let shared = |(name, tensor): &(String, Tensor)| (name.clone(), tensor.shallow_clone());
    let parameters: Vec<(String, Tensor)> = pipeline.unet.parameters().iter().map(shared).collect();
    if let Some(start) = start {
        let tuned = Checkpoint::open_component(start, UNET, None)?;
        take_weights(parameters.iter().map(shared).collect(), &tuned)?;
    }
    let frozen = match (start, adapter.reference) {
        (Some(start), ReferenceOf::Start) => (start, None),
        _ => (folder.as_path(), variant),
    };
    let reference = needs_reference
        .then(|| UNet::open(frozen.0, frozen.1, device, kind))
        .transpose()?
        .map(|unet| Reference::Frozen(Box::new(unet)));
    for (_, tensor) in &parameters {
        let _ = tensor.set_requires_grad(true);
    }
    let best = BestWeights::Parts(vec![Part::unet(folder.join("config.json"))]);
    Ok((parameters, reference, best))
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
