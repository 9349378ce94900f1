//! A run on texts: read, encode, compute the reference, train by any objective of the DPO family.

pub(crate) mod data;

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use serde::Serialize;
use tch::Tensor;

use self::data::{TextInputs, sides};
use super::inputs::{self, sha256};
use super::interrupt::Interrupt;
use super::policy::language::{TrainedLanguageModel, frozen, frozen_set, is_live, live, open};
use super::{Display, Job, Prepared, RunContext, RunOptions, Sections};
use crate::config::{AdapterKind, TextConfig};
use crate::data::text::Shape;
use crate::error::Result;
use crate::files::absolute;
use crate::hub::name_model;
use crate::models::lm::words::note;
use crate::models::lm::{self, LanguageModel};
use crate::run::data_manifest::DataManifest;
use crate::run::manifest::Record;
use crate::run::refcache;
use crate::trainer::few_held_out;
use crate::trainer::objective::Objective;
use crate::trainer::text::{
    Frozen, ShownPrompts, TextTask, TextTaskParts, reference_key, reference_logps,
};

/// Tunes a language model: from the records of a configuration to best weights.
///
/// # Errors
/// Data that cannot be read or leave nothing to learn from, a folder that holds another run, a run that diverges or is
/// interrupted.
pub fn train(
    config: &TextConfig,
    options: RunOptions,
    display: &mut dyn Display,
    interrupt: &Interrupt,
) -> Result<DataManifest> {
    let inputs = data::read(config)?;
    let held_out = !inputs.held_out.examples.is_empty();
    inputs::check_held_out(held_out, &config.validation, "data")?;
    super::run(TextJob { config }, inputs, options, display, interrupt)
}

/// A run on texts.
struct TextJob<'a> {
    config: &'a TextConfig,
}

impl Job for TextJob<'_> {
    type Task = TextTask;
    type Manifest = DataManifest;
    type Inputs = TextInputs;

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
        inputs: TextInputs,
        context: &mut RunContext,
    ) -> Result<Prepared<TextTask, DataManifest>> {
        say_inputs(self.config, &inputs, context.display);
        let notes = note(inputs.tokenizer.is_raw());
        let trained = open(self.config, &notes, (context.device, context.kind))?;
        context.lap("load");
        let manifest = self.describe(&inputs)?;
        context.check_inputs(&manifest.record.inputs)?;
        let parts = self.parts(inputs, &trained, &manifest, context)?;
        context.lap("reference");
        context
            .display
            .say(&format!("reference: {}", manifest.reference));
        Ok(Prepared {
            task: TextTask::new(parts, self.config)?,
            parameters: trained.parameters,
            best: trained.best,
            manifest,
        })
    }
}

impl TextJob<'_> {
    /// The reference's log-probs, or the reference itself, and what the task needs beside them.
    fn parts(
        &self,
        inputs: TextInputs,
        trained: &TrainedLanguageModel,
        manifest: &DataManifest,
        context: &mut RunContext,
    ) -> Result<TextTaskParts> {
        let on = (context.device, context.kind);
        let hashes = &manifest.record.inputs;
        let config = self.config;
        let TextInputs {
            objective,
            train,
            held_out,
            brings_reference,
            shown,
            tokenizer,
            ..
        } = inputs;
        let other = config.reference.model.as_deref();
        let computed = objective.needs_reference() && !brings_reference;
        let live = if computed {
            live(config, &objective, trained, on)?
        } else {
            None
        };
        let mut train = frozen_set(train.examples, brings_reference);
        let mut held_out = frozen_set(held_out.examples, brings_reference);
        if computed && live.is_none() {
            let opened = other.map(|folder| frozen(folder, on));
            let opened = opened.transpose()?;
            let model = opened.as_ref().unwrap_or(&trained.model);
            let hash = &hashes[if other.is_some() {
                "reference"
            } else {
                "base model"
            }];
            for set in [&mut train, &mut held_out] {
                set.reference = self.logps(model, set, hash, context)?;
            }
        }
        // The previous iterate is what training starts from: nothing has been trained yet.
        for set in [&mut train, &mut held_out] {
            if objective.needs_previous(set.examples.iter().map(|example| &example.labels)) {
                set.previous = self.logps(&trained.model, set, &hashes["base model"], context)?;
            }
        }
        Ok(TextTaskParts {
            model: Rc::clone(&trained.model),
            objective,
            live,
            starts_at_reference: other.is_none() && !brings_reference,
            kind: context.kind,
            train,
            held_out,
            shown: ShownPrompts::new(shown, tokenizer, trained.model.config().longest().tokens),
        })
    }

    /// Log-probs of a frozen model on a set of examples: from the first process' cache, else computed by all and stored there.
    fn logps(
        &self,
        model: &LanguageModel,
        set: &Frozen,
        weights: &str,
        context: &mut RunContext,
    ) -> Result<Vec<f32>> {
        if set.examples.is_empty() {
            return Ok(Vec::new());
        }
        let cache = self.config.reference.cache.clone();
        let folder = cache.unwrap_or_else(|| context.run.join("reference"));
        let key = reference_key(&set.examples, weights, context.kind);
        let count = set
            .examples
            .iter()
            .map(|example| example.sequences.len())
            .sum();
        let peers = context.peers().clone();
        let mut kept = None;
        if peers.is_first() {
            kept = refcache::load(&folder, &key, count)?;
        }
        if peers.first_says(kept.is_some())? {
            let values = Tensor::from_slice(&kept.unwrap_or_else(|| vec![0.0; count]));
            peers.broadcast(&[values.shallow_clone()])?;
            return Ok(Vec::try_from(values)?);
        }
        if peers.is_first() {
            refcache::prepare(&folder)?;
        }
        let mut progress = |done, total| context.advance("reference", done, total);
        let batch = self.config.train.batch;
        let values = reference_logps(model, &set.examples, batch, &peers, &mut progress)?;
        if peers.is_first() {
            refcache::store(&folder, &key, &values)?;
        }
        Ok(values)
    }

    /// The manifest of a run before its first step.
    fn describe(&self, inputs: &TextInputs) -> Result<DataManifest> {
        let config = self.config;
        let weights = |model: &Path| lm::checkpoint(model)?.sha256();
        let mut hashes = inputs.hashes.clone();
        let base = if config.model.from_scratch {
            sha256(&config.model.base.join("config.json"))?
        } else {
            weights(&config.model.base)?
        };
        hashes.insert("base model".to_owned(), base);
        if let Some(folder) = &config.reference.model {
            hashes.insert("reference".to_owned(), weights(folder)?);
        }
        let objective = &inputs.objective;
        let (train, held_out) = (&inputs.train, &inputs.held_out);
        let counts = [
            ("training", train.examples.len()),
            ("held out", held_out.examples.len()),
            ("cut off", train.truncated.len() + held_out.truncated.len()),
            ("left out", train.dropped.len() + held_out.dropped.len()),
            ("prompts", inputs.overlap.train),
            ("prompts held out", inputs.overlap.held_out),
            ("prompts on both sides", inputs.overlap.shared),
        ];
        let left_out = inputs
            .notes
            .iter()
            .flat_map(|notes| &notes.left_out.reasons);
        Ok(DataManifest {
            record: Record::of_inputs(hashes),
            base_model: absolute(&config.model.base),
            vae: None,
            objective: objective.name(),
            numbers: objective.numbers(),
            adapter: config.adapter.kind,
            reference: if inputs.brings_reference {
                "log-probs that the data bring along".to_owned()
            } else {
                self.reference_in_words(objective)
            },
            examples: BTreeMap::from(counts.map(|(name, count)| (name.to_owned(), count as u64))),
            left_out: left_out.map(ToString::to_string).collect(),
        })
    }

    fn reference_in_words(&self, objective: &Objective) -> String {
        let config = self.config;
        let live = is_live(config, objective);
        if !objective.needs_reference() {
            return "none".to_owned();
        }
        match (&config.reference.model, config.adapter.kind) {
            (Some(folder), _) => format!(
                "the model `{}`, {}",
                folder.display(),
                if live {
                    "run at every step"
                } else {
                    "its log-probs computed once"
                }
            ),
            (None, _) if !live => format!(
                "`{}`, where training starts; its log-probs are computed once and kept",
                name_model(&config.model.base)
            ),
            (None, AdapterKind::Lora) => {
                format!("`{}` with the adapters off", name_model(&config.model.base))
            }
            (None, AdapterKind::Full) => {
                format!("a frozen copy of `{}`", name_model(&config.model.base))
            }
        }
    }
}

/// Tells the user about the data before time is spent on them.
fn say_inputs(config: &TextConfig, inputs: &TextInputs, display: &mut dyn Display) {
    let (train, held_out) = (&inputs.train, &inputs.held_out);
    display.say(&format!(
        "data: {} examples, {} held out",
        train.examples.len(),
        held_out.examples.len()
    ));
    for line in inputs.lines() {
        display.say(&line);
    }
    for warning in inputs.tokenizer.warnings() {
        display.say(&format!("warning: {warning}"));
    }
    let beyond = train.beyond + held_out.beyond;
    if beyond > 0 {
        display.say(&format!(
            "warning: {beyond} examples are longer than the texts that the model was made for (`max_position_embeddings`): lower `data.max_length`"
        ));
    }
    let cut = train.truncated.len() + held_out.truncated.len();
    let dropped = train.dropped.len() + held_out.dropped.len();
    let margins = train
        .examples
        .iter()
        .any(|example| example.labels.margin != 0.0);
    if margins {
        say_margins(inputs, display);
    }
    if inputs.objective.shape() == Shape::Marked {
        say_sides(inputs, display);
    }
    if config.validation.every > 0
        && let Some(warning) = few_held_out(held_out.examples.len())
    {
        display.say(&warning);
    }
    for sentence in train.forms.and(&held_out.forms).in_words() {
        display.say(&format!("words: {sentence}"));
    }
    for warning in train.forms.and(&held_out.forms).warnings() {
        display.warn(&warning);
    }
    if inputs.brings_reference && train.forms.counts().contains_key("template") {
        display.say(
            "warning: the log-probs that the data bring along must be of prompts and answers in the chat template too",
        );
    }
    if cut + dropped > 0 {
        display.say(&format!(
            "warning: {cut} are cut off at `data.max_length`, {dropped} left out; `preftune inspect` shows them"
        ));
    }
}

/// How many answers are desirable, and what their weights make of it: KTO's authors ask for 1 to 4/3 between the sides
/// (Ethayarajh et al. 2024, arXiv 2402.01306, equation 9).
fn say_sides(inputs: &TextInputs, display: &mut dyn Display) {
    let [good, bad] = sides(&inputs.train);
    let [held_good, held_bad] = sides(&inputs.held_out);
    display.say(&format!(
        "sides: {good} desirable and {bad} undesirable answers, {held_good} and {held_bad} held out"
    ));
    let numbers = inputs.objective.numbers();
    let weight = |name: &str| numbers.get(name).copied().unwrap_or(1.0);
    let (desirable, undesirable) = (weight("desirable-weight"), weight("undesirable-weight"));
    let ratio = desirable * good as f64 / (undesirable * bad as f64);
    if !(3.0 / 4.0..=4.0 / 3.0).contains(&ratio) {
        let (key, value) = if ratio < 1.0 {
            ("desirable_weight", desirable / ratio)
        } else {
            ("undesirable_weight", undesirable * ratio)
        };
        display.say(&format!(
            "warning: desirable answers count {ratio:.2} times as much as undesirable ones; `objective.{key} = {value:.2}` \
             makes the sides equal"
        ));
    }
}

/// Tells the user how the objective uses the margins that the data bring along.
fn say_margins(inputs: &TextInputs, display: &mut dyn Display) {
    let name = inputs.objective.name();
    if !inputs.objective.takes_margins() {
        display.say(&format!(
            "warning: `{name}` has no use for the data's `margin`"
        ));
        return;
    }
    let margins = inputs
        .train
        .examples
        .iter()
        .chain(&inputs.held_out.examples);
    let margins: Vec<f64> = margins
        .map(|example| example.labels.margin)
        .filter(|margin| *margin != 0.0)
        .collect();
    display.say(&format!(
        "margins: {} pairs bring a `margin`, on average {:.3}: `{name}` asks their chosen answers to win by so much; leave the \
         column out for `{name}` without",
        margins.len(),
        margins.iter().sum::<f64>() / margins.len() as f64
    ));
}
