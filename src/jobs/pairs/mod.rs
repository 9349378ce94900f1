//! A run on pairs of images: read, encode, train by any objective of pairs.

pub(crate) mod data;

use std::collections::BTreeMap;

use serde::Serialize;

use self::data::{Encoded, PairInputs, compared, latents, preview_prompts};
use super::interrupt::Interrupt;
use super::policy::diffusion::{
    START, VAE, open_to_train, sample_settings, start_note, trained_parts, vae_sha256,
};
use super::reward::images::images_sha256;
use super::{Display, Job, Prepared, RunContext, RunOptions, Sections, Trainable, inputs};
use crate::config::{AdapterKind, PairsConfig};
use crate::error::Result;
use crate::files::absolute;
use crate::models::lora::read;
use crate::models::weights::Checkpoint;
use crate::run::data_manifest::DataManifest;
use crate::run::manifest::Record;
use crate::trainer::pairs::{Latents, PairsTask, PairsTaskParts};
use crate::trainer::preview::Preview;

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
    let preview = preview_prompts(config)?;
    let inputs = data::read(config)?;
    inputs::check_held_out(!inputs.held_out.is_empty(), &config.validation, "pairs")?;
    super::run(
        PairsJob { config },
        (inputs, preview),
        options,
        display,
        interrupt,
    )
}

/// A run on pairs of images.
struct PairsJob<'a> {
    config: &'a PairsConfig,
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
        let (parts, parameters, best) = prepare(self.config, inputs, images, preview, context)?;
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
    preview: Vec<String>,
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
    let latents = Latents::new(&pipeline, moments, &inputs.images.prompts, i64::from(side))?;
    let count = config.preview.images_per_prompt;
    let preview = (!preview.is_empty())
        .then(|| Preview::new(&pipeline, preview, count, config.run.seed, settings))
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
    };
    Ok((parts, parameters, best))
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
        hashes.insert(START.to_owned(), read::sha256(file)?);
    }
    hashes.extend(vae_sha256(&config.model)?.map(|hash| (VAE.to_owned(), hash)));
    let reference = match config.adapter.kind {
        _ if !objective.needs_reference() => "none".to_owned(),
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
