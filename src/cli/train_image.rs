//! One image run: load, generate what is compared with, encode, train, write down.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};
use tch::{Device, Kind, Tensor};

use super::device::resolve;
use super::interrupt::Interrupt;
use super::model::{lora_config, truncation_warnings};
use super::plan_image;
use super::plan_image_work::Job;
use super::progress::Progress;
use super::stopwatch::Stopwatch;
use super::train_negatives::{generated_images, sample_settings};
use super::train_words::{PromptTexts, Words};
use crate::config::{
    AdapterKind, AdapterSection, Config, ImageConfig, ModelSection, ObjectiveKind,
};
use crate::data::photo::{self, Photo};
use crate::data::quality;
use crate::error::{Error, Result};
use crate::files::absolute;
use crate::models::diffusion::UNet;
use crate::models::diffusion::pipeline::{Kinds, Pipeline};
use crate::models::encoders::DualEncoder;
use crate::models::lora::LoraSet;
use crate::models::weights::{Checkpoint, hex};
use crate::ops::random::derive_seed;
use crate::run::checkpoint::{BestWeights, Part, restore_latest};
use crate::run::folder::RunFolder;
use crate::run::manifest::{self, FINISHED, Manifest, Record, StepProfile, SubjectManifest};
use crate::run::recorder::Recorder;
use crate::trainer::denoising::Reference;
use crate::trainer::event::Sample;
use crate::trainer::image::{ImageTask, Inputs, label_transform};
use crate::trainer::optimizer::{AdamW, AdamWConfig};
use crate::trainer::profile::Profile;
use crate::trainer::{self, LoopConfig, Task as _};

/// What changes nothing of a run's numbers.
pub(super) struct How {
    pub(super) resume: bool,
    pub(super) quiet: bool,
    /// Time the parts of the steps.
    pub(super) profile: bool,
}

/// Where a run computes and what it may not outlive.
pub(super) struct Setting<'a> {
    pub(super) config: &'a ImageConfig,
    pub(super) device: Device,
    pub(super) kind: Kind,
    pub(super) run: &'a Path,
    pub(super) interrupt: &'a Interrupt,
}

/// What the loop needs, with everything loaded and encoded.
struct Prepared {
    task: ImageTask,
    parameters: Vec<(String, Tensor)>,
    best: BestWeights,
}

/// Checks of a configuration that take the list of transforms.
pub(super) fn check(config: &Config) -> Result<()> {
    match config {
        Config::Image(config) => label_transform(&config.objective).map(drop),
        _ => Ok(()),
    }
}

/// One run, from configuration to best weights.
pub(super) fn train(config: &ImageConfig, how: &How, interrupt: &Interrupt) -> Result<Manifest> {
    let mut display = Progress::new(how.quiet);
    label_transform(&config.objective)?;
    let (device, kind) = resolve(&config.run.device, config.run.precision)?;
    let subject = Words::new(&config.subject)?;
    let photos = subject.subject.load()?;
    let prompts = PromptTexts::new(config, &subject)?;
    let folder = RunFolder::create(&config.run.output, config, how.resume)?;
    let run = folder.path();
    let mut watch = Stopwatch::start();
    let earlier = Manifest::read(run).ok();
    if let Some(earlier) = &earlier {
        if earlier.record.status == FINISHED {
            display.say(&format!(
                "`{}` is finished: nothing is left to do",
                run.display()
            ));
            return Ok(earlier.clone());
        }
        watch.resume(&earlier.record.seconds);
    }
    let hashes = hash_in_background(config, subject.subject.photos.clone());
    let setting = Setting {
        config,
        device,
        kind,
        run,
        interrupt,
    };
    let prepared = prepare(
        &setting,
        &subject,
        photos,
        prompts,
        &mut display,
        &mut watch,
    )?;
    let Prepared {
        mut task,
        parameters,
        best,
    } = prepared;

    let mut manifest = describe(
        &setting,
        &subject,
        &task,
        &parameters,
        hashes.join().unwrap_or_default(),
    );
    if let Some(earlier) = &earlier {
        manifest.check_inputs(earlier, run)?;
    }
    manifest.record.seconds = watch.seconds();
    manifest::write(&manifest, run)?;
    let mut optimizer = AdamW::new(AdamWConfig::from(&config.train), parameters);
    let progress = restore_latest(run, &mut optimizer)?.unwrap_or_default();
    if how.profile {
        task.set_profile(Profile::new(device));
    }
    task.continue_counts(progress.counts.clone());
    let interrupted = || interrupt.requested();
    let mut recorder = Recorder::new(
        run,
        &progress,
        best,
        config.checkpoint.keep,
        &mut display,
        &interrupted,
    )?;
    let outcome = trainer::run(
        &mut task,
        &mut optimizer,
        &LoopConfig::new(&config.train, &config.validation, &config.checkpoint),
        progress,
        &mut recorder,
    );
    watch.lap("train");
    manifest.record.seconds = watch.seconds();
    manifest.record.counts = task.counts().into_iter().collect();
    manifest.record.conclude(&outcome, config.train.steps);
    if let Some(profile) = task.profile() {
        let forwards = manifest.record.counts.get("unet_forwards_training");
        let job = Job::subject(config);
        let policy = job.policy_forwards(manifest.record.steps).max(1);
        let reference = forwards.map_or(0.0, |&count| count as f64 / policy as f64 - 1.0);
        let cost = plan_image::Model::open(&job)?.step_cost(&job);
        let profile = profiled(profile, plan_image::step_flops(&job, &cost, reference));
        for (part, seconds) in &profile.seconds_a_step {
            display.say(&format!("{part:<20} {:9.2} ms a step", 1e3 * seconds));
        }
        let rate = profile.flops_per_second / 1e12;
        display.say(&format!("U-Net: {rate:.3} TFLOP/s over whole steps"));
        manifest.profile = Some(profile);
    }
    let written = manifest::write(&manifest, run);
    // Where both failed, why the run ended matters more.
    outcome.and(written).map(|()| manifest)
}

/// Loads the models, samples the negatives, encodes everything, and says what is worth knowing of the inputs.
fn prepare(
    setting: &Setting,
    subject: &Words,
    photos: Vec<Photo>,
    prompts: PromptTexts,
    display: &mut Progress,
    watch: &mut Stopwatch,
) -> Result<Prepared> {
    let &Setting {
        config,
        device,
        kind,
        ..
    } = setting;
    let pipeline = open_to_train(&config.model, config.adapter.kind, device, kind)?;
    let encoder = DualEncoder::open(&config.reward.encoder, device, Kind::Float)?;
    watch.lap("load");

    let settings = sample_settings(&config.train, &config.sampler, &pipeline)?;
    let generated = generated_images(setting, &prompts.negatives, &pipeline, &settings, display)?;
    watch.lap("negatives");

    let parts = (&config.model, &config.adapter);
    let needs_reference = config.objective.kind == ObjectiveKind::Rpo;
    let (parameters, reference, best) =
        trained_parts(&pipeline, parts, config.run.seed, needs_reference)?;
    let side = settings.width as u32;
    for warning in quality::inspect(&photos, side) {
        display.say(&format!("warning: {warning}"));
    }
    let inputs = inputs(config, subject, photos, generated, prompts.validation, side);
    watch.lap("load");
    let mut texts: Vec<String> = inputs
        .generated
        .iter()
        .map(|sample| sample.prompt.clone())
        .collect();
    texts.dedup();
    texts.extend(
        inputs
            .validation_prompts
            .iter()
            .chain([&inputs.photo_prompt])
            .cloned(),
    );
    for warning in truncation_warnings(&pipeline, &texts)? {
        display.say(&format!("warning: {warning}"));
    }
    let mut task = ImageTask::new(pipeline, reference, encoder, config, inputs, settings)?;
    if let Some(labels) = task.label_statistics() {
        display.say(&format!(
            "labels: {} pairs, a photo is preferred with probability {:.3} in the mean; {:.0} % are coin flips",
            labels.pairs,
            labels.mean_probability,
            100.0 * labels.coin_flips
        ));
    }
    watch.lap("encode");
    task.fill_bank(config, |done, total| {
        if setting.interrupt.requested() {
            return Err(Error::Interrupted {
                step: 0,
                checkpoint: setting.run.to_owned(),
            });
        }
        display.advance("base errors", done, total);
        Ok(())
    })?;
    if config.objective.noise_bank > 0 {
        watch.lap("base errors");
    }
    Ok(Prepared {
        task,
        parameters,
        best,
    })
}

/// The base model, its U-Net stored in f32 where all of it is trained.
pub(super) fn open_to_train(
    model: &ModelSection,
    adapter: AdapterKind,
    device: Device,
    kind: Kind,
) -> Result<Pipeline> {
    let full = adapter == AdapterKind::Full;
    let kinds = Kinds {
        compute: kind,
        unet: if full { Kind::Float } else { kind },
    };
    Pipeline::open(&model.base, model.variant.as_deref(), device, kinds)
}

/// The images and prompts that the task encodes.
fn inputs(
    config: &ImageConfig,
    subject: &Words,
    photos: Vec<Photo>,
    generated: Vec<Sample>,
    validation_prompts: Vec<String>,
    side: u32,
) -> Inputs {
    Inputs {
        squares: photos
            .iter()
            .map(|photo| photo::square(&photo.image, side))
            .collect(),
        photos: photos.into_iter().map(|photo| photo.image).collect(),
        photo_prompt: subject.fill(&config.subject.prompt),
        generated,
        validation_prompts,
        token: config.subject.token.clone(),
    }
}

/// What identifies a run's inputs.
#[derive(Default)]
struct InputHashes {
    /// Of the base U-Net's files.
    unet: String,
    /// Of the photos' files.
    photos: String,
}

/// SHA-256 of inputs, read while other things are done; empty where they cannot be read (loading says why).
fn hash_in_background(config: &ImageConfig, photos: Vec<PathBuf>) -> JoinHandle<InputHashes> {
    let (folder, variant) = (config.model.base.join("unet"), config.model.variant.clone());
    std::thread::spawn(move || {
        let unet =
            Checkpoint::open_component(&folder, "diffusion_pytorch_model", variant.as_deref());
        let mut files = Sha256::new();
        for photo in photos {
            files.update(std::fs::read(photo).unwrap_or_default());
        }
        InputHashes {
            unet: unet
                .map(|checkpoint| checkpoint.sha256())
                .unwrap_or_default(),
            photos: hex(&files.finalize()),
        }
    })
}

pub(super) type TrainedParts = (Vec<(String, Tensor)>, Option<Reference>, BestWeights);

/// The trained tensors as f32 leaves, the reference model where it is needed, and how the best weights are written.
pub(super) fn trained_parts(
    pipeline: &Pipeline,
    (model, adapter): (&ModelSection, &AdapterSection),
    seed: u64,
    needs_reference: bool,
) -> Result<TrainedParts> {
    let (device, kind) = (pipeline.device(), pipeline.kind());
    match adapter.kind {
        AdapterKind::Lora => {
            let seed = derive_seed(seed, "lora", &[]) as u64;
            let lora = LoraSet::attach(
                pipeline.unet.adapters(),
                &lora_config(adapter),
                seed,
                device,
                Kind::Float,
            )?;
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

/// The parts' times as the manifest has them; `flops` of a step.
fn profiled(profile: &Profile, flops: f64) -> StepProfile {
    let (steps, seconds) = profile.totals();
    let steps = steps.max(1) as f64;
    let parts = seconds
        .iter()
        .map(|(&part, &sum)| (part.to_owned(), sum / steps));
    StepProfile {
        seconds_a_step: parts.collect(),
        flops_a_step: flops,
        flops_per_second: flops * steps / seconds.values().sum::<f64>().max(f64::MIN_POSITIVE),
    }
}

/// What is known of a run before its first step.
fn describe(
    setting: &Setting,
    subject: &Words,
    task: &ImageTask,
    parameters: &[(String, Tensor)],
    hashes: InputHashes,
) -> Manifest {
    let &Setting {
        config,
        device,
        kind,
        ..
    } = setting;
    let encoder = task.encoder();
    Manifest {
        record: Record::begin(device, kind, parameters),
        base_model: absolute(&config.model.base),
        base_unet_sha256: hashes.unet,
        adapter: config.adapter.kind,
        rank: config.adapter.rank,
        alpha: config.adapter.alpha,
        reward_encoder: (encoder.name(), encoder.weights_sha256().to_owned()),
        subject: SubjectManifest {
            name: subject.subject.name.clone(),
            class: subject.subject.class.clone(),
            token: config.subject.token.clone(),
            photos: subject
                .subject
                .photos
                .iter()
                .map(|photo| absolute(photo))
                .collect(),
            photos_sha256: hashes.photos,
        },
        oracle_image_similarity: task.oracle(),
        labels: serde_json::to_value(task.label_statistics()).unwrap_or_default(),
        profile: None,
    }
}
