//! One run on pairs of images: read, encode, train, write down.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::device::resolve;
use super::interrupt::Interrupt;
use super::model::truncation_warnings;
use super::progress::Progress;
use super::stopwatch::Stopwatch;
use super::train_image::{open_to_train, trained_parts};
use super::train_negatives::sample_settings;
use super::train_pairs_data::{self, PairInputs, compared, latents};
use super::train_reward_images::images_sha256;
use crate::config::{AdapterKind, PairsConfig, PromptList, ValidationSection};
use crate::data::prompts;
use crate::error::{Error, Result};
use crate::files::absolute;
use crate::models::weights::Checkpoint;
use crate::run::checkpoint::{BestWeights, restore_latest};
use crate::run::data_manifest::DataManifest;
use crate::run::folder::RunFolder;
use crate::run::manifest::{self, FINISHED, Record};
use crate::run::recorder::Recorder;
use crate::trainer::optimizer::{AdamW, AdamWConfig};
use crate::trainer::pairs::{Latents, PairsTask, Parts};
use crate::trainer::preview::Preview;
use crate::trainer::{self, LoopConfig, Task as _};

/// What a manifest calls the images' contents.
const IMAGES: &str = "images";

pub(super) fn run(
    config: &PairsConfig,
    resume: bool,
    quiet: bool,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut display = Progress::new(quiet);
    let (device, kind) = resolve(&config.run.device, config.run.precision)?;
    let preview = preview_prompts(config)?;
    let inputs = train_pairs_data::read(config)?;
    if inputs.held_out.is_empty() && config.validation.every > 0 {
        return Err(Error::config("nothing is held out for the validations").with_hint(
            "set `pairs.validation_share = 0.1` or `pairs.validation`, or `validation.every = 0` and `validation.patience = 0`",
        ));
    }
    let folder = RunFolder::create(&config.run.output, config, resume)?;
    let run = folder.path();
    let mut watch = Stopwatch::start();
    let earlier = manifest::read::<DataManifest>(run).ok();
    if let Some(earlier) = &earlier {
        if earlier.record.status == FINISHED {
            display.say(&format!(
                "`{}` is finished: nothing is left to do",
                run.display()
            ));
            print_outcome(run, earlier);
            return Ok(());
        }
        watch.resume(&earlier.record.seconds);
    }
    display.say(&format!(
        "data: {} pairs of {} images under {} prompts, {} held out",
        inputs.train.len(),
        inputs.images.sources.len(),
        inputs.images.prompts.len(),
        inputs.held_out.len()
    ));
    let mut manifest = describe(config, &inputs)?;
    if let Some(earlier) = &earlier {
        manifest.check_inputs(earlier, run)?;
    }
    let setting = Setting {
        config,
        device,
        kind,
        run,
        interrupt,
    };
    let prepared = prepare(
        &setting,
        inputs,
        &manifest.inputs[IMAGES],
        preview,
        &mut display,
        &mut watch,
    )?;
    let Prepared {
        parts,
        parameters,
        best,
    } = prepared;
    manifest.record = Record::begin(device, kind, &parameters);
    manifest.record.seconds = watch.seconds();
    manifest::write(&manifest, run)?;
    let mut task = PairsTask::new(parts, config)?;
    let mut optimizer = AdamW::new(AdamWConfig::from(&config.train), parameters);
    let progress = restore_latest(run, &mut optimizer)?.unwrap_or_default();
    task.continue_counts(&progress.counts);
    let interrupted = || interrupt.requested();
    let keep = config.checkpoint.keep;
    let mut recorder = Recorder::new(run, &progress, best, keep, &mut display, &interrupted)?;
    let validation = ValidationSection {
        every: config.validation.every,
        patience: config.validation.patience,
        ..ValidationSection::default()
    };
    let loops = LoopConfig::new(&config.train, &validation, &config.checkpoint);
    let outcome = trainer::run(&mut task, &mut optimizer, &loops, progress, &mut recorder);
    watch.lap("train");
    manifest.record.seconds = watch.seconds();
    manifest.record.counts = task.counts().into_iter().collect();
    manifest.record.conclude(&outcome, config.train.steps);
    let written = manifest::write(&manifest, run);
    // Where both failed, why the run ended matters more.
    outcome.and(written)?;
    print_outcome(run, &manifest);
    Ok(())
}

/// Where a run computes and what it may not outlive.
struct Setting<'a> {
    config: &'a PairsConfig,
    device: Device,
    kind: Kind,
    run: &'a Path,
    interrupt: &'a Interrupt,
}

/// What the loop needs, with everything loaded and encoded.
struct Prepared {
    parts: Parts,
    parameters: Vec<(String, Tensor)>,
    best: BestWeights,
}

/// Loads the model, encodes images and prompts, and says what is worth knowing of the inputs.
fn prepare(
    setting: &Setting,
    inputs: PairInputs,
    images: &str,
    preview: Vec<String>,
    display: &mut Progress,
    watch: &mut Stopwatch,
) -> Result<Prepared> {
    let &Setting {
        config,
        device,
        kind,
        run,
        interrupt,
    } = setting;
    let pipeline = open_to_train(&config.model, config.adapter.kind, device, kind)?;
    for warning in truncation_warnings(&pipeline, &inputs.images.prompts)? {
        display.say(&format!("warning: {warning}"));
    }
    watch.lap("load");

    let settings = sample_settings(&config.train, &config.sampler, &pipeline)?;
    let side = settings.width as u32;
    let go_on = |done, total| {
        display.advance("encode", done, total);
        if interrupt.requested() {
            return Err(Error::Interrupted {
                step: 0,
                checkpoint: run.to_owned(),
            });
        }
        Ok(())
    };
    let (moments, small) = latents(&pipeline, &inputs, images, side, run, go_on)?;
    if small > 0 {
        display.say(&format!(
            "warning: {small} images are smaller than {side} pixels and were enlarged"
        ));
    }
    let (train, same) = compared(&inputs.train, &moments);
    let (held_out, same_held_out) = compared(&inputs.held_out, &moments);
    if same + same_held_out > 0 {
        let count = same + same_held_out;
        display.say(&format!(
            "warning: {count} pairs are left out: their two pictures are the same"
        ));
    }
    let latents = Latents::new(&pipeline, moments, &inputs.images.prompts, i64::from(side))?;
    let count = config.preview.images_per_prompt;
    let preview = (!preview.is_empty())
        .then(|| Preview::new(&pipeline, preview, count, config.run.seed, settings))
        .transpose()?;
    watch.lap("encode");

    let models = (&config.model, &config.adapter);
    let needs_reference = inputs.objective.needs_reference();
    let (parameters, reference, best) =
        trained_parts(&pipeline, models, config.run.seed, needs_reference)?;
    Ok(Prepared {
        parts: Parts {
            pipeline,
            reference,
            objective: inputs.objective,
            latents,
            train,
            held_out,
            preview,
        },
        parameters,
        best,
    })
}

pub(super) fn preview_prompts(config: &PairsConfig) -> Result<Vec<String>> {
    match &config.preview.prompts {
        Some(PromptList::List(list)) => Ok(list.clone()),
        Some(PromptList::File(file)) => prompts::read(file),
        None => Ok(Vec::new()),
    }
}

/// What is known of a run before its first step.
fn describe(config: &PairsConfig, inputs: &PairInputs) -> Result<DataManifest> {
    let objective = &inputs.objective;
    let base = &config.model.base;
    let unet = Checkpoint::open_component(
        &base.join("unet"),
        "diffusion_pytorch_model",
        config.model.variant.as_deref(),
    )?;
    let mut hashes = inputs.hashes.clone();
    hashes.insert("base U-Net".to_owned(), unet.sha256());
    hashes.insert(IMAGES.to_owned(), images_sha256(&inputs.images)?);
    let reference = match config.adapter.kind {
        _ if !objective.needs_reference() => "none".to_owned(),
        AdapterKind::Lora => format!("`{}` with the adapters off", base.display()),
        AdapterKind::Full => format!("a frozen copy of `{}`", base.display()),
    };
    let counts = [
        ("training", inputs.train.len()),
        ("held out", inputs.held_out.len()),
    ];
    Ok(DataManifest {
        record: Record::default(),
        base_model: absolute(base),
        objective: objective.name(),
        numbers: objective.numbers(),
        adapter: config.adapter.kind,
        reference,
        inputs: hashes,
        examples: BTreeMap::from(counts.map(|(name, count)| (name.to_owned(), count as u64))),
    })
}

fn print_outcome(run: &Path, manifest: &DataManifest) {
    let run = run.display();
    match manifest.record.best {
        Some((step, reward)) => {
            println!("best weights: {run}/best (step {step}, validation {reward:.4})");
        }
        None => println!("weights: {run}/best (step {})", manifest.record.steps),
    }
    println!("try them:     preftune generate --model {run} --prompt \"...\" --out out/");
}
