//! From a path that the user gives to a loaded pipeline: a model folder, or a run with its best weights.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor, no_grad};

use crate::config::{AdapterKind, AdapterSection, NamedTargets, Targets};
use crate::error::{Error, Result};
use crate::models::diffusion::UNet;
use crate::models::diffusion::pipeline::{Kinds, Pipeline};
use crate::models::lora::{LoraConfig, LoraInit, LoraSet, Targets as LoraTargets, peft};
use crate::models::weights::Checkpoint;
use crate::run::checkpoint::best_of;
use crate::run::folder::read_config;
use crate::run::manifest::{self, Manifest, Tuned};

/// A pipeline and what it was made of, in words.
pub(super) struct LoadedModel {
    pub(super) pipeline: Pipeline,
    pub(super) name: String,
}

/// Loads `path`: a Hugging Face model folder or a run; `lora` is laid over it.
pub(super) fn open(
    path: &Path,
    lora: Option<&Path>,
    variant: Option<&str>,
    device: Device,
    kind: Kind,
) -> Result<LoadedModel> {
    let kinds = Kinds {
        compute: kind,
        unet: kind,
    };
    let name = path.display().to_string();
    if path.join("model_index.json").exists() {
        let pipeline = Pipeline::open(path, variant, device, kinds)?;
        apply_lora(&pipeline, lora)?;
        return Ok(LoadedModel { pipeline, name });
    }
    if !path.join("manifest.json").exists() {
        let what = if path.exists() {
            "neither a model folder nor a run"
        } else {
            "no such folder"
        };
        return Err(Error::weights(path, what)
            .with_hint("give a Hugging Face folder (with `model_index.json`) or the folder of a `preftune train` run"));
    }
    let Tuned { base_model, .. } = manifest::read(path)?;
    let best = best_of(path)?;
    let mut pipeline = Pipeline::open(&base_of(&base_model, path)?, variant, device, kinds)?;
    let unet = best.join("unet");
    if unet.exists() {
        pipeline.unet = UNet::open(&unet, None, device, kind)?;
        apply_lora(&pipeline, lora)?;
    } else if lora.is_some() {
        return Err(Error::config(
            "`--lora` and a run that is a LoRA itself exclude each other",
        ));
    } else {
        apply_lora(&pipeline, Some(&best.join(peft::FILE_NAME)))?;
    }
    Ok(LoadedModel { pipeline, name })
}

/// Loads a run with the weights of one of its checkpoints.
pub(super) fn open_checkpoint(
    run: &Path,
    weights: &Checkpoint,
    device: Device,
    kind: Kind,
) -> Result<Pipeline> {
    let (manifest, config) = (Manifest::read(run)?, read_config(run)?);
    let kinds = Kinds {
        compute: kind,
        unet: kind,
    };
    let variant = config.model.variant.as_deref();
    let pipeline = Pipeline::open(&base_of(&manifest.base_model, run)?, variant, device, kinds)?;
    let lora = match config.adapter.kind {
        AdapterKind::Full => None,
        AdapterKind::Lora => Some(LoraSet::attach(
            pipeline.unet.adapters(),
            &lora_config(&config.adapter),
            0,
            device,
            Kind::Float,
        )?),
    };
    let shared = |(name, tensor): &(String, Tensor)| (name.clone(), tensor.shallow_clone());
    let parameters: Vec<(String, Tensor)> = match &lora {
        Some(lora) => lora.parameters(),
        None => pipeline.unet.parameters().iter().map(shared).collect(),
    };
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
    if let Some(lora) = lora {
        lora.merge();
    }
    Ok(pipeline)
}

/// The LoRA that a run's configuration asks for.
pub(super) fn lora_config(adapter: &AdapterSection) -> LoraConfig {
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

fn apply_lora(pipeline: &Pipeline, lora: Option<&Path>) -> Result<()> {
    if let Some(file) = lora {
        // The layers of the U-Net hold the adapter; merged, it costs nothing while sampling.
        LoraSet::load(pipeline.unet.adapters(), file)?.merge();
    }
    Ok(())
}

/// Folder of a run's base model.
pub(super) fn base_of(base: &Path, run: &Path) -> Result<PathBuf> {
    if base.is_dir() {
        return Ok(base.to_owned());
    }
    Err(Error::weights(
        base,
        format!("the base model of `{}` is not there", run.display()),
    )
    .with_hint("put it back, or change `base_model` in the run's `manifest.json`"))
}

/// A sentence for every prompt whose end the text encoder does not read.
pub(super) fn truncation_warnings(pipeline: &Pipeline, prompts: &[String]) -> Result<Vec<String>> {
    let sentence = |(index, lost): (usize, String)| {
        format!(
            "the end of the prompt `{}` is beyond what the model reads: `{lost}`",
            prompts[index]
        )
    };
    Ok(pipeline
        .truncations(prompts)?
        .into_iter()
        .map(sentence)
        .collect())
}
