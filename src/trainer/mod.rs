//! The training loop, the same for every task. It reads top to bottom; tasks bring the forward passes, an observer
//! takes what happens.

pub mod denoising;
pub mod early_stopping;
pub mod event;
mod means;
pub mod objective;
pub mod optimizer;
pub mod pairs;
pub mod pretrain;
pub mod preview;
pub mod profile;
pub mod reward;
mod scalars;
pub mod schedule;
pub mod subject;
pub mod text;
mod visits;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use self::early_stopping::GainRule;
use self::event::{Event, Metrics, Observer, Progress, Snapshot, Validation, metric};
use self::optimizer::AdamW;
pub use self::scalars::Scalar;
use self::scalars::{Sum, Unread};
use self::schedule::Schedule;
use crate::config::{CheckpointSection, StopRule, TrainSection};
use crate::distributed::{Peers, Share};
use crate::error::{Error, Result};
use crate::models::layers::keep_casts;

/// Gradient norm beyond which a step is reported as an explosion, as a multiple of the clipping norm.
const EXPLODING_GRADIENT: f64 = 1e3;

/// Loss beyond which a step is reported as an explosion, as a multiple of the first one.
const EXPLODING_LOSS: f64 = 10.0;

/// A kind of training, as the loop runs it.
pub trait Task {
    /// One forward and backward pass of micro-batch `micro` of step `step` (from 0), with the loss divided by the
    /// number of micro-batches, or of the share of it that this process has. Returns the named scalars that this batch has: a
    /// metric is the mean over the micro-batches that have it.
    fn accumulate(&mut self, step: u64, micro: u64) -> Result<Vec<Scalar>>;

    /// Takes this share of every step and validation from now on; before that, the whole.
    ///
    /// # Errors
    /// This kind of training is made by one process.
    fn take(&mut self, _share: &Share) -> Result<()> {
        Err(Error::config("this kind of run is made by one process"))
    }

    /// Measures the model after `step` steps.
    fn validate(&mut self, step: u64, observer: &mut dyn Observer) -> Result<Validation>;

    /// Signs in this validation, beside that of the untuned model, that usually mean that a run goes wrong.
    fn alarms(&self, validation: &Validation, untuned: &Metrics) -> Vec<String>;

    /// The optimiser has made its update.
    fn updated(&mut self) {}

    /// Counts of work done by this process; the loop adds those of the run's earlier parts.
    fn counts(&self) -> Vec<(String, u64)>;
}

impl Task for Box<dyn Task> {
    fn accumulate(&mut self, step: u64, micro: u64) -> Result<Vec<Scalar>> {
        (**self).accumulate(step, micro)
    }

    fn take(&mut self, share: &Share) -> Result<()> {
        (**self).take(share)
    }

    fn validate(&mut self, step: u64, observer: &mut dyn Observer) -> Result<Validation> {
        (**self).validate(step, observer)
    }

    fn alarms(&self, validation: &Validation, untuned: &Metrics) -> Vec<String> {
        (**self).alarms(validation, untuned)
    }

    fn updated(&mut self) {
        (**self).updated();
    }

    fn counts(&self) -> Vec<(String, u64)> {
        (**self).counts()
    }
}

/// How long and how the loop runs.
#[derive(Clone, Copy, Debug)]
pub struct LoopConfig {
    /// Optimiser steps at most.
    pub steps: u64,
    /// Micro-batches in a step.
    pub accumulation: u64,
    /// Largest gradient norm; 0 does not clip.
    pub clip_norm: f64,
    /// The learning rate.
    pub schedule: Schedule,
    /// Steps between metrics.
    pub log_every: u64,
    /// Steps between validations; 0 is never.
    pub validate_every: u64,
    /// Validations without a gain after which to stop; 0 is never.
    pub patience: u64,
    /// How much more reward is a gain.
    pub gain: GainRule,
    /// Steps between checkpoints; 0 is only at the end.
    pub checkpoint_every: u64,
}

impl LoopConfig {
    /// From the sections of a configuration that decide it.
    pub fn new(
        train: &TrainSection,
        validation: &impl StopRule,
        checkpoint: &CheckpointSection,
    ) -> Self {
        Self {
            steps: train.steps,
            accumulation: train.accumulation as u64,
            clip_norm: train.clip_norm,
            schedule: Schedule {
                peak: train.learning_rate,
                warmup: train.warmup,
                steps: train.steps,
                course: train.schedule,
            },
            log_every: train.log_every,
            validate_every: validation.every(),
            patience: validation.patience(),
            gain: GainRule {
                least: validation.min_gain(),
                standard_errors: validation.gain_errors(),
            },
            checkpoint_every: checkpoint.every,
        }
    }

    /// `true` if nothing is left to do: all steps are made, or patience has ended.
    pub fn ends_at(&self, progress: &Progress) -> bool {
        progress.step >= self.steps || progress.early_stopping.exhausted(self.patience)
    }
}

/// Trains until the steps are made, patience ends or the user interrupts; `progress` says how far it came in any case. `share` is
/// what the task has taken: all processes of a run are in this loop, and what one of them decides by is the same in all.
///
/// # Errors
/// [`Error::Diverged`] when loss or gradient is not finite (the last checkpoint stays), [`Error::Interrupted`] with
/// the checkpoint just written, or whatever task and observer return.
pub fn run(
    task: &mut dyn Task,
    optimizer: &mut AdamW,
    config: &LoopConfig,
    share: &Share,
    progress: &mut Progress,
    observer: &mut dyn Observer,
) -> Result<()> {
    let peers = share.peers();
    let every = |period: u64, step: u64| {
        period > 0 && (step.is_multiple_of(period) || step == config.steps)
    };
    let before = progress.counts.clone();
    let mut stored = None;
    let mut unread: Option<Unread> = None;
    loop {
        let step = progress.step;
        if every(config.validate_every, step) && progress.validated != Some(step) {
            let outcome = validate(
                task,
                optimizer,
                (config, peers),
                progress,
                &before,
                observer,
            );
            match outcome {
                Err(Error::Interrupted { .. }) => {
                    return Err(interrupt(optimizer, progress, observer));
                }
                outcome => outcome?,
            }
        }
        let done = config.ends_at(progress);
        if done || (step > 0 && every(config.checkpoint_every, step) && stored != Some(step)) {
            observer.checkpoint(&snapshot(optimizer, progress)?)?;
            stored = Some(step);
        }
        if done {
            break;
        }
        if peers.any(observer.interrupted())? {
            report(unread.take(), (config, peers), progress, observer)?;
            return Err(interrupt(optimizer, progress, observer));
        }

        let learning_rate = config.schedule.at(step);
        let mut sums: Vec<Sum> = Vec::new();
        for micro in share.micro_batches(config.accumulation) {
            for scalar in task.accumulate(step, micro)? {
                match sums.iter_mut().find(|sum| sum.name == scalar.name) {
                    Some(sum) => sum.add(&scalar),
                    None => sums.push(Sum::new(&scalar)),
                }
            }
        }
        // The gradient is already that of the mean over micro-batches.
        optimizer.sum_gradients(peers)?;
        let norm = optimizer.step(learning_rate, config.clip_norm)?;
        sums.push(Sum::new(&Scalar {
            name: "gradient_norm",
            value: norm,
            weight: 1.0,
        }));
        task.updated();
        progress.step += 1;
        progress.counts = add_counts(&before, counts_of_all(task, peers)?);

        let step = progress.step;
        let stops_here = every(config.validate_every, step) || every(config.checkpoint_every, step);
        // Those of the step before: this step's work is there for the GPU to do meanwhile.
        report(unread.take(), (config, peers), progress, observer)?;
        if stops_here || every(config.log_every, step) {
            unread = Some(Unread::begin(step, &sums, learning_rate)?);
            // What is stored or validated is known to be finite before; a CPU has no work in waiting.
            if stops_here || step == config.steps || !optimizer.device().is_cuda() {
                report(unread.take(), (config, peers), progress, observer)?;
            }
        }
        observer.event(&Event::Progress {
            phase: "train",
            done: step,
            total: config.steps,
        })?;
    }
    if config.validate_every == 0 {
        optimizer.swap_averages();
        let stored = snapshot(optimizer, progress).and_then(|snapshot| observer.best(&snapshot));
        optimizer.swap_averages();
        stored?;
    }
    observer.event(&Event::Finished {
        step: progress.step,
        early: progress.step < config.steps,
        best: progress.early_stopping.best,
    })?;
    Ok(())
}

/// Counts of work of all processes.
fn counts_of_all(task: &dyn Task, peers: &Peers) -> Result<Vec<(String, u64)>> {
    let own = task.counts();
    let numbers: Vec<f64> = own.iter().map(|(_, count)| *count as f64).collect();
    let sums = peers.sums(&numbers)?;
    let named = own.into_iter().zip(sums);
    Ok(named.map(|((name, _), sum)| (name, sum as u64)).collect())
}

/// Counts of a run: those of its earlier parts and those of its processes now.
pub fn add_counts(before: &[(String, u64)], now: Vec<(String, u64)>) -> Vec<(String, u64)> {
    let earlier = |name: &str| {
        let known = before.iter().find(|(known, _)| known == name);
        known.map_or(0, |(_, count)| *count)
    };
    now.into_iter()
        .map(|(name, count)| {
            let sum = count + earlier(&name);
            (name, sum)
        })
        .collect()
}

/// Stores the state and returns the error that says so.
fn interrupt(optimizer: &AdamW, progress: &Progress, observer: &mut dyn Observer) -> Error {
    let stored = snapshot(optimizer, progress).and_then(|snapshot| observer.checkpoint(&snapshot));
    match stored {
        Ok(checkpoint) => Error::Interrupted {
            step: progress.step,
            checkpoint,
        },
        Err(error) => error,
    }
}

/// Reports a gradient or a loss that has left all bounds.
fn alarm_on_explosion(
    progress: &mut Progress,
    (step, metrics): (u64, &Metrics),
    clip_norm: f64,
    observer: &mut dyn Observer,
) -> Result<()> {
    let value = |name: &str| metric(metrics, name).unwrap_or(0.0);
    let (loss, norm) = (value("loss"), value("gradient_norm"));
    let first = *progress.first_loss.get_or_insert(loss);
    let mut alarm = |message: String| {
        observer.event(&Event::Alarm {
            step,
            during: "train",
            message,
        })
    };
    if clip_norm > 0.0 && norm > EXPLODING_GRADIENT * clip_norm {
        alarm(format!(
            "the gradient's norm is {norm:.3e}: lower `train.learning_rate`"
        ))?;
    }
    if first > 0.0 && loss > EXPLODING_LOSS * first {
        alarm(format!(
            "the loss is {loss:.3e}, {first:.3e} at the start: lower `train.learning_rate`"
        ))?;
    }
    Ok(())
}

/// The state as it is to be stored; weights that are not finite never are, so that what is on disk stays usable.
fn snapshot<'a>(optimizer: &AdamW, progress: &'a Progress) -> Result<Snapshot<'a>> {
    if !optimizer.is_finite()? {
        return Err(diverged(progress.step, "a weight is not finite".to_owned()));
    }
    Ok(Snapshot {
        progress,
        parameters: optimizer.parameters(),
        moments: optimizer.state(),
    })
}

fn diverged(step: u64, what: String) -> Error {
    Error::Diverged { step, what }
        .with_hint("lower `train.learning_rate` or `objective.beta`; the checkpoints are intact")
}

/// Validates the averaged weights where an average is kept, else the trained ones.
fn validate(
    task: &mut dyn Task,
    optimizer: &mut AdamW,
    (config, peers): (&LoopConfig, &Peers),
    progress: &mut Progress,
    before: &[(String, u64)],
    observer: &mut dyn Observer,
) -> Result<()> {
    optimizer.swap_averages();
    let around = (config, peers);
    let outcome = validate_weights(task, optimizer, around, progress, before, observer);
    optimizer.swap_averages();
    outcome
}

fn validate_weights(
    task: &mut dyn Task,
    optimizer: &AdamW,
    (config, peers): (&LoopConfig, &Peers),
    progress: &mut Progress,
    before: &[(String, u64)],
    observer: &mut dyn Observer,
) -> Result<()> {
    let step = progress.step;
    let mut validation = {
        let _casts = keep_casts();
        if peers.are_none() {
            task.validate(step, observer)?
        } else {
            task.validate(step, &mut ToTheEnd(observer))?
        }
    };
    if !peers.are_none() {
        // One decides: the others may have come to other last digits.
        let figures = Figures {
            reward: validation.reward.to_bits(),
            rewards: validation.rewards.iter().map(|one| one.to_bits()).collect(),
            metrics: in_bits(&validation.metrics),
        };
        let figures = peers.first_says(figures)?;
        validation.reward = f64::from_bits(figures.reward);
        validation.rewards = figures.rewards.into_iter().map(f64::from_bits).collect();
        validation.metrics = from_bits(figures.metrics);
    }
    check_finite(step, &vec![("validation".to_owned(), validation.reward)])?;
    let stopping = &mut progress.early_stopping;
    let difference = stopping.difference(&validation.rewards);
    let best = stopping.update(step, validation.reward, &validation.rewards, config.gain);
    let without_gain = (stopping.since, config.patience);
    progress.validated = Some(step);
    if step == 0 {
        progress.untuned.clone_from(&validation.metrics);
    }
    progress.counts = add_counts(before, counts_of_all(task, peers)?);
    if best {
        observer.best(&snapshot(optimizer, progress)?)?;
    }
    observer.event(&Event::Validated {
        step,
        validation: &validation,
        best,
        difference,
        without_gain,
    })?;
    for message in task.alarms(&validation, &progress.untuned) {
        observer.event(&Event::Alarm {
            step,
            during: "validation",
            message,
        })?;
    }
    Ok(())
}

/// Figures of a validation as processes tell each other: numbers by their bits, for JSON has none that are not finite.
#[derive(Serialize, Deserialize)]
struct Figures {
    reward: u64,
    rewards: Vec<u64>,
    metrics: Vec<(String, u64)>,
}

fn in_bits(metrics: &Metrics) -> Vec<(String, u64)> {
    let bits = |(name, value): &(String, f64)| (name.clone(), value.to_bits());
    metrics.iter().map(bits).collect()
}

fn from_bits(metrics: Vec<(String, u64)>) -> Metrics {
    let value = |(name, bits)| (name, f64::from_bits(bits));
    metrics.into_iter().map(value).collect()
}

/// An observer that a validation on several processes cannot be ended by: one that left would keep the others waiting. The loop
/// asks again when it is done.
struct ToTheEnd<'a>(&'a mut dyn Observer);

impl Observer for ToTheEnd<'_> {
    fn interrupted(&self) -> bool {
        false
    }

    fn event(&mut self, event: &Event) -> Result<()> {
        self.0.event(event)
    }

    fn checkpoint(&mut self, snapshot: &Snapshot) -> Result<PathBuf> {
        self.0.checkpoint(snapshot)
    }

    fn best(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.0.best(snapshot)
    }
}

/// Held-out examples below which a figure is mostly chance: one in ten moves an accuracy by a tenth.
const FEW_HELD_OUT: usize = 10;

/// The warning about validations on so few examples.
pub fn few_held_out(count: usize) -> Option<String> {
    (1..FEW_HELD_OUT).contains(&count).then(|| {
        format!(
            "warning: only {count} held out: one of them moves an accuracy by {:.2}, and the best weights are chosen by chance; \
             hold out {FEW_HELD_OUT} or more",
            1.0 / count as f64
        )
    })
}

/// Tells the observer of a step's metrics, where there are some.
fn report(
    unread: Option<Unread>,
    (config, peers): (&LoopConfig, &Peers),
    progress: &mut Progress,
    observer: &mut dyn Observer,
) -> Result<()> {
    let Some(unread) = unread else { return Ok(()) };
    let step = unread.step;
    let metrics = unread.read(peers)?;
    check_finite(step, &metrics)?;
    observer.event(&Event::Step {
        step,
        metrics: &metrics,
    })?;
    alarm_on_explosion(progress, (step, &metrics), config.clip_norm, observer)
}

fn check_finite(step: u64, metrics: &Metrics) -> Result<()> {
    match metrics.iter().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((name, value)) => Err(diverged(step, format!("`{name}` is {value}"))),
    }
}
