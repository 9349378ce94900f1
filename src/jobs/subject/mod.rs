//! A run on a subject: load, generate what photos are compared with, encode, train on RPO or DreamBooth.

mod inputs;
pub(crate) mod negatives;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::JoinHandle;

use image::RgbImage;
use serde::Serialize;
use tch::Kind;

use self::negatives::generated_images;
use super::interrupt::Interrupt;
use super::plan::image_model::{ImageModel, step_flops};
use super::plan::image_run::ImageRun;
use super::policy::diffusion::{
    START, VAE, open_to_train, sample_settings, start_note, start_sha256, trained_parts, vae_sha256,
};
use super::prompts::{RunPrompts, SubjectPrompts};
use super::{Display, Job, Prepared, RunContext, RunOptions, Sections, Trainable};
use crate::config::{ObjectiveKind, SubjectConfig, ValidationReward};
use crate::data::photo::{self, Photo};
use crate::error::{Error, Result};
use crate::files::absolute;
use crate::jobs::inputs::files_sha256;
use crate::models::encoders::DualEncoder;
use crate::models::weights::Checkpoint;
use crate::run::checkpoint::{BestWeights, latest_progress};
use crate::run::manifest::{Record, StepProfile, SubjectManifest, SubjectRecord};
use crate::run::recorder::{sample_file, samples_at};
use crate::trainer::event::metric;
use crate::trainer::profile::Profile;
use crate::trainer::subject::{SubjectTask, label_weighing};

/// Checks of a configuration that take the list of transforms.
pub(super) fn check(config: &SubjectConfig) -> Result<()> {
    label_weighing(&config.objective).map(drop)
}

/// Tunes a model to the subject of a configuration: from photos to best weights.
///
/// # Errors
/// Inputs that cannot be read or do not fit together, a folder that holds another run, a run that diverges or is
/// interrupted.
pub fn train(
    config: &SubjectConfig,
    options: RunOptions,
    display: &mut dyn Display,
    interrupt: &Interrupt,
) -> Result<SubjectManifest> {
    let weighing = label_weighing(&config.objective)?;
    let subject = SubjectPrompts::new(&config.subject)?;
    let photos = subject.subject.load()?;
    if config.objective.kind == ObjectiveKind::Rpo {
        weighing.check_photos(photos.len())?;
    }
    let prompts = RunPrompts::new(config, &subject)?;
    let specific = config.validation.reward == ValidationReward::Specific;
    if specific && prompts.class_alone(config).is_empty() {
        let problem = "`validation.reward = \"specific\"` compares prompts with the token and without, and no validation prompt has it";
        return Err(Error::config(problem).with_hint("write `{token}` into `validation.prompts`"));
    }
    let job = SubjectJob { config, subject };
    super::run(job, (photos, prompts), options, display, interrupt)
}

/// A run on a subject's photos.
struct SubjectJob<'a> {
    config: &'a SubjectConfig,
    subject: SubjectPrompts<'a>,
}

impl Job for SubjectJob<'_> {
    type Task = SubjectTask;
    type Manifest = SubjectManifest;
    type Inputs = (Vec<Photo>, RunPrompts);

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
        (photos, prompts): Self::Inputs,
        context: &mut RunContext,
    ) -> Result<Prepared<SubjectTask, SubjectManifest>> {
        let hashes = hash_in_background(self.config, self.subject.subject.photos.clone());
        let (mut task, parameters, best) =
            prepare(self.config, &self.subject, photos, prompts, context)?;
        if context.options.profile {
            task.set_profile(Profile::new(context.device));
        }
        let manifest = describe(
            self.config,
            &self.subject,
            &task,
            hashes.join().unwrap_or_default(),
            size(self.config, &best),
        );
        Ok(Prepared {
            task,
            parameters,
            best,
            manifest,
        })
    }

    fn note(
        &self,
        task: &SubjectTask,
        manifest: &mut SubjectManifest,
        context: &mut RunContext,
    ) -> Result<()> {
        let Some(profile) = task.profile() else {
            return Ok(());
        };
        let forwards = manifest.record.counts.get("unet_forwards_training");
        let job = ImageRun::subject(self.config);
        let policy = job.policy_forwards(manifest.record.steps).max(1);
        let reference = forwards.map_or(0.0, |&count| count as f64 / policy as f64 - 1.0);
        let cost = ImageModel::open(&job)?.step_cost(&job);
        let profile = profiled(profile, step_flops(&job, &cost, reference));
        for (part, seconds) in &profile.seconds_a_step {
            let line = format!("{part:<20} {:9.2} ms a step", 1e3 * seconds);
            context.display.say(&line);
        }
        let rate = profile.flops_per_second / 1e12;
        let line = format!("U-Net: {rate:.3} TFLOP/s over whole steps");
        context.display.say(&line);
        manifest.profile = Some(profile);
        Ok(())
    }
}

/// Loads the models, samples the negatives, encodes everything, and says what is worth knowing of the inputs.
fn prepare(
    config: &SubjectConfig,
    subject: &SubjectPrompts,
    photos: Vec<Photo>,
    prompts: RunPrompts,
    context: &mut RunContext,
) -> Result<Trainable<SubjectTask>> {
    let (device, kind) = (context.device, context.kind);
    context.display.say(&format!(
        "loading `{}` and the reward encoder",
        config.model.base.display()
    ));
    let (pipeline, start) = open_to_train(&config.model, &config.adapter, device, kind)?;
    if let Some(note) = pipeline.vae_source().note() {
        context.display.warn(&note);
    }
    if let Some(start) = &start {
        context.display.say(&start_note(&config.adapter, start));
    }
    let encoder = DualEncoder::open(&config.reward.encoder, device, Kind::Float)?;
    for note in encoder.assumed() {
        context.display.say(note);
    }
    context.lap("load");

    let settings = sample_settings(&config.train, &config.sampler, &pipeline)?;
    for note in inputs::notes(config, &photos, &prompts, settings.width as u32)? {
        context.display.say(&note);
    }
    for warning in inputs::warnings(&pipeline, &encoder, subject, &prompts)? {
        context.display.say(&format!("warning: {warning}"));
    }
    let generated = generated_images(config, &prompts, &pipeline, &settings, context)?;
    context.lap("negatives");

    let parts = (&config.model, &config.adapter);
    let objective = &config.objective;
    let needs_reference = objective.kind == ObjectiveKind::Rpo || objective.dop_weight > 0.0;
    let (parameters, reference, best) =
        trained_parts(&pipeline, parts, start, config.run.seed, needs_reference)?;
    let side = settings.width as u32;
    let inputs = inputs::encoded(config, photos, generated, prompts, side);
    context.lap("load");
    let mut task = SubjectTask::new(pipeline, reference, encoder, config, inputs, settings)?;
    remember_untuned(&mut task, context)?;
    if let Some(labels) = task.label_statistics() {
        context.display.say(&format!(
            "labels: {} pairs, a photo is preferred with probability {:.3} in the mean; {:.0} % are coin flips",
            labels.pairs,
            labels.mean_probability,
            100.0 * labels.coin_flips
        ));
    }
    context.lap("encode");
    task.fill_bank(config, |done, total| {
        context.advance("base errors", done, total)
    })?;
    if config.objective.noise_bank > 0 {
        context.lap("base errors");
    }
    Ok((task, parameters, best))
}

/// Gives a resumed run what its first part measured of the untuned model.
fn remember_untuned(task: &mut SubjectTask, context: &mut RunContext) -> Result<()> {
    let Some(first) = task.first_of_class() else {
        return Ok(());
    };
    let earlier = latest_progress(context.run)?;
    let Some(cosine) = earlier.and_then(|progress| metric(&progress.untuned, "pres")) else {
        return Ok(());
    };
    let folder = samples_at(context.run, 0);
    let files = (first..).map(|index| folder.join(sample_file(index)));
    let images = files.take_while(|file| file.exists());
    let images: Vec<RgbImage> = images
        .map(|file| photo::load(&file))
        .collect::<Result<_>>()?;
    if !task.remember_untuned(cosine, &images)? {
        context.display.say(
            "warning: the untuned model's samples are gone from the run's folder: `class_drift` is left out from here on",
        );
    }
    Ok(())
}

/// The hashes that identify a run's inputs.
#[derive(Default)]
struct InputHashes {
    /// Of the base U-Net's files.
    unet: String,
    /// Of the photos' files.
    photos: String,
    /// Of the LoRA that training goes on from.
    start: Option<String>,
    /// Of the autoencoder in the place of the base's.
    vae: Option<String>,
}

/// SHA-256 of inputs, read while other things are done; empty where they cannot be read (loading says why).
fn hash_in_background(config: &SubjectConfig, photos: Vec<PathBuf>) -> JoinHandle<InputHashes> {
    let (folder, variant) = (config.model.base.join("unet"), config.model.variant.clone());
    let start = config.adapter.start.clone();
    let model = config.model.clone();
    std::thread::spawn(move || {
        let unet =
            Checkpoint::open_component(&folder, "diffusion_pytorch_model", variant.as_deref());
        InputHashes {
            unet: unet
                .and_then(|checkpoint| checkpoint.sha256())
                .unwrap_or_default(),
            photos: files_sha256(&photos).unwrap_or_default(),
            start: start.map(|file| start_sha256(&file).unwrap_or_default()),
            vae: vae_sha256(&model).unwrap_or_default(),
        }
    })
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

/// Rank and alpha of the LoRA: those of most modules, where the run goes on from one.
fn size(config: &SubjectConfig, best: &BestWeights) -> (i64, f64) {
    match best {
        BestWeights::Lora(lora) if config.adapter.start.is_some() => lora.weights().usual_size(),
        _ => (config.adapter.rank, config.adapter.alpha),
    }
}

/// The manifest of a run before its first step.
fn describe(
    config: &SubjectConfig,
    subject: &SubjectPrompts,
    task: &SubjectTask,
    hashes: InputHashes,
    (rank, alpha): (i64, f64),
) -> SubjectManifest {
    let encoder = task.encoder();
    let photos = subject.subject.photos.iter();
    let mut inputs: BTreeMap<String, String> = [
        ("photos", &hashes.photos),
        ("base U-Net", &hashes.unet),
        ("reward encoder", &encoder.weights_sha256().to_owned()),
    ]
    .map(|(name, hash)| (name.to_owned(), hash.clone()))
    .into();
    inputs.extend(hashes.start.map(|hash| (START.to_owned(), hash)));
    inputs.extend(hashes.vae.map(|hash| (VAE.to_owned(), hash)));
    SubjectManifest {
        record: Record::of_inputs(inputs),
        base_model: absolute(&config.model.base),
        vae: config.model.vae.as_deref().map(absolute),
        adapter: config.adapter.kind,
        rank,
        alpha,
        reward_encoder: (encoder.name(), encoder.weights_sha256().to_owned()),
        subject: SubjectRecord {
            name: subject.subject.name.clone(),
            class: subject.subject.class.clone(),
            token: config.subject.token.clone(),
            photos: photos.map(|photo| absolute(photo)).collect(),
            photos_sha256: hashes.photos,
        },
        base_unet_sha256: hashes.unet,
        oracle_image_similarity: task.oracle(),
        labels: serde_json::to_value(task.label_statistics()).unwrap_or_default(),
        profile: None,
    }
}
