//! `preftune pretrain`: a part of a small text-to-image model, or a language model, from scratch to weights that
//! everything else loads.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use sha2::{Digest as _, Sha256};
use tch::{Device, Kind, Tensor};

use super::device::resolve;
use super::generate::SamplerArg;
use super::interrupt::Interrupt;
use super::progress::Progress;
use super::stopwatch::Stopwatch;
use super::train_text;
use crate::config::{self, Config, PartKind, PretrainConfig, StoredType};
use crate::data::world::World;
use crate::error::{Error, Result};
use crate::models::diffusion::{SamplingOptions, Vae};
use crate::models::weights::{hex, save};
use crate::run::checkpoint::{BestWeights, Part, best_of, restore_latest};
use crate::run::folder::RunFolder;
use crate::run::manifest::{self, FINISHED, PretrainManifest, Record};
use crate::run::recorder::Recorder;
use crate::trainer::optimizer::{AdamW, AdamWConfig};
use crate::trainer::pretrain::{EncoderTask, UNetTask, VaeTask, normalize_latents};
use crate::trainer::{self, LoopConfig, Task};

/// Scenes from which the latents' scale is measured.
const LATENT_SCENES: u64 = 1024;

#[derive(Args)]
pub(super) struct PretrainArgs {
    /// Configuration file (TOML), such as those in `configs/world`; or of a text run, whose model begins with new weights.
    config: PathBuf,
    /// Override a key, as in `--set train.steps=200`; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Run folder; short for `--set run.output=...`.
    #[arg(long)]
    output: Option<PathBuf>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`; short for `--set run.device=...`.
    #[arg(long)]
    device: Option<String>,
    /// Continue an interrupted run from its last checkpoint.
    #[arg(long)]
    resume: bool,
    /// No progress, errors only.
    #[arg(long)]
    quiet: bool,
}

pub(super) fn run(args: &PretrainArgs) -> Result<()> {
    let mut overrides = args.overrides.clone();
    let mut set = |key: &str, value: Option<String>| {
        overrides.extend(value.map(|value| format!("{key}={}", toml::Value::String(value))));
    };
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    set("run.output", args.output.as_ref().map(text));
    set("run.device", args.device.clone());
    let interrupt = Interrupt::install()?;
    if let Config::Text(_) = config::load_any(&args.config, &overrides)? {
        // Everything of a text run but the weights that it starts from.
        overrides.push("model.from_scratch=true".to_owned());
        let config = config::load_text(&args.config, &overrides)?;
        return train_text::run(&config, args.resume, args.quiet, &interrupt);
    }
    let config = config::load_pretrain(&args.config, &overrides)?;
    let manifest = pretrain(&config, args, &interrupt)?;
    let best = config.run.output.join("best");
    match manifest.record.best {
        Some((step, reward)) => println!(
            "weights: {} (step {step}, validation {reward:.4})",
            best.display()
        ),
        None => println!(
            "weights: {} (step {})",
            best.display(),
            manifest.record.steps
        ),
    }
    Ok(())
}

fn pretrain(
    config: &PretrainConfig,
    args: &PretrainArgs,
    interrupt: &Interrupt,
) -> Result<PretrainManifest> {
    let mut display = Progress::new(args.quiet);
    let (device, kind) = resolve(&config.run.device, config.run.precision)?;
    let world = World::open(&config.world.sprites)?;
    let folder = RunFolder::create(&config.run.output, config, args.resume)?;
    let run = folder.path();
    let mut watch = Stopwatch::start();
    if let Ok(earlier) = manifest::read::<PretrainManifest>(run) {
        if earlier.record.status == FINISHED {
            display.say(&format!(
                "`{}` is finished: nothing is left to do",
                run.display()
            ));
            return Ok(earlier);
        }
        watch.resume(&earlier.record.seconds);
    }
    let (mut task, parameters) = task(config, world, device, kind, &mut display, interrupt)?;
    watch.lap("prepare");

    let mut manifest = PretrainManifest {
        record: Record::begin(device, kind, &parameters),
        part: config.part.kind,
        template: config.part.template.clone(),
        sprites_sha256: sprites_sha256(&config.world.sprites)?,
    };
    manifest.record.seconds = watch.seconds();
    manifest::write(&manifest, run)?;
    let mut optimizer = AdamW::new(AdamWConfig::from(&config.train), parameters);
    let progress = restore_latest(run, &mut optimizer)?.unwrap_or_default();
    let interrupted = || interrupt.requested();
    let mut recorder = Recorder::new(
        run,
        &progress,
        BestWeights::Parts(parts(config)?),
        config.checkpoint.keep,
        &mut display,
        &interrupted,
    )?;
    let outcome = trainer::run(
        task.as_mut(),
        &mut optimizer,
        &LoopConfig::new(&config.train, &config.validation, &config.checkpoint),
        progress,
        &mut recorder,
    );
    watch.lap("train");
    let outcome = outcome.and_then(|progress| {
        if config.part.kind == PartKind::Vae {
            normalize(config, device)?;
            watch.lap("normalize");
        }
        Ok(progress)
    });
    manifest.record.seconds = watch.seconds();
    manifest.record.counts = task.counts().into_iter().collect();
    manifest.record.conclude(&outcome, config.train.steps);
    let written = manifest::write(&manifest, run);
    // Where both failed, why the run ended matters more.
    outcome.and(written).map(|()| manifest)
}

type Trained = (Box<dyn Task>, Vec<(String, Tensor)>);

/// The task of the configured part and what it trains.
fn task(
    config: &PretrainConfig,
    world: World,
    device: Device,
    kind: Kind,
    display: &mut Progress,
    interrupt: &Interrupt,
) -> Result<Trained> {
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
                sampler: SamplerArg::from(config.sampler.kind).into(),
                steps: config.sampler.steps,
                guidance: config.sampler.guidance,
                kind,
            };
            let mut encoded = |done, total| {
                display.advance("encode", done, total);
                if interrupt.requested() {
                    return Err(Error::Interrupted {
                        step: 0,
                        checkpoint: config.run.output.clone(),
                    });
                }
                Ok(())
            };
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

/// The files of an encoder's folder that are no weights.
fn settings_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| Error::io("read", folder, source))? {
        let path = entry
            .map_err(|source| Error::io("read", folder, source))?
            .path();
        if path
            .extension()
            .is_some_and(|ending| ending == "json" || ending == "txt")
        {
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
    let kind = stored_kind(config);
    let tensors: Vec<(String, Tensor)> = vae
        .parameters()
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.to_kind(kind)))
        .collect();
    let file = folder.join("diffusion_pytorch_model.safetensors");
    save(&file, &tensors, &BTreeMap::new())
}

/// SHA-256 over the names and bytes of the files below a folder.
fn sprites_sha256(folder: &Path) -> Result<String> {
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
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let name = file.strip_prefix(folder).unwrap_or(&file);
        hash.update(name.to_string_lossy().as_bytes());
        hash.update(fs::read(&file).map_err(|source| Error::io("read", &file, source))?);
    }
    Ok(hex(&hash.finalize()))
}
