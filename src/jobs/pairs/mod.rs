//! A run on pairs of images: read, encode, train by any objective of pairs.

pub(crate) mod data;

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::Serialize;
use tch::{Device, Tensor};

use self::data::{Encoded, PairInputs, compared, latents, preview_prompts};
use super::interrupt::Interrupt;
use super::policy::diffusion::{
    START, VAE, open_to_train, sample_settings, start_note, start_sha256, trained_parts, vae_sha256,
};
use super::reward::images::images_sha256;
use super::{Display, Job, Prepared, RunContext, RunOptions, Sections, Trainable, inputs};
use crate::config::{AdapterKind, PairsConfig, ReferenceOf, SubjectConfig};
use crate::data::photo::{self, Photo};
use crate::error::{Error, Result};
use crate::files::absolute;
use crate::models::diffusion::pipeline::{Pipeline, SampleSettings};
use crate::models::encoders::DualEncoder;
use crate::models::weights::Checkpoint;
use crate::run::data_manifest::DataManifest;
use crate::run::manifest::Record;
use crate::trainer::denoising::moments;
use crate::trainer::pairs::{Anchor, Driver, Latents, PairsTask, PairsTaskParts, SharedReward};
use crate::trainer::preview::Preview;
use crate::trainer::subject::Judge;

/// A manifest's name for the hash of the images' contents.
const IMAGES: &str = "images";

/// Tunes a diffusion model to pairs of images: from the records of a configuration to best weights.
///
/// # Errors
/// Data that cannot be read or leave nothing to learn from, parts that do not fit together, a folder that holds another
/// run, a run that diverges or is interrupted.
pub fn train(
    config: &PairsConfig,
    options: RunOptions,
    display: &mut dyn Display,
    interrupt: &Interrupt,
) -> Result<DataManifest> {
    let inputs = data::read(config)?;
    inputs::check_held_out(!inputs.held_out.is_empty(), &config.validation, "pairs")?;
    let beside = Beside {
        noise_seed: config.run.seed,
        reward: None,
        anchor: None,
    };
    run(config, inputs, beside, options, display, interrupt)
}

/// What a round adds to a run on pairs.
pub(crate) struct Beside {
    /// Seed of the noise of the validations' images, which stays while that of the training changes.
    pub(crate) noise_seed: u64,
    /// What rewards the validations' images: their mean reward then decides.
    pub(crate) reward: Option<RoundReward>,
    /// Photos that the model is held to.
    pub(crate) anchor: Option<AnchorPhotos>,
}

/// What rewards the images of a round's validations.
pub(crate) enum RoundReward {
    /// Any reward.
    Any(SharedReward),
    /// The reward of a subject.
    Subject(Rc<SubjectMeasures>),
}

/// What a subject's images are measured by.
pub(crate) struct SubjectMeasures {
    pub(crate) encoder: Rc<DualEncoder>,
    /// Features of the photos, `[r, d]`.
    pub(crate) photos: Tensor,
    /// Of the untuned model's images of the class word: mean cosine with the photos, and features, `[n, d]`.
    pub(crate) untuned: Option<(f64, Tensor)>,
    /// The subject, and how validations measure it.
    pub(crate) config: SubjectConfig,
}

/// Photos that a model is held to.
pub(crate) struct AnchorPhotos {
    pub(crate) photos: Rc<[Photo]>,
    /// The prompt that they are learnt under.
    pub(crate) prompt: String,
    /// Weight of their error.
    pub(crate) weight: f64,
}

/// As [`train`], with what a round adds.
///
/// # Errors
/// As there, but for pairs that are held out.
pub(crate) fn train_round(
    config: &PairsConfig,
    beside: Beside,
    options: RunOptions,
    display: &mut dyn Display,
    interrupt: &Interrupt,
) -> Result<DataManifest> {
    let inputs = data::read(config)?;
    run(config, inputs, beside, options, display, interrupt)
}

fn run(
    config: &PairsConfig,
    inputs: PairInputs,
    beside: Beside,
    options: RunOptions,
    display: &mut dyn Display,
    interrupt: &Interrupt,
) -> Result<DataManifest> {
    let preview = preview_prompts(config)?;
    let job = PairsJob {
        config,
        beside: Some(beside),
    };
    super::run(job, (inputs, preview), options, display, interrupt)
}

/// A run on pairs of images.
struct PairsJob<'a> {
    config: &'a PairsConfig,
    /// Taken by the preparation.
    beside: Option<Beside>,
}

impl Job for PairsJob<'_> {
    type Task = PairsTask;
    type Manifest = DataManifest;
    /// Pairs, and prompts of the preview.
    type Inputs = (PairInputs, Vec<String>);

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
        (inputs, preview): Self::Inputs,
        context: &mut RunContext,
    ) -> Result<Prepared<PairsTask, DataManifest>> {
        context.display.say(&format!(
            "data: {} pairs of {} images under {} prompts, {} held out",
            inputs.train.len(),
            inputs.images.sources.len(),
            inputs.images.prompts.len(),
            inputs.held_out.len()
        ));
        for line in &inputs.lines {
            context.display.say(&format!("  {line}"));
        }
        let manifest = describe(self.config, &inputs)?;
        context.check_inputs(&manifest.record.inputs)?;
        let images = &manifest.record.inputs[IMAGES];
        let beside = self.beside.take();
        let beside = beside.ok_or_else(|| Error::config("a run is prepared once"))?;
        let (parts, parameters, best) =
            prepare(self.config, inputs, images, (preview, beside), context)?;
        Ok(Prepared {
            task: PairsTask::new(parts, self.config)?,
            parameters,
            best,
            manifest,
        })
    }
}

/// Loads the model, encodes images and prompts, and says what is worth knowing of the inputs.
fn prepare(
    config: &PairsConfig,
    mut inputs: PairInputs,
    images: &str,
    (preview, beside): (Vec<String>, Beside),
    context: &mut RunContext,
) -> Result<Trainable<PairsTaskParts>> {
    let (device, kind) = (context.device, context.kind);
    let (pipeline, start) = open_to_train(&config.model, &config.adapter, device, kind)?;
    if let Some(note) = pipeline.vae_source().note() {
        context.display.warn(&note);
    }
    if let Some(start) = &start {
        context.display.say(&start_note(&config.adapter, start));
    }
    for warning in pipeline.prompt_notes(&inputs.images.prompts)? {
        context.display.say(&format!("warning: {warning}"));
    }
    context.lap("load");

    let settings = sample_settings(&config.train, &config.sampler, &pipeline)?;
    let side = settings.width as u32;
    let Encoded {
        moments,
        small,
        broken,
    } = latents(&pipeline, &inputs, images, side, context)?;
    for line in inputs.leave_out(&broken)? {
        context.display.say(&format!("warning: {line}"));
    }
    if small > 0 {
        context.display.say(&format!(
            "warning: {small} images are smaller than {side} pixels and were enlarged"
        ));
    }
    let (train, same) = compared(&inputs.train, &moments);
    let (held_out, same_held_out) = compared(&inputs.held_out, &moments);
    if same + same_held_out > 0 {
        let count = same + same_held_out;
        context.display.say(&format!(
            "warning: {count} pairs are left out: their two pictures are the same"
        ));
    }
    let mut prompts = inputs.images.prompts.clone();
    let (moments, anchor) = with_anchor(&pipeline, moments, &mut prompts, beside.anchor, side);
    let latents = Latents::new(&pipeline, moments, &prompts, i64::from(side))?;
    let (driver, preview) = match beside.reward {
        None => (None, preview),
        Some(RoundReward::Any(reward)) => (Some(Driver::Reward(reward)), preview),
        Some(RoundReward::Subject(measures)) => {
            let judge = judge(&pipeline, &measures, preview, settings)?;
            (Some(Driver::Subject(Box::new(judge))), Vec::new())
        }
    };
    let count = config.preview.images_per_prompt;
    let preview = (!preview.is_empty())
        .then(|| Preview::new(&pipeline, preview, count, beside.noise_seed, settings))
        .transpose()?;
    context.lap("encode");

    let models = (&config.model, &config.adapter);
    let needs_reference = inputs.objective.needs_reference();
    let (parameters, reference, best) =
        trained_parts(&pipeline, models, start, config.run.seed, needs_reference)?;
    let parts = PairsTaskParts {
        pipeline,
        reference,
        objective: inputs.objective,
        latents,
        train,
        held_out,
        preview,
        driver,
        anchor,
    };
    Ok((parts, parameters, best))
}

fn judge(
    pipeline: &Pipeline,
    measures: &SubjectMeasures,
    prompts: Vec<String>,
    settings: SampleSettings,
) -> Result<Judge> {
    let mut judge = Judge::new(
        pipeline,
        Rc::clone(&measures.encoder),
        measures.photos.shallow_clone(),
        prompts,
        &measures.config.subject.token,
        &measures.config,
        settings,
    )?;
    if let Some((cosine, features)) = &measures.untuned {
        judge.measure_against(*cosine, features.shallow_clone());
    }
    Ok(judge)
}

/// Adds the photos of an anchor to the images' moments, and their prompt to the prompts.
fn with_anchor(
    pipeline: &Pipeline,
    images: Tensor,
    prompts: &mut Vec<String>,
    anchor: Option<AnchorPhotos>,
    side: u32,
) -> (Tensor, Option<Anchor>) {
    let Some(anchor) = anchor else {
        return (images, None);
    };
    let squares = anchor.photos.iter();
    let squares: Vec<_> = squares
        .map(|photo| photo::square(&photo.image, side))
        .collect();
    let first = images.size()[0];
    let photos = moments(pipeline, &squares).to_device(Device::Cpu);
    prompts.push(anchor.prompt);
    let anchor = Anchor {
        photos: (first..first + squares.len() as i64).collect(),
        prompt: prompts.len() as i64 - 1,
        weight: anchor.weight,
    };
    (Tensor::cat(&[images, photos], 0), Some(anchor))
}

/// The manifest of a run before its first step.
fn describe(config: &PairsConfig, inputs: &PairInputs) -> Result<DataManifest> {
    let objective = &inputs.objective;
    let base = &config.model.base;
    let unet = Checkpoint::open_component(
        &base.join("unet"),
        "diffusion_pytorch_model",
        config.model.variant.as_deref(),
    )?;
    let mut hashes = inputs.hashes.clone();
    hashes.insert("base U-Net".to_owned(), unet.sha256()?);
    hashes.insert(IMAGES.to_owned(), images_sha256(&inputs.images)?);
    if let Some(file) = &config.adapter.start {
        hashes.insert(START.to_owned(), start_sha256(file)?);
    }
    hashes.extend(vae_sha256(&config.model)?.map(|hash| (VAE.to_owned(), hash)));
    let reference = match config.adapter.kind {
        _ if !objective.needs_reference() => "none".to_owned(),
        _ if config.adapter.reference == ReferenceOf::Start => {
            "what training goes on from".to_owned()
        }
        AdapterKind::Lora => format!("`{}` with the adapters off", base.display()),
        AdapterKind::Full => format!("a frozen copy of `{}`", base.display()),
    };
    let left_out = &inputs.images.notes.left_out.reasons;
    let counts = [
        ("training", inputs.train.len()),
        ("held out", inputs.held_out.len()),
    ];
    Ok(DataManifest {
        record: Record::of_inputs(hashes),
        base_model: absolute(base),
        vae: config.model.vae.as_deref().map(absolute),
        objective: objective.name(),
        numbers: objective.numbers(),
        adapter: config.adapter.kind,
        reference,
        examples: BTreeMap::from(counts.map(|(name, count)| (name.to_owned(), count as u64))),
        left_out: left_out.iter().map(ToString::to_string).collect(),
    })
}
