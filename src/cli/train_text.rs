//! One text run: read, encode, compute the reference, train, write down.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::device::resolve;
use super::interrupt::Interrupt;
use super::model::lora_config;
use super::progress::Progress;
use super::stopwatch::Stopwatch;
use super::train_reward_data;
use super::train_text_data::{self, TextInputs};
use crate::config::{AdapterKind, ReferenceMode, TextConfig, ValidationSection};
use crate::error::{Error, Result};
use crate::files::absolute;
use crate::models::lm::{self, LanguageModel};
use crate::models::lora::LoraSet;
use crate::ops::random::derive_seed;
use crate::run::checkpoint::{BestWeights, restore_latest};
use crate::run::data_manifest::DataManifest;
use crate::run::folder::RunFolder;
use crate::run::manifest::{self, FINISHED, Record};
use crate::run::recorder::Recorder;
use crate::run::refcache;
use crate::trainer::objective::Objective;
use crate::trainer::optimizer::{AdamW, AdamWConfig};
use crate::trainer::text::{
    Example, Frozen, Live, Parts, TextTask, reference_key, reference_logps,
};
use crate::trainer::{self, LoopConfig, Task as _};

pub(super) fn run(
    config: &TextConfig,
    resume: bool,
    quiet: bool,
    interrupt: &Interrupt,
) -> Result<()> {
    let manifest = train(config, resume, quiet, interrupt)?;
    print_outcome(&config.run.output, &manifest);
    Ok(())
}

/// As [`run`], without a word on the outcome.
pub(super) fn train(
    config: &TextConfig,
    resume: bool,
    quiet: bool,
    interrupt: &Interrupt,
) -> Result<DataManifest> {
    let mut display = Progress::new(quiet);
    let (device, kind) = resolve(&config.run.device, config.run.precision)?;
    let inputs = train_text_data::read(config)?;
    if inputs.held_out.examples.is_empty() && config.validation.every > 0 {
        return Err(Error::config("nothing is held out for the validations").with_hint(
            "set `data.validation_share = 0.1` or `data.validation`, or `validation.every = 0` and `validation.patience = 0`",
        ));
    }
    let folder = RunFolder::create(&config.run.output, config, resume)?;
    let mut job = Job {
        config,
        device,
        kind,
        run: folder.path(),
        interrupt,
        display: &mut display,
        watch: Stopwatch::start(),
    };
    job.train(inputs)
}

/// The trained model with what belongs to it.
pub(super) struct Trained {
    pub(super) model: Rc<LanguageModel>,
    pub(super) parameters: Vec<(String, Tensor)>,
    lora: Option<Rc<LoraSet>>,
    best: BestWeights,
}

struct Job<'a> {
    config: &'a TextConfig,
    device: Device,
    kind: Kind,
    run: &'a Path,
    interrupt: &'a Interrupt,
    display: &'a mut Progress,
    watch: Stopwatch,
}

impl Job<'_> {
    fn train(&mut self, inputs: TextInputs) -> Result<DataManifest> {
        let (config, run) = (self.config, self.run);
        let earlier = manifest::read::<DataManifest>(run).ok();
        if let Some(earlier) = &earlier {
            if earlier.record.status == FINISHED {
                self.display.say(&format!(
                    "`{}` is finished: nothing is left to do",
                    run.display()
                ));
                return Ok(earlier.clone());
            }
            self.watch.resume(&earlier.record.seconds);
        }
        self.say_inputs(&inputs);
        let trained = open(config, (self.device, self.kind))?;
        self.watch.lap("load");
        let mut manifest = self.describe(&inputs, &trained)?;
        if let Some(earlier) = &earlier {
            manifest.check_inputs(earlier, run)?;
        }
        let parts = self.parts(inputs, &trained, &manifest)?;
        self.watch.lap("reference");
        self.display
            .say(&format!("reference: {}", manifest.reference));
        manifest.record.seconds = self.watch.seconds();
        manifest::write(&manifest, run)?;

        let mut task = TextTask::new(parts, config)?;
        let mut optimizer = AdamW::new(AdamWConfig::from(&config.train), trained.parameters);
        let progress = restore_latest(run, &mut optimizer)?.unwrap_or_default();
        task.continue_counts(&progress.counts);
        let interrupted = || self.interrupt.requested();
        let keep = config.checkpoint.keep;
        let mut recorder = Recorder::new(
            run,
            &progress,
            trained.best,
            keep,
            self.display,
            &interrupted,
        )?;
        let validation = ValidationSection {
            every: config.validation.every,
            patience: config.validation.patience,
            ..ValidationSection::default()
        };
        let loops = LoopConfig::new(&config.train, &validation, &config.checkpoint);
        let outcome = trainer::run(&mut task, &mut optimizer, &loops, progress, &mut recorder);
        self.watch.lap("train");
        manifest.record.seconds = self.watch.seconds();
        manifest.record.counts = task.counts().into_iter().collect();
        manifest.record.conclude(&outcome, config.train.steps);
        let written = manifest::write(&manifest, run);
        // Where both failed, why the run ended matters more.
        outcome.and(written).map(|()| manifest)
    }

    /// What is worth knowing of the data before time is spent on them.
    fn say_inputs(&self, inputs: &TextInputs) {
        let (train, held_out) = (&inputs.train, &inputs.held_out);
        self.display.say(&format!(
            "data: {} examples, {} held out",
            train.examples.len(),
            held_out.examples.len()
        ));
        let cut = train.truncated.len() + held_out.truncated.len();
        let dropped = train.dropped.len() + held_out.dropped.len();
        let margins = train
            .examples
            .iter()
            .any(|example| example.judged.margin != 0.0);
        if margins && !inputs.objective.takes_margins() {
            let name = inputs.objective.name();
            self.display.say(&format!(
                "warning: `{name}` has no use for the data's `margin`"
            ));
        }
        if cut + dropped > 0 {
            self.display.say(&format!(
                "warning: {cut} are cut off at `data.max_length`, {dropped} left out; `preftune inspect` shows them"
            ));
        }
    }

    /// The reference's log-probs, or the reference itself, and what the task needs beside them.
    fn parts(
        &mut self,
        inputs: TextInputs,
        trained: &Trained,
        manifest: &DataManifest,
    ) -> Result<Parts> {
        let config = self.config;
        let TextInputs {
            objective,
            train,
            held_out,
            brings_reference,
            ..
        } = inputs;
        let other = config.reference.model.as_deref();
        let computed = objective.needs_reference() && !brings_reference;
        let live = if computed {
            live(config, &objective, trained, (self.device, self.kind))?
        } else {
            None
        };
        let mut train = frozen_set(train.examples, brings_reference);
        let mut held_out = frozen_set(held_out.examples, brings_reference);
        if computed && live.is_none() {
            let opened = other.map(|folder| frozen(folder, (self.device, self.kind)));
            let opened = opened.transpose()?;
            let model = opened.as_ref().unwrap_or(&trained.model);
            let hash = &manifest.inputs[if other.is_some() {
                "reference"
            } else {
                "base model"
            }];
            for set in [&mut train, &mut held_out] {
                set.reference = self.logps(model, set, hash)?;
            }
        }
        // The previous iterate is what training starts from: nothing has been trained yet.
        for set in [&mut train, &mut held_out] {
            if objective.needs_previous(set.examples.iter().map(|example| &example.judged)) {
                set.previous = self.logps(&trained.model, set, &manifest.inputs["base model"])?;
            }
        }
        Ok(Parts {
            model: Rc::clone(&trained.model),
            objective,
            live,
            starts_at_reference: other.is_none() && !brings_reference,
            kind: self.kind,
            train,
            held_out,
        })
    }

    /// Log-probs of a frozen model on a set of examples: from the cache, else computed and stored there.
    fn logps(&mut self, model: &LanguageModel, set: &Frozen, weights: &str) -> Result<Vec<f32>> {
        if set.examples.is_empty() {
            return Ok(Vec::new());
        }
        let cache = self.config.reference.cache.clone();
        let folder = cache.unwrap_or_else(|| self.run.join("reference"));
        let key = reference_key(&set.examples, weights, self.kind);
        let count = set
            .examples
            .iter()
            .map(|example| example.sequences.len())
            .sum();
        if let Some(values) = refcache::load(&folder, &key, count)? {
            return Ok(values);
        }
        refcache::prepare(&folder)?;
        let mut progress = |done, total| {
            self.display.advance("reference", done, total);
            if self.interrupt.requested() {
                return Err(Error::Interrupted {
                    step: 0,
                    checkpoint: self.run.to_owned(),
                });
            }
            Ok(())
        };
        let values = reference_logps(model, &set.examples, self.config.train.batch, &mut progress)?;
        refcache::store(&folder, &key, &values)?;
        Ok(values)
    }

    /// What is known of a run before its first step.
    fn describe(&self, inputs: &TextInputs, trained: &Trained) -> Result<DataManifest> {
        let config = self.config;
        let sha256 = |model: &Path| Ok::<_, Error>(lm::checkpoint(model)?.sha256());
        let mut hashes = inputs.hashes.clone();
        let base = if config.model.from_scratch {
            train_reward_data::sha256(&config.model.base.join("config.json"))?
        } else {
            sha256(&config.model.base)?
        };
        hashes.insert("base model".to_owned(), base);
        if let Some(folder) = &config.reference.model {
            hashes.insert("reference".to_owned(), sha256(folder)?);
        }
        let objective = &inputs.objective;
        let (train, held_out) = (&inputs.train, &inputs.held_out);
        let counts = [
            ("training", train.examples.len()),
            ("held out", held_out.examples.len()),
            ("cut off", train.truncated.len() + held_out.truncated.len()),
            ("left out", train.dropped.len() + held_out.dropped.len()),
        ];
        Ok(DataManifest {
            record: Record::begin(self.device, self.kind, &trained.parameters),
            base_model: absolute(&config.model.base),
            objective: objective.name(),
            numbers: objective.numbers(),
            adapter: config.adapter.kind,
            reference: if inputs.brings_reference {
                "log-probs that the data bring along".to_owned()
            } else {
                self.reference_in_words(objective)
            },
            inputs: hashes,
            examples: BTreeMap::from(counts.map(|(name, count)| (name.to_owned(), count as u64))),
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
                "the weights of `{}` that training starts from, their log-probs computed once",
                config.model.base.display()
            ),
            (None, AdapterKind::Lora) => {
                format!("`{}` with the adapters off", config.model.base.display())
            }
            (None, AdapterKind::Full) => {
                format!("a frozen copy of `{}`", config.model.base.display())
            }
        }
    }
}

/// The model with its trained tensors as f32 leaves.
pub(super) fn open(config: &TextConfig, (device, kind): (Device, Kind)) -> Result<Trained> {
    let base = &config.model.base;
    match config.adapter.kind {
        AdapterKind::Lora => {
            let model = LanguageModel::open(base, device, kind, kind)?;
            let seed = derive_seed(config.run.seed, "lora", &[]) as u64;
            let lora = lora_config(&config.adapter);
            let lora = Rc::new(LoraSet::attach(
                &model.adapters(),
                &lora,
                seed,
                device,
                Kind::Float,
            )?);
            Ok(Trained {
                model: Rc::new(model),
                parameters: lora.parameters(),
                best: BestWeights::Adapter(Rc::clone(&lora), absolute(base)),
                lora: Some(lora),
            })
        }
        AdapterKind::Full => {
            let model = if config.model.from_scratch {
                LanguageModel::fresh(base, config.run.seed, device, kind)?
            } else {
                LanguageModel::open(base, device, Kind::Float, kind)?
            };
            let model = Rc::new(model);
            let parameters = model.parameters().into_iter();
            Ok(Trained {
                parameters: parameters
                    .map(|(name, tensor)| (name, tensor.set_requires_grad(true)))
                    .collect(),
                lora: None,
                best: BestWeights::LanguageModel(Rc::clone(&model), Kind::Float),
                model,
            })
        }
    }
}

/// A model that is not trained.
pub(super) fn frozen(folder: &Path, (device, kind): (Device, Kind)) -> Result<LanguageModel> {
    LanguageModel::open(folder, device, kind, kind)
}

/// Whether the reference answers at every step.
pub(super) fn is_live(config: &TextConfig, objective: &Objective) -> bool {
    config.reference.mode == ReferenceMode::Live || objective.needs_live_reference()
}

/// The reference that answers at every step; `None` where its log-probs are computed once.
pub(super) fn live(
    config: &TextConfig,
    objective: &Objective,
    trained: &Trained,
    on: (Device, Kind),
) -> Result<Option<Live>> {
    if !is_live(config, objective) {
        return Ok(None);
    }
    Ok(Some(match (&config.reference.model, &trained.lora) {
        (Some(folder), _) => Live::Frozen(Box::new(frozen(folder, on)?)),
        (None, Some(lora)) => Live::AdapterOff(Rc::clone(lora)),
        (None, None) => Live::Frozen(Box::new(frozen(&config.model.base, on)?)),
    }))
}

/// Examples with the reference's log-probs that they bring along, where they do.
pub(super) fn frozen_set(examples: Vec<Example>, brings_reference: bool) -> Frozen {
    let mut set = Frozen::new(examples);
    if brings_reference {
        let given = set.examples.iter().filter_map(|example| example.reference);
        set.reference = given.flatten().map(|logp| logp as f32).collect();
    }
    set
}

fn print_outcome(run: &Path, manifest: &DataManifest) {
    let run = run.display();
    match manifest.record.best {
        Some((step, reward)) => {
            println!("best weights: {run}/best (step {step}, validation {reward:.4})");
        }
        None => println!("weights: {run}/best (step {})", manifest.record.steps),
    }
    println!("try them:     preftune generate --model {run} --prompt \"...\"");
}
