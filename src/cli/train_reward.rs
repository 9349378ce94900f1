//! One reward run: read embeddings or texts, train a head, extrapolate if asked, write down.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::device::resolve;
use super::interrupt::Interrupt;
use super::progress::Progress;
use super::train_reward_data::{self, Inputs, Read};
use super::train_reward_images::{self, Keep};
use super::train_reward_text;
use crate::config::RewardConfig;
use crate::error::{Error, Result};
use crate::models::heads::{Head, Network};
use crate::models::lm::reward::RewardModel;
use crate::models::weights::Checkpoint;
use crate::ops::random::derive_seed;
use crate::run::checkpoint::{BestWeights, best_of, restore_latest};
use crate::run::folder::RunFolder;
use crate::run::manifest::FINISHED;
use crate::run::recorder::Recorder;
use crate::run::reward_manifest::RewardManifest;
use crate::trainer::optimizer::{AdamW, AdamWConfig};
use crate::trainer::reward::{Examples, RewardTask, Source, fit_users};
use crate::trainer::{self, LoopConfig, event};

/// What the header of extrapolated weights names their factor.
const EXTRAPOLATED: &str = "preftune_extrapolated";

pub(super) fn run(
    config: &RewardConfig,
    resume: bool,
    quiet: bool,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut display = Progress::new(quiet);
    let (device, kind) = resolve(&config.run.device, config.run.precision)?;
    let inputs = if config.reads_texts() {
        Given::Texts(Box::new(train_reward_text::read(config, device)?))
    } else {
        let (mut inputs, kept) = if config.reads_images() {
            let (inputs, kept) = train_reward_images::read(config, (device, kind), &display)?;
            (inputs, Some(kept))
        } else {
            (train_reward_data::read(config, device)?, None)
        };
        let start = start(config, device, &mut inputs)?;
        Given::Embeddings(Box::new(inputs), start.map(Box::new), kept)
    };
    let folder = RunFolder::create(&config.run.output, config, resume)?;
    let run = folder.path();
    if let Given::Embeddings(_, _, Some(kept)) = &inputs {
        kept.store(run)?;
    }
    let earlier = RewardManifest::read(run)?;
    if let Some(earlier) = earlier
        .as_ref()
        .filter(|earlier| earlier.status == FINISHED)
    {
        let run = run.display();
        display.say(&format!("`{run}` is finished: nothing is left to do"));
        print_outcome(&config.run.output, earlier);
        return Ok(());
    }
    let job = Job {
        config,
        device,
        run,
        interrupt,
    };
    let (parts, line) = match inputs {
        Given::Texts(inputs) => {
            let (parts, model) = inputs.parts(config, (device, kind), &display)?;
            (parts, Line::Model(model))
        }
        Given::Embeddings(inputs, start, _) => {
            if let Some(known) = start.as_deref().filter(|_| config.reward_model.new_users) {
                let manifest = new_users(config, known, &inputs, run)?;
                print_outcome(&config.run.output, &manifest);
                return Ok(());
            }
            let parts = job.parts(start.as_deref(), &inputs, &display)?;
            (parts, Line::Heads(start))
        }
    };
    let manifest = job.train(parts, &line, earlier.as_ref(), &mut display)?;
    print_outcome(&config.run.output, &manifest);
    Ok(())
}

/// What was read.
enum Given {
    Texts(Box<train_reward_text::TextInputs>),
    Embeddings(Box<Inputs>, Option<Box<Head>>, Option<Keep>),
}

/// Everything that a run trains with.
pub(super) struct Parts {
    pub(super) head: Rc<Head>,
    pub(super) source: Source,
    pub(super) train: Examples,
    pub(super) held_out: Option<Examples>,
    pub(super) parameters: Vec<(String, Tensor)>,
    pub(super) best: BestWeights,
    /// SHA-256 of what was read, by what it is.
    pub(super) hashes: BTreeMap<String, String>,
}

/// What extrapolation goes away from.
enum Line {
    /// The head that training started from, where there is one.
    Heads(Option<Box<Head>>),
    /// The trained model, which knows where it began.
    Model(Rc<RewardModel>),
}

/// The note of extrapolated weights.
pub(super) fn extrapolated_by(factor: f64) -> BTreeMap<String, String> {
    BTreeMap::from([(EXTRAPOLATED.to_owned(), factor.to_string())])
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
        .insert("head to start from".to_owned(), weights.sha256());
    Ok(Some(head))
}

struct Job<'a> {
    config: &'a RewardConfig,
    device: Device,
    run: &'a Path,
    interrupt: &'a Interrupt,
}

impl Job<'_> {
    /// A head on embeddings.
    fn parts(&self, start: Option<&Head>, inputs: &Inputs, display: &Progress) -> Result<Parts> {
        let model = &self.config.reward_model;
        let seed = derive_seed(self.config.run.seed, "head", &[]) as u64;
        let mut head = Head::new(inputs.head(model)?, seed, Kind::Float, self.device);
        if let Some(start) = start {
            head.start_from(start, model.start_output.as_deref())?;
        }
        let head = Rc::new(head);
        let (train, held_out) = inputs.examples(model, display)?;
        Ok(Parts {
            source: Source::Stored(inputs.embeddings.shallow_clone()),
            train,
            held_out,
            parameters: head.parameters(),
            best: BestWeights::Head(Rc::clone(&head)),
            hashes: inputs.hashes.clone(),
            head,
        })
    }

    fn train(
        &self,
        parts: Parts,
        line: &Line,
        earlier: Option<&RewardManifest>,
        display: &mut Progress,
    ) -> Result<RewardManifest> {
        let Self { config, run, .. } = *self;
        if parts.held_out.is_none() && config.validation.every > 0 {
            return Err(Error::config("nothing is held out for the validations").with_hint(
                "set `data.validation_share = 0.1` or `data.validation`, or `validation.every = 0` and \
                 `validation.patience = 0`",
            ));
        }
        let mut manifest = describe(config, parts.hashes, self.device, &parts.parameters);
        let count = |examples: &Examples| examples.count() as u64;
        manifest.examples = (
            count(&parts.train),
            parts.held_out.as_ref().map_or(0, count),
        );
        if let Some(earlier) = earlier {
            manifest.check_inputs(earlier, run)?;
            manifest.seconds = earlier.seconds;
        }
        manifest.write(run)?;
        let (train, held_out) = (parts.train, parts.held_out);
        let mut task = RewardTask::new(parts.head, parts.source, train, held_out, config)?;
        let mut optimizer = AdamW::new(AdamWConfig::from(&config.train), parts.parameters);
        let progress = restore_latest(run, &mut optimizer)?.unwrap_or_default();
        task.continue_counts(&progress.counts);
        let interrupted = || self.interrupt.requested();
        let keep = config.checkpoint.keep;
        let mut recorder = Recorder::new(run, &progress, parts.best, keep, display, &interrupted)?;
        let started = Instant::now();
        let loops = LoopConfig::from(config);
        let outcome = trainer::run(&mut task, &mut optimizer, &loops, progress, &mut recorder);
        manifest.seconds += started.elapsed().as_secs_f64();
        let conclude = || -> Result<()> {
            let progress = noted(outcome, &mut manifest)?;
            match line {
                Line::Heads(start) => {
                    self.extrapolate(&task, start.as_deref(), &mut manifest)?;
                }
                Line::Model(model) => self.extrapolate_model(&task, model, &mut manifest)?,
            }
            manifest.finish(&progress, config.train.steps);
            Ok(())
        };
        let concluded = conclude();
        // Where both failed, why the run ended matters more.
        let written = manifest.write(run);
        concluded.and(written).map(|()| manifest)
    }

    /// As [`Self::extrapolate`] of a language model with its head.
    fn extrapolate_model(
        &self,
        task: &RewardTask,
        model: &RewardModel,
        manifest: &mut RewardManifest,
    ) -> Result<()> {
        let folder = best_of(self.run)?;
        let kept = match BestWeights::notes(&folder)?.get(EXTRAPOLATED) {
            // A kill came after this and before the manifest.
            Some(factor) => factor.parse().ok(),
            None if self.config.reward_model.extrapolate.is_empty() => None,
            None => {
                let measure = || task.measure(model.head()).0;
                train_reward_text::extrapolate(self.config, model, &folder, &measure)?
            }
        };
        manifest.extrapolated = kept;
        let (best, _) = RewardModel::open(&folder, self.device, Kind::Float)?;
        manifest.best_metrics = task.measure_model(&Rc::new(best)).1;
        Ok(())
    }

    /// Measures the best weights, and puts extrapolated ones in their place where those are better.
    fn extrapolate(
        &self,
        task: &RewardTask,
        start: Option<&Head>,
        manifest: &mut RewardManifest,
    ) -> Result<()> {
        let model = &self.config.reward_model;
        let folder = best_of(self.run)?;
        let open = || Head::open(&folder, Kind::Float, self.device);
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

/// The outcome itself, with why the run ended written into the manifest where it is not at its end.
fn noted(
    outcome: Result<event::Progress>,
    manifest: &mut RewardManifest,
) -> Result<event::Progress> {
    match &outcome {
        Ok(_) => {}
        Err(Error::Interrupted { step, .. }) => manifest.stop("interrupted", *step),
        Err(error) => manifest.stop("failed", error.step().unwrap_or_default()),
    }
    outcome
}

/// Fits users that the head to start from does not know, and writes the head that knows them.
fn new_users(
    config: &RewardConfig,
    start: &Head,
    inputs: &Inputs,
    run: &Path,
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
    let hashes = inputs.hashes.clone();
    let mut manifest = describe(config, hashes, points.device(), &head.parameters());
    manifest.trainable_parameters = weights
        .iter()
        .map(|(_, weights)| weights.len() as u64)
        .sum();
    manifest.examples = (train.len() as u64, 0);
    let loss = fitted.iter().map(|(_, user)| user.loss).sum::<f64>() / train.len() as f64;
    manifest.best_metrics = vec![("loss".to_owned(), loss)];
    FINISHED.clone_into(&mut manifest.status);
    manifest.write(run)?;
    Ok(manifest)
}

/// What is known of a run before its first step.
fn describe(
    config: &RewardConfig,
    inputs: BTreeMap<String, String>,
    device: Device,
    parameters: &[(String, Tensor)],
) -> RewardManifest {
    RewardManifest {
        preftune: env!("CARGO_PKG_VERSION").to_owned(),
        status: "running".to_owned(),
        task: config.reward_model.task,
        inputs,
        examples: (0, 0),
        device: format!("{device:?}"),
        trainable_parameters: parameters
            .iter()
            .map(|(_, tensor)| tensor.numel() as u64)
            .sum(),
        steps: 0,
        best: None,
        best_metrics: Vec::new(),
        extrapolated: None,
        stopped_early: false,
        seconds: 0.0,
    }
}

fn print_outcome(run: &Path, manifest: &RewardManifest) {
    let step = manifest.best.map_or(manifest.steps, |(step, _)| step);
    println!("best head: {}/best (step {step})", run.display());
    if let Some(factor) = manifest.extrapolated {
        println!("extrapolated by {factor}");
    }
    for (name, value) in &manifest.best_metrics {
        println!("{name:<24} {value:.4}");
    }
}
