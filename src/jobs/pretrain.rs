//! A part of a small text-to-image model from scratch, on the emoji world.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tch::{Device, Kind, Tensor};

use super::interrupt::Interrupt;
use super::{Display, Job, Prepared, RunContext, RunOptions, Sections};
use crate::config::{PartKind, PretrainConfig, StoredType};
use crate::data::world::{TOKENS, World};
use crate::error::{Error, Result};
use crate::models::diffusion::{SamplingOptions, Vae};
use crate::models::prompt_encoder::TextPart;
use crate::models::weights::{Checkpoint, hex, save};
use crate::run::checkpoint::{BestWeights, Part, best_of};
use crate::run::manifest::{PretrainManifest, Record};
use crate::trainer::Task;
use crate::trainer::pretrain::{EncoderTask, UNetTask, VaeTask, normalize_latents};

/// Scenes from which the latents' scale is measured.
const LATENT_SCENES: u64 = 1024;

/// A task of one of the parts, and what it trains.
type TaskParts = (Box<dyn Task>, Vec<(String, Tensor)>);

/// Trains the part of a configuration: from scenes of its world to best weights.
///
/// # Errors
/// Sprites or settings that cannot be read, a folder that holds another run, a run that diverges or is interrupted.
pub fn train(
    config: &PretrainConfig,
    options: RunOptions,
    display: &mut dyn Display,
    interrupt: &Interrupt,
) -> Result<PretrainManifest> {
    let world = World::open(&config.world.sprites)?;
    super::run(PretrainJob { config }, world, options, display, interrupt)
}

/// A run that trains a part from scratch.
struct PretrainJob<'a> {
    config: &'a PretrainConfig,
}

impl Job for PretrainJob<'_> {
    type Task = Box<dyn Task>;
    type Manifest = PretrainManifest;
    type Inputs = World;

    fn config(&self) -> &impl Serialize {
        self.config
    }

    fn sections(&self) -> Sections<'_> {
        let config = self.config;
        Sections::new(
            &config.run,
            &config.train,
            &config.validation,
            &config.checkpoint,
        )
    }

    fn prepare(
        &mut self,
        world: World,
        context: &mut RunContext,
    ) -> Result<Prepared<Box<dyn Task>, PretrainManifest>> {
        let config = self.config;
        let sprites_sha256 = folder_sha256(&config.world.sprites, |_| true)?;
        let mut inputs = BTreeMap::from([
            ("sprites".to_owned(), sprites_sha256.clone()),
            (
                "architecture".to_owned(),
                folder_sha256(&config.part.template, is_settings)?,
            ),
        ]);
        if let Some(vae) = &config.part.vae {
            let weights = Checkpoint::open_component(vae, "diffusion_pytorch_model", None)?;
            inputs.insert("autoencoder".to_owned(), weights.sha256()?);
        }
        if let Some(start) = &config.part.start {
            for (part, stem) in [
                ("unet", "diffusion_pytorch_model"),
                ("text_encoder", "model"),
            ] {
                let weights = Checkpoint::open_component(&start.join(part), stem, None)?;
                inputs.insert(format!("start {part}"), weights.sha256()?);
            }
        }
        context.check_inputs(&inputs)?;
        let (task, parameters) = task(config, world, context)?;
        context.lap("prepare");
        Ok(Prepared {
            task,
            parameters,
            best: BestWeights::Parts(parts(config)?),
            manifest: PretrainManifest {
                record: Record::of_inputs(inputs),
                part: config.part.kind,
                template: config.part.template.clone(),
                sprites_sha256,
            },
        })
    }

    fn finish(
        &self,
        _task: &mut Box<dyn Task>,
        _manifest: &mut PretrainManifest,
        context: &mut RunContext,
    ) -> Result<()> {
        match self.config.part.kind {
            PartKind::Vae => {
                normalize(self.config, context.device)?;
                context.lap("normalize");
            }
            PartKind::Unet => draw_tokens(self.config, context.device)?,
            PartKind::Encoder => {}
        }
        Ok(())
    }
}

/// The task of the configured part and what it trains.
fn task(config: &PretrainConfig, world: World, context: &mut RunContext) -> Result<TaskParts> {
    let (device, kind) = (context.device, context.kind);
    Ok(match config.part.kind {
        PartKind::Vae => {
            let task = VaeTask::new(world, config, device)?;
            let parameters = task.parameters();
            (Box::new(task), parameters)
        }
        PartKind::Encoder => {
            let task = EncoderTask::new(world, config, device, kind)?;
            let parameters = task.parameters();
            (Box::new(task), parameters)
        }
        PartKind::Unet => {
            let sampling = SamplingOptions {
                sampler: config.sampler.kind.into(),
                steps: config.sampler.steps,
                guidance: config.sampler.guidance,
                kind,
            };
            let mut encoded = |done, total| context.advance("encode", done, total);
            let task = UNetTask::new(world, config, sampling, device, kind, &mut encoded)?;
            let parameters = task.parameters();
            (Box::new(task), parameters)
        }
    })
}

/// How the configured part is written.
fn parts(config: &PretrainConfig) -> Result<Vec<Part>> {
    let template = &config.part.template;
    let kind = stored_kind(config);
    let part = |folder, prefix, stem, files| Part {
        folder,
        prefix,
        stem,
        files,
        kind,
    };
    let (diffusers, transformers) = ("diffusion_pytorch_model", "model");
    Ok(match config.part.kind {
        PartKind::Vae => vec![part(
            "vae",
            "vae.",
            diffusers,
            vec![template.join("config.json")],
        )],
        PartKind::Encoder => vec![part(
            "encoder",
            "encoder.",
            transformers,
            settings_files(template)?,
        )],
        PartKind::Unet => vec![
            part(
                "unet",
                "unet.",
                diffusers,
                vec![template.join("unet").join("config.json")],
            ),
            part(
                "text_encoder",
                "text_encoder.",
                transformers,
                vec![template.join("text_encoder").join("config.json")],
            ),
        ],
    })
}

fn stored_kind(config: &PretrainConfig) -> Kind {
    match config.part.dtype {
        StoredType::Fp16 => Kind::Half,
        StoredType::Fp32 => Kind::Float,
    }
}

/// `true` for a file of a model's folder that is no weights.
fn is_settings(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending == "json" || ending == "txt")
}

/// The files of an encoder's folder that are no weights.
fn settings_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| Error::io("read", folder, source))? {
        let path = entry
            .map_err(|source| Error::io("read", folder, source))?
            .path();
        if is_settings(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Gives the latents of the best autoencoder mean 0 and deviation 1. Done twice, it changes nothing.
fn normalize(config: &PretrainConfig, device: Device) -> Result<()> {
    let folder = best_of(&config.run.output)?.join("vae");
    let world = World::open(&config.world.sprites)?;
    let mut vae = Vae::open(&folder, None, device)?;
    normalize_latents(&mut vae, &world, config.run.seed, LATENT_SCENES, device);
    let file = folder.join("diffusion_pytorch_model.safetensors");
    save_as(&file, vae.parameters(), stored_kind(config))
}

/// Gives the words that stand for subjects vectors like those of the names in the best text encoder: no caption holds
/// them, so that training leaves them as they were at its start. Done twice, it changes nothing.
fn draw_tokens(config: &PretrainConfig, device: Device) -> Result<()> {
    let best = best_of(&config.run.output)?;
    let world = World::open(&config.world.sprites)?;
    let mut text = TextPart::open(&config.part.template, &best, device)?;
    text.draw_words(&TOKENS, &world.names(), world.classes(), config.run.seed)?;
    let file = best.join("text_encoder").join("model.safetensors");
    save_as(&file, &text.parameters(), stored_kind(config))
}

fn save_as(file: &Path, tensors: &[(String, Tensor)], kind: Kind) -> Result<()> {
    let tensors: Vec<(String, Tensor)> = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.to_kind(kind)))
        .collect();
    save(file, &tensors, &BTreeMap::new())
}

/// SHA-256 over the names and bytes of the files below a folder that `keep` names.
fn folder_sha256(folder: &Path, keep: impl Fn(&Path) -> bool) -> Result<String> {
    fn list(folder: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                list(&path, into)?;
            } else {
                into.push(path);
            }
        }
        Ok(())
    }
    let mut files = Vec::new();
    list(folder, &mut files).map_err(|source| Error::io("read", folder, source))?;
    files.retain(|file| keep(file));
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let name = file.strip_prefix(folder).unwrap_or(&file);
        hash.update(name.to_string_lossy().as_bytes());
        hash.update(fs::read(&file).map_err(|source| Error::io("read", &file, source))?);
    }
    Ok(hex(&hash.finalize()))
}
