//! A run that trains a reward or preference model: read embeddings, images or texts, train a head, extrapolate if asked.

pub(crate) mod data;
pub(crate) mod images;
mod parts;
pub(crate) mod texts;

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use serde::Serialize;
use tch::{Device, Kind};

use self::data::{Inputs, Read};
use self::images::Keep;
use self::parts::{EXTRAPOLATED, RewardParts, extrapolated_by};
use self::texts::TextInputs;
use super::interrupt::Interrupt;
use super::open::resolve_for;
use super::{
    Display, Job, Opened, Prepared, RunContext, RunOptions, Sections, inputs, open_folder,
};
use crate::config::RewardConfig;
use crate::error::{Error, Result};
use crate::models::heads::{Head, Network};
use crate::models::lm::reward::RewardModel;
use crate::models::weights::Checkpoint;
use crate::ops::random::derive_seed;
use crate::run::checkpoint::{BestWeights, best_of};
use crate::run::manifest::{self, FINISHED, Record};
use crate::run::reward_manifest::RewardManifest;
use crate::trainer::few_held_out;
use crate::trainer::reward::{Examples, RewardTask, Source, fit_users};

/// Trains a reward or preference model: from the examples of a configuration to best weights.
///
/// # Errors
/// Data that cannot be read or leave nothing to learn from, a folder that holds another run, a run that diverges or is
/// interrupted.
pub fn train(
    config: &RewardConfig,
    options: RunOptions,
    display: &mut dyn Display,
    interrupt: &Interrupt,
) -> Result<RewardManifest> {
    let on = resolve_for(&options.peers, &config.run.device, config.run.precision)?;
    let (device, _) = on;
    let read = if config.reads_texts() {
        ReadInputs::Texts(Box::new(texts::read(config)?))
    } else {
        let (mut inputs, kept) = if config.reads_images() {
            let (inputs, kept) = images::read(config, on, display)?;
            (inputs, Some(kept))
        } else {
            (data::read(config, device, display)?, None)
        };
        let start = start(config, device, &mut inputs)?;
        if config.reward_model.new_users {
            if !options.peers.are_none() {
                return Err(Error::config(
                    "`reward_model.new_users` fits users in one process",
                ));
            }
            return add_users(config, start.as_ref(), &inputs, on, options.resume, display);
        }
        ReadInputs::Embeddings(Box::new(inputs), start.map(Box::new), kept)
    };
    super::run(
        RewardJob { config, line: None },
        read,
        options,
        display,
        interrupt,
    )
}

/// The examples of a run, read.
enum ReadInputs {
    Texts(Box<TextInputs>),
    /// With the head to start from, and the embeddings to be kept in the run's folder.
    Embeddings(Box<Inputs>, Option<Box<Head>>, Option<Keep>),
}

/// The start of the line on which weights are extrapolated.
enum ExtrapolationBase {
    /// The head that training started from, where there is one.
    Heads(Option<Box<Head>>),
    /// The trained model, which knows where it began.
    Model(Rc<RewardModel>),
}

/// The head to start from, its weights named among the inputs.
fn start(config: &RewardConfig, device: Device, inputs: &mut Inputs) -> Result<Option<Head>> {
    let Some(folder) = &config.reward_model.start_from else {
        return Ok(None);
    };
    let head = Head::open(folder, Kind::Float, device)?;
    let weights = Checkpoint::open_file(&folder.join("model.safetensors"))?;
    inputs
        .hashes
        .insert("head to start from".to_owned(), weights.sha256()?);
    Ok(Some(head))
}

/// A run on examples of what is better.
struct RewardJob<'a> {
    config: &'a RewardConfig,
    /// Where extrapolation begins, known after the preparation.
    line: Option<ExtrapolationBase>,
}

impl Job for RewardJob<'_> {
    type Task = RewardTask;
    type Manifest = RewardManifest;
    type Inputs = ReadInputs;

    fn config(&self) -> &impl Serialize {
        self.config
    }

    fn sections(&self) -> Sections<'_> {
        let config = self.config;
        Sections::new(
            &config.run,
            &config.train.as_train(),
            &config.validation,
            &config.checkpoint,
        )
    }

    fn prepare(
        &mut self,
        inputs: ReadInputs,
        context: &mut RunContext,
    ) -> Result<Prepared<RewardTask, RewardManifest>> {
        let config = self.config;
        let parts = match inputs {
            ReadInputs::Texts(inputs) => {
                let on = (context.device, context.kind);
                let (parts, model) = inputs.parts(config, on, context.display)?;
                self.line = Some(ExtrapolationBase::Model(model));
                parts
            }
            ReadInputs::Embeddings(inputs, start, kept) => {
                if let Some(kept) = kept.filter(|_| context.peers().is_first()) {
                    kept.store(context.run)?;
                }
                let parts = self.parts(start.as_deref(), &inputs, context)?;
                self.line = Some(ExtrapolationBase::Heads(start));
                parts
            }
        };
        inputs::check_held_out(parts.held_out.is_some(), &config.validation, "data")?;
        let held_out = parts.held_out.as_ref().map_or(0, Examples::count);
        if let Some(warning) = few_held_out(held_out as usize) {
            context.display.say(&warning);
        }
        context.lap("load");
        let count = |examples: &Examples| examples.count() as u64;
        let mut manifest = describe(config, parts.hashes);
        manifest.examples = (
            count(&parts.train),
            parts.held_out.as_ref().map_or(0, count),
        );
        let (train, held_out) = (parts.train, parts.held_out);
        Ok(Prepared {
            task: RewardTask::new(parts.head, parts.source, train, held_out, config)?,
            parameters: parts.parameters,
            best: parts.best,
            manifest,
        })
    }

    fn finish(
        &self,
        task: &mut RewardTask,
        manifest: &mut RewardManifest,
        context: &mut RunContext,
    ) -> Result<()> {
        let place = (context.run, context.device);
        match &self.line {
            Some(ExtrapolationBase::Model(model)) => {
                self.extrapolate_model(task, model, manifest, place)?;
            }
            Some(ExtrapolationBase::Heads(start)) => {
                self.extrapolate(task, start.as_deref(), manifest, place)?;
            }
            None => {}
        }
        context.lap("extrapolate");
        Ok(())
    }
}

impl RewardJob<'_> {
    /// A head on embeddings.
    fn parts(
        &self,
        start: Option<&Head>,
        inputs: &Inputs,
        context: &mut RunContext,
    ) -> Result<RewardParts> {
        let model = &self.config.reward_model;
        let seed = derive_seed(self.config.run.seed, "head", &[]) as u64;
        let mut head = Head::new(inputs.head(model)?, seed, Kind::Float, context.device);
        if let Some(start) = start {
            head.start_from(start, model.start_output.as_deref())?;
        }
        let head = Rc::new(head);
        let (train, held_out) = inputs.examples(model, context.display)?;
        Ok(RewardParts {
            source: Source::Stored(inputs.embeddings.shallow_clone()),
            train,
            held_out,
            parameters: head.parameters(),
            best: BestWeights::Head(Rc::clone(&head)),
            hashes: inputs.hashes.clone(),
            head,
        })
    }

    /// As [`Self::extrapolate`] of a language model with its head.
    fn extrapolate_model(
        &self,
        task: &RewardTask,
        model: &RewardModel,
        manifest: &mut RewardManifest,
        (run, device): (&Path, Device),
    ) -> Result<()> {
        let folder = best_of(run)?;
        let kept = match BestWeights::notes(&folder)?.get(EXTRAPOLATED) {
            // A kill came after this and before the manifest.
            Some(factor) => factor.parse().ok(),
            None if self.config.reward_model.extrapolate.is_empty() => None,
            None => {
                let measure = || task.measure(model.head()).0;
                texts::extrapolate(self.config, model, &folder, &measure)?
            }
        };
        manifest.extrapolated = kept;
        let (best, _) = RewardModel::open(&folder, device, Kind::Float)?;
        manifest.best_metrics = task.measure_model(&Rc::new(best)).1;
        Ok(())
    }

    /// Measures the best weights, and puts extrapolated ones in their place where those are better.
    fn extrapolate(
        &self,
        task: &RewardTask,
        start: Option<&Head>,
        manifest: &mut RewardManifest,
        (run, device): (&Path, Device),
    ) -> Result<()> {
        let model = &self.config.reward_model;
        let folder = best_of(run)?;
        let open = || Head::open(&folder, Kind::Float, device);
        let best = open()?;
        let (mut reward, mut metrics) = task.measure(&best);
        let mut chosen = None;
        let weights = Checkpoint::open_file(&folder.join("model.safetensors"))?;
        if let Some(factor) = weights.metadata().get(EXTRAPOLATED) {
            // A kill came after this and before the manifest.
            manifest.extrapolated = factor.parse().ok();
            manifest.best_metrics = metrics;
            return Ok(());
        }
        // Both ends of the line are needed in the same form: the start as this head began.
        let weak = start
            .filter(|_| !model.extrapolate.is_empty())
            .map(|start| {
                let mut weak = open()?;
                weak.start_from(start, model.start_output.as_deref())?;
                Ok::<_, Error>(weak)
            });
        if let Some(weak) = weak.transpose()? {
            for &factor in &model.extrapolate {
                let mut head = open()?;
                head.extrapolate(&weak, factor)?;
                let (its_reward, its_metrics) = task.measure(&head);
                if its_reward > reward {
                    (reward, metrics, chosen) = (its_reward, its_metrics, Some((factor, head)));
                }
            }
        }
        if let Some((factor, head)) = chosen {
            head.save(&folder, &extrapolated_by(factor))?;
            manifest.extrapolated = Some(factor);
        }
        manifest.best_metrics = metrics;
        Ok(())
    }
}

/// Adds users to the head to start from, in a run's folder of their own; nothing else of it is trained.
fn add_users(
    config: &RewardConfig,
    start: Option<&Head>,
    inputs: &Inputs,
    on: (Device, Kind),
    resume: bool,
    display: &mut dyn Display,
) -> Result<RewardManifest> {
    let start = start.ok_or_else(|| Error::config("`reward_model.start_from` is missing"))?;
    let output = &config.run.output;
    match open_folder::<RewardManifest>(config, output, resume, display, |_| Ok(false))? {
        Opened::Finished(manifest) => Ok(manifest),
        Opened::Folder(_folder, _) => fit_new_users(config, start, inputs, output, on),
    }
}

/// Fits users that the head to start from does not know, and writes the head that knows them.
fn fit_new_users(
    config: &RewardConfig,
    start: &Head,
    inputs: &Inputs,
    run: &Path,
    (device, kind): (Device, Kind),
) -> Result<RewardManifest> {
    let (Network::IdealPoint(points), Read::Pairs(train, _)) = (start.network(), &inputs.rows)
    else {
        return Err(Error::config(
            "`reward_model.start_from` is no ideal-point head: it knows no users",
        ));
    };
    let width = inputs.embeddings.responses.size()[1];
    if width != start.config().input {
        return Err(Error::config(format!(
            "`data.embeddings` have width {width}, the head to start from reads {}",
            start.config().input
        )));
    }
    inputs.check_prompts(points)?;
    let known = &points.config().users;
    if let Some(user) = inputs.users().into_iter().find(|user| known.contains(user)) {
        let problem = format!("the head to start from knows the user `{user}` already");
        return Err(Error::config(problem));
    }
    let fitted = fit_users(points, &inputs.embeddings, train)?;
    let weights: Vec<(String, Vec<f64>)> = fitted
        .iter()
        .map(|(name, user)| (name.clone(), user.weights.clone()))
        .collect();
    let head = start.with_users(&weights)?;
    head.save(&run.join("best"), &BTreeMap::new())?;
    let mut manifest = describe(config, inputs.hashes.clone());
    let record = &mut manifest.record;
    record.begin(device, kind, &head.parameters());
    record.trainable_parameters = weights
        .iter()
        .map(|(_, weights)| weights.len() as u64)
        .sum();
    FINISHED.clone_into(&mut record.status);
    manifest.examples = (train.len() as u64, 0);
    let loss = fitted.iter().map(|(_, user)| user.loss).sum::<f64>() / train.len() as f64;
    manifest.best_metrics = vec![("loss".to_owned(), loss)];
    manifest::write(&manifest, run)?;
    Ok(manifest)
}

/// The manifest of a run before its first step.
fn describe(config: &RewardConfig, inputs: BTreeMap<String, String>) -> RewardManifest {
    RewardManifest {
        record: Record::of_inputs(inputs),
        task: config.reward_model.task,
        examples: (0, 0),
        best_metrics: Vec::new(),
        extrapolated: None,
    }
}
