//! From a path that the user gives to a loaded pipeline: a model folder, or a run with its best weights.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor, no_grad};

use crate::config::{self, AdapterKind, AdapterSection, Config, NamedTargets, Targets};
use crate::error::{Error, Result};
use crate::hub::{fetch_command, name_model};
use crate::models::diffusion::UNet;
use crate::models::diffusion::pipeline::{Kinds, Pipeline};
use crate::models::lora::overlay::lay;
use crate::models::lora::{LoraConfig, LoraInit, LoraSet, Overlay, Targets as LoraTargets};
use crate::models::recognize::not_a;
use crate::models::weights::Checkpoint;
use crate::run::checkpoint::{best_of, weights_at};
use crate::run::manifest::{self, Tuned};

/// Stem of a U-Net's file of weights.
pub(crate) const UNET: &str = "diffusion_pytorch_model";

/// A pipeline and what it was made of, in words.
pub(crate) struct LoadedModel {
    pub(crate) pipeline: Pipeline,
    pub(crate) name: String,
    /// `true` if LoRA files have learned words, which are left out.
    pub(crate) leaves_out_words: bool,
    /// Sentences on what was left out or assumed.
    pub(crate) notes: Vec<String>,
}

impl LoadedModel {
    /// With what its LoRA files have and is left out.
    fn new(pipeline: Pipeline, name: String, mut words: Vec<String>) -> Self {
        let leaves_out_words = !words.is_empty();
        words.extend(pipeline.vae_source().note());
        Self {
            pipeline,
            name,
            leaves_out_words,
            notes: words,
        }
    }
}

/// What a model is loaded with beside its own parts.
#[derive(Default)]
pub(crate) struct Beside<'a> {
    /// An autoencoder in the place of the model's or the run's.
    pub(crate) vae: Option<&'a Path>,
    /// Adapters that are laid over it in their order.
    pub(crate) loras: &'a [Overlay],
    /// Preferred weight files.
    pub(crate) variant: Option<&'a str>,
}

/// Loads `path`: a Hugging Face model folder, a model in one file, or a run.
pub(crate) fn open(
    path: &Path,
    beside: &Beside,
    device: Device,
    kind: Kind,
) -> Result<LoadedModel> {
    let Beside {
        vae,
        loras,
        variant,
    } = *beside;
    let kinds = Kinds {
        compute: kind,
        unet: kind,
    };
    let name = name_model(path);
    if path.is_file() || path.join("model_index.json").exists() {
        let pipeline = Pipeline::open(path, vae, variant, device, kinds)?;
        let notes = lay(&pipeline.adapters(), loras)?;
        return Ok(LoadedModel::new(pipeline, name, notes));
    }
    if !path.join("manifest.json").exists() {
        return Err(not_a(path, "a Stable Diffusion folder or a run"));
    }
    let tuned: Tuned = manifest::read(path)?;
    let best = best_of(path)?;
    let base = base_of(&tuned.base_model, path)?;
    let vae = vae_of(vae, &tuned, path)?;
    let mut pipeline = Pipeline::open(&base, vae, variant, device, kinds)?;
    let notes = put_tuned(&mut pipeline, &best, loras)?;
    Ok(LoadedModel::new(pipeline, name, notes))
}

/// Puts tuned weights in the place of a base model's: a whole U-Net, or a LoRA; then `loras` over them. Returns a sentence on
/// each file of which something is left out.
///
/// # Errors
/// Weights that cannot be read or do not fit.
pub(crate) fn put_tuned(
    pipeline: &mut Pipeline,
    weights: &Path,
    loras: &[Overlay],
) -> Result<Vec<String>> {
    let mut overlays = Vec::new();
    match tuned_unet(weights) {
        Some(folder) => {
            pipeline.unet = UNet::open(&folder, None, pipeline.device(), pipeline.kind())?;
        }
        None => overlays.push(Overlay::whole(weights)),
    }
    overlays.extend_from_slice(loras);
    // In the weights a LoRA costs nothing while sampling.
    lay(&pipeline.adapters(), &overlays)
}

/// Loads a run as it was at a step of which there is a checkpoint; `vae` stands in the place of its autoencoder.
pub(crate) fn open_at(
    run: &Path,
    step: u64,
    vae: Option<&Path>,
    device: Device,
    kind: Kind,
) -> Result<LoadedModel> {
    let pipeline = open_checkpoint(run, &weights_at(run, step)?, vae, device, kind)?;
    let name = format!("{} (checkpoint {step})", run.display());
    Ok(LoadedModel::new(pipeline, name, Vec::new()))
}

/// Loads a run with the weights of one of its checkpoints.
pub(crate) fn open_checkpoint(
    run: &Path,
    weights: &Checkpoint,
    vae: Option<&Path>,
    device: Device,
    kind: Kind,
) -> Result<Pipeline> {
    let tuned: Tuned = manifest::read(run)?;
    let file = run.join("config.toml");
    let (model, adapter) = match config::load_any(&file, &[])? {
        Config::Subject(config) => (config.model, config.adapter),
        Config::Pairs(config) => (config.model, config.adapter),
        Config::ImageRounds(_) => {
            let problem = "rounds keep their checkpoints in the folders of the rounds";
            return Err(
                Error::data(run, problem).with_hint("give the folder `round-N/train` of a round")
            );
        }
        _ => {
            return Err(Error::data(file, "of a run that tunes no diffusion model"));
        }
    };
    let kinds = Kinds {
        compute: kind,
        unet: kind,
    };
    let variant = model.variant.as_deref();
    let base = base_of(&tuned.base_model, run)?;
    let pipeline = Pipeline::open(&base, vae_of(vae, &tuned, run)?, variant, device, kinds)?;
    let lora = match adapter.kind {
        AdapterKind::Full => None,
        AdapterKind::Lora => Some(match &adapter.start {
            Some(start) => LoraSet::start(&pipeline.adapters(), &weights_of(start)?)?,
            None => LoraSet::attach(
                pipeline.unet.adapters(),
                &lora_config(&adapter),
                0,
                device,
                Kind::Float,
            )?,
        }),
    };
    let shared = |(name, tensor): &(String, Tensor)| (name.clone(), tensor.shallow_clone());
    let parameters: Vec<(String, Tensor)> = match &lora {
        Some(lora) => lora.parameters(),
        None => pipeline.unet.parameters().iter().map(shared).collect(),
    };
    take_weights(parameters, weights)?;
    if let Some(lora) = lora {
        lora.merge();
    }
    Ok(pipeline)
}

/// The weights that a start leads to: of a run its best ones.
pub(crate) fn weights_of(start: &Path) -> Result<PathBuf> {
    if start.join("manifest.json").exists() {
        best_of(start)
    } else {
        Ok(start.to_owned())
    }
}

/// The folder of a tuned U-Net, where that is what lies there.
pub(crate) fn tuned_unet(weights: &Path) -> Option<PathBuf> {
    let folders = [weights.join("unet"), weights.to_owned()];
    folders.into_iter().find(|folder| {
        let has = |ending: &str| folder.join(format!("{UNET}{ending}")).exists();
        has(".safetensors") || has(".safetensors.index.json")
    })
}

/// The autoencoder in the place of the base's: the one that is asked for, else the run's own.
pub(crate) fn vae_of<'a>(
    asked: Option<&'a Path>,
    tuned: &'a Tuned,
    run: &Path,
) -> Result<Option<&'a Path>> {
    let (None, Some(own)) = (asked, tuned.vae.as_deref()) else {
        return Ok(asked);
    };
    if own.exists() {
        return Ok(Some(own));
    }
    let problem = format!("the autoencoder (VAE) of `{}` is not there", run.display());
    let advice = fetch_command(own)
        .unwrap_or_else(|| "put it back, or change `vae` in the run's `manifest.json`".to_owned());
    Err(Error::weights(own, problem).with_hint(advice))
}

/// Copies a checkpoint's tensors into a model's.
pub(crate) fn take_weights(parameters: Vec<(String, Tensor)>, weights: &Checkpoint) -> Result<()> {
    for (name, mut tensor) in parameters {
        let stored = weights.tensor(&name)?;
        if stored.size() != tensor.size() {
            return Err(Error::tensor(
                weights.path(),
                &name,
                format!("has shape {:?}, not {:?}", stored.size(), tensor.size()),
            ));
        }
        no_grad(|| tensor.copy_(&stored));
    }
    Ok(())
}

/// The LoRA that a run's configuration asks for.
pub(crate) fn lora_config(adapter: &AdapterSection) -> LoraConfig {
    LoraConfig {
        rank: adapter.rank,
        alpha: adapter.alpha,
        targets: match &adapter.targets {
            Targets::Named(NamedTargets::Attention) => LoraTargets::Attention,
            Targets::Named(NamedTargets::AllLinear) => LoraTargets::AllLinear,
            Targets::Suffixes(suffixes) => LoraTargets::Suffixes(suffixes.clone()),
        },
        init: LoraInit::default(),
    }
}

/// Folder of a run's base model.
pub(crate) fn base_of(base: &Path, run: &Path) -> Result<PathBuf> {
    if base.exists() {
        return Ok(base.to_owned());
    }
    let problem = format!("the base model of `{}` is not there", run.display());
    let advice = fetch_command(base).unwrap_or_else(|| {
        "put it back, or change `base_model` in the run's `manifest.json`".to_owned()
    });
    Err(Error::weights(base, problem).with_hint(advice))
}
