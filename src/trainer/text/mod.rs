//! Tuning a language model to preferences: what a text run adds to the loop.
//!
//! Records become token ids once (`examples.rs`). A step runs prompts with all their answers through the model as one
//! batch, asks for the log-probs of the answers' tokens by the two-pass head, and hands sums of them, with those of the
//! reference (`reference.rs`), to whichever objective the configuration names (`trainer/objective.rs`).

mod batch;
mod compare;
mod examples;
mod reference;
mod shown;
mod sizes;
mod words;

use std::rc::Rc;

use tch::{Kind, Tensor};

use self::batch::{Batches, Order, Padded, Rows};
pub use self::compare::{Compared, compare};
pub use self::examples::{Example, Examples, located, scored, sequence};
use self::examples::{by_length, one_after_the_other};
pub use self::reference::{Live, head_rows, reference_key, reference_logps, token_logps};
use self::reference::{sums, sums_of};
pub use self::shown::{ShownPrompt, ShownPrompts};
pub use self::sizes::{Sizes, reference_passes, validation_passes};
pub use self::words::{Forms, as_asked, open_tokenizer};
use crate::config::{TextConfig, ValidationBy};
use crate::data::text::Shape;
use crate::distributed::Share;
use crate::error::{Error, Result};
use crate::models::lm::tokenizer::Sequence;
use crate::models::lm::{LanguageModel, LmConfig};
use crate::ops::halving::in_halves;
use crate::ops::logprobs::{Reference, TwoPass};
use crate::ops::tape::Tape;
use crate::ops::transfer::upload_slice;
use crate::trainer::event::{Event, Metrics, Observer, Validation, metric};
use crate::trainer::means::{Means, Metric};
use crate::trainer::objective::{ExampleLabels, Objective, Scores};
use crate::trainer::{Scalar, Task};

/// Mean difference of log-probs per token between a policy and its reference before the first step that batches of other
/// shapes and a number type can cause.
const ROUNDING: [(Kind, f64); 2] = [(Kind::Float, 1e-3), (Kind::BFloat16, 0.1)];

/// Examples with what frozen models say about them.
#[derive(Default)]
pub struct Frozen {
    /// The examples.
    pub examples: Vec<Example>,
    /// For each example, how many answers come before its first one.
    starts: Vec<usize>,
    /// Summed log-probs of the reference by example and answer; empty where they are not cached or not needed.
    pub reference: Vec<f32>,
    /// Summed log-probs of the previous iterate, likewise.
    pub previous: Vec<f32>,
}

impl Frozen {
    /// Of examples of which nothing is known yet.
    pub fn new(examples: Vec<Example>) -> Self {
        let mut before = 0;
        let start = |example: &Example| {
            let start = before;
            before += example.sequences.len();
            start
        };
        Self {
            starts: examples.iter().map(start).collect(),
            examples,
            ..Self::default()
        }
    }
}

/// The parts of a text run.
pub struct TextTaskParts {
    /// The trained model.
    pub model: Rc<LanguageModel>,
    /// The minimised loss.
    pub objective: Objective,
    /// The reference, where it is needed at every step.
    pub live: Option<Live>,
    /// `true` if the reference has the weights that training starts from: log-ratios are then 0 at the start.
    pub starts_at_reference: bool,
    /// Type of the passes.
    pub kind: Kind,
    /// Examples to learn from, at least a batch of them.
    pub train: Frozen,
    /// Held-out examples.
    pub held_out: Frozen,
    /// Held-out prompts that are answered at each validation.
    pub shown: ShownPrompts,
}

/// A text run's task.
pub struct TextTask {
    parts: TextTaskParts,
    batches: Batches,
    batch: usize,
    accumulation: u64,
    by: ValidationBy,
    checkpoint_activations: bool,
    max_length: usize,
    share: Share,
    tokens: u64,
    examples: u64,
}

/// The examples of a step that a process back-propagates.
#[derive(Clone, Copy)]
struct Step<'a> {
    /// The micro-batch, of which it has a share.
    whole: &'a [usize],
    /// Number by which the mean loss is divided.
    divisor: f64,
}

impl TextTask {
    /// A task of these parts.
    ///
    /// # Errors
    /// Fewer examples than a batch, or a batch of one for an objective that compares within batches.
    pub fn new(parts: TextTaskParts, config: &TextConfig) -> Result<Self> {
        Ok(Self {
            batches: batches(&parts.objective, &parts.train.examples, config)?,
            batch: config.train.batch,
            accumulation: config.train.accumulation as u64,
            by: config.validation.by,
            checkpoint_activations: config.train.checkpoint_activations,
            max_length: config.data.max_length,
            share: Share::whole(),
            tokens: 0,
            examples: 0,
            parts,
        })
    }

    /// Figures of the held-out examples, which the processes of a run share. `progress` is told how many of how many are done,
    /// and may end it.
    ///
    /// # Errors
    /// The error that `progress` returns; another process has ended or does not answer.
    pub fn measure(&self, progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Metrics> {
        let set = &self.parts.held_out;
        let mut means = Means::default();
        let mut done = 0;
        let mut batches = by_length(&set.examples, self.batch);
        // One alone has no other prompt to be compared with.
        if self.parts.objective.shape() == Shape::Marked
            && let Some(last) = batches.pop_if(|last| last.len() == 1)
        {
            match batches.last_mut() {
                Some(before) => before.extend(last),
                None => batches.push(last),
            }
        }
        let peers = self.share.peers();
        let own = peers.deal(batches.len(), 1);
        let total = own.iter().map(|&batch| batches[batch].len() as u64).sum();
        for number in own {
            let rows = &batches[number];
            progress(done, total)?;
            done += rows.len() as u64;
            // Marked examples are compared within their batch, which therefore stays whole.
            let whole = self.parts.objective.shape() == Shape::Marked;
            let parts = if whole { 1 } else { rows.len() };
            let size = rows.len() / parts;
            in_halves(parts, parts, |range| {
                let rows = &rows[range.start * size..range.end * size];
                let (_, metrics) = self.pass(set, rows, None)?;
                means.add(number, &metrics)
            })?;
        }
        progress(done, done)?;
        means.finish(peers)
    }

    /// Loss and metrics of some examples; back-propagated, where they are those of a step.
    fn pass(
        &self,
        set: &Frozen,
        rows: &[usize],
        step: Option<Step>,
    ) -> Result<(Scores, Vec<Metric>)> {
        let TextTaskParts {
            model,
            objective,
            live,
            ..
        } = &self.parts;
        let batch: Vec<&Example> = rows.iter().map(|&row| &set.examples[row]).collect();
        let labels: Vec<&ExampleLabels> = batch.iter().map(|example| &example.labels).collect();
        let sequences = laid_out(objective.shape(), &batch);
        let laid = rows_of(objective.shape(), &batch, &sequences, model.config());
        let padded = Padded::from_rows(&laid, model.device());
        let scored = &padded.scored;

        let needs_live = objective.needs_reference() && live.is_some();
        let live = live.as_ref().filter(|_| needs_live);
        let frozen_states = live
            .filter(|_| objective.needs_token_kl())
            .map(|live| live.with(model, |frozen| padded.states(frozen, None)));
        let frozen_head = |states: &Tensor| match live {
            Some(live) => live.with(model, |frozen| frozen.logits(states)),
            None => model.logits(states),
        };
        let reference = frozen_states.map(|states| Reference {
            states,
            head: &frozen_head,
        });

        let tape = (self.checkpoint_activations && step.is_some()).then(Tape::new);
        let states = padded.states(model, tape.as_ref()); // [n, d]
        let head = |states: &Tensor| model.logits(states);
        let pass = TwoPass::new(
            &states,
            &scored.targets,
            &head,
            reference,
            head_rows(model.config()),
        );
        let cached = |logps: &[f32]| {
            (!logps.is_empty()).then(|| gathered(set, logps, objective.shape(), rows, model))
        };
        let mismatched = live
            .filter(|_| objective.shape() == Shape::Marked)
            .map(|live| self.mismatched(live, set, rows, step.as_ref()))
            .transpose()?;
        let scores = Scores {
            policy: scored.sum(&pass.logps),
            lengths: scored.lengths(),
            reference: live
                .map(|live| live.with(model, |frozen| sums_of(frozen, &padded)))
                .or_else(|| cached(&set.reference)),
            previous: cached(&set.previous),
            kl: pass.kl.as_ref().map(|kl| scored.sum(kl)),
            mismatched,
        };
        let (loss, mut metrics) = objective.evaluate(&labels, &scores);
        let padding = Tensor::full([], padded.padding, (Kind::Float, model.device()));
        for (name, value) in [
            ("entropy", pass.entropy.mean(Kind::Float)),
            ("padding_fraction", padding),
        ] {
            metrics.push(Metric::new(name, value, rows.len() as f64));
        }
        if let Some(Step { divisor, .. }) = step {
            (loss / divisor).backward();
            pass.backward();
            if let Some(tape) = tape {
                tape.backward();
            }
        }
        Ok((scores, metrics))
    }

    /// Log-ratios of every prompt of a batch with the next one's answer, as KTO's authors pair them up; TRL takes the answer
    /// before. Processes that share a batch each compute those of their own prompts, and all get all.
    fn mismatched(
        &self,
        live: &Live,
        set: &Frozen,
        rows: &[usize],
        step: Option<&Step>,
    ) -> Result<Tensor> {
        let model = &self.parts.model;
        let whole = step.map_or(rows, |step| step.whole);
        let own = match step {
            Some(_) => self.share.examples(whole.len()),
            None => 0..whole.len(),
        };
        let sequence = |place: usize| &set.examples[whole[place % whole.len()]].sequences[0];
        let crossed: Vec<Sequence> = own
            .clone()
            .map(|place| {
                let (own, other) = (sequence(place), sequence(place + 1));
                let mut ids = own.ids[..own.prompt].to_vec();
                ids.extend(&other.ids[other.prompt..]);
                ids.truncate(self.max_length);
                Sequence {
                    ids,
                    prompt: own.prompt,
                    skipped: Vec::new(),
                }
            })
            .collect();
        let crossed: Vec<&Sequence> = crossed.iter().collect();
        let ratios = || sums(model, &crossed) - live.with(model, |frozen| sums(frozen, &crossed));
        if own.len() == whole.len() {
            return Ok(ratios());
        }
        let all = Tensor::zeros([whole.len() as i64], (Kind::Float, model.device()));
        if !own.is_empty() {
            all.narrow(0, own.start as i64, own.len() as i64)
                .copy_(&ratios());
        }
        self.share.peers().sum(&all)?;
        Ok(all)
    }

    /// Takes part in what the others do together with a micro-batch of which this process has no example.
    fn stand_by(&self, step: Step) -> Result<Vec<Scalar>> {
        if let Some(live) = &self.parts.live
            && self.parts.objective.shape() == Shape::Marked
        {
            let _ = self.mismatched(live, &self.parts.train, &[], Some(&step))?;
        }
        Ok(Vec::new())
    }

    /// How much of a metric's examples in the whole micro-batch a share of it has.
    fn weight(&self, metric: &Metric, whole: &[usize]) -> f64 {
        if !self.share.cuts_examples() {
            return 1.0;
        }
        let labels = whole
            .iter()
            .map(|&row| &self.parts.train.examples[row].labels);
        metric.count / self.parts.objective.examples_of(metric.name, labels)
    }

    /// Refuses a reference that is not what training starts from, before a step is made.
    fn check_start(&self, scores: &Scores) -> Result<()> {
        let Some(reference) = scores
            .reference
            .as_ref()
            .filter(|_| self.parts.starts_at_reference)
        else {
            return Ok(());
        };
        let off = (&scores.policy.detach() - reference).abs() / scores.lengths.clamp_min(1.0);
        let off = off.max().double_value(&[]);
        let allowed = ROUNDING.iter().find(|(kind, _)| *kind == self.parts.kind);
        if off <= allowed.map_or(ROUNDING[0].1, |(_, allowed)| *allowed) {
            return Ok(());
        }
        Err(Error::Diverged {
            step: 0,
            what: format!("before the first step the policy differs from its reference by {off:.2e} nats a token"),
        }
        .with_hint("the cached log-probs are of other weights: remove `reference.cache`"))
    }
}

/// The sequences of a batch: pairs as all chosen, then all rejected answers; others one example after the other.
fn laid_out<'a>(shape: Shape, batch: &[&'a Example]) -> Vec<&'a Sequence> {
    if shape == Shape::Pairs {
        let side = |place: usize| batch.iter().map(move |example| &example.sequences[place]);
        side(0).chain(side(1)).collect()
    } else {
        batch
            .iter()
            .flat_map(|example| &example.sequences)
            .collect()
    }
}

/// How the sequences of [`laid_out`] lie in rows.
fn rows_of<'a>(
    shape: Shape,
    batch: &[&Example],
    sequences: &[&'a Sequence],
    model: &LmConfig,
) -> Rows<'a> {
    let groups = match shape {
        Shape::Pairs => (0..batch.len())
            .map(|row| vec![row, batch.len() + row])
            .collect(),
        _ => one_after_the_other(batch),
    };
    Rows::shared(sequences, &groups, model)
}

/// Refuses sizes of batches that the examples or the objective do not allow.
///
/// # Errors
/// Fewer examples than a batch, or a batch of one for an objective that compares within batches.
pub fn check_batch(objective: &Objective, count: usize, batch: usize) -> Result<()> {
    if count < batch {
        let problem =
            format!("`train.batch` is {batch}, but there are {count} examples to learn from");
        return Err(Error::config(problem));
    }
    if objective.shape() == Shape::Marked && batch < 2 {
        let name = objective.name();
        let problem = format!(
            "`train.batch` must be 2 or more: `{name}` compares prompts with each other's answers"
        );
        return Err(Error::config(problem));
    }
    Ok(())
}

/// The batches of a run.
fn batches(objective: &Objective, examples: &[Example], config: &TextConfig) -> Result<Batches> {
    let batch = config.train.batch;
    check_batch(objective, examples.len(), batch)?;
    let least = 1 + usize::from(objective.shape() == Shape::Marked);
    let lengths = examples.iter().map(Example::longest).collect();
    let order = match (config.data.shuffle, config.data.bucket) {
        (false, _) => Order::AsGiven,
        (true, false) => Order::Shuffled,
        (true, true) => Order::Bucketed,
    };
    Ok(Batches::new(
        config.run.seed,
        (least, batch),
        lengths,
        order,
    ))
}

/// Cached values in the layout of [`laid_out`], `[s]`.
fn gathered(
    set: &Frozen,
    logps: &[f32],
    shape: Shape,
    rows: &[usize],
    model: &LanguageModel,
) -> Tensor {
    let values: Vec<f32> = match shape {
        Shape::Pairs => {
            let side = |place: usize| rows.iter().map(move |row| logps[2 * row + place]);
            side(0).chain(side(1)).collect()
        }
        _ => rows
            .iter()
            .flat_map(|&row| {
                let (start, count) = (set.starts[row], set.examples[row].sequences.len());
                &logps[start..start + count]
            })
            .copied()
            .collect(),
    };
    upload_slice(&values, model.device())
}

impl Task for TextTask {
    fn accumulate(&mut self, step: u64, micro: u64) -> Result<Vec<Scalar>> {
        let whole = self.batches.get(step * self.accumulation + micro);
        let rows = &whole[self.share.examples(whole.len())];
        let part = Step {
            whole: &whole,
            divisor: self.accumulation as f64 * (whole.len() as f64 / rows.len() as f64),
        };
        if rows.is_empty() {
            // The end of an epoch may have fewer examples than there are processes.
            return self.stand_by(part);
        }
        let (scores, metrics) = self.pass(&self.parts.train, rows, Some(part))?;
        if step == 0 && micro == self.share.micro_batches(self.accumulation).start {
            self.check_start(&scores)?;
        }
        let sequences = rows
            .iter()
            .flat_map(|&row| &self.parts.train.examples[row].sequences);
        self.tokens += sequences
            .map(|sequence| sequence.ids.len() as u64)
            .sum::<u64>();
        self.examples += rows.len() as u64;
        let scalar = |metric: Metric| Scalar {
            name: metric.name,
            weight: self.weight(&metric, &whole),
            value: metric.value,
        };
        Ok(metrics.into_iter().map(scalar).collect())
    }

    fn take(&mut self, share: &Share) -> Result<()> {
        self.share = share.clone();
        Ok(())
    }

    fn validate(&mut self, _step: u64, observer: &mut dyn Observer) -> Result<Validation> {
        let metrics = self.measure(&mut |done, total| {
            if observer.interrupted() {
                return Err(Error::Interrupted {
                    step: 0,
                    checkpoint: std::path::PathBuf::new(),
                });
            }
            observer.event(&Event::Progress {
                phase: "validate",
                done,
                total,
            })
        })?;
        let value = |name: &str| metric(&metrics, name);
        let loss = -value("loss").unwrap_or(f64::NAN);
        let reward = match self.by {
            ValidationBy::Loss => loss,
            ValidationBy::Accuracy => value("rewards/accuracies").unwrap_or(loss),
        };
        // Weights that have no loss cannot answer either; the loop says what is wrong with them.
        let answers = if loss.is_finite() && self.share.peers().is_first() {
            self.parts.shown.answer(&self.parts.model)?
        } else {
            Vec::new()
        };
        Ok(Validation {
            reward,
            rewards: Vec::new(),
            metrics,
            samples: Vec::new(),
            answers,
        })
    }

    fn alarms(&self, validation: &Validation, untuned: &Metrics) -> Vec<String> {
        let (now, before) = (
            metric(&validation.metrics, "logps/chosen"),
            metric(untuned, "logps/chosen"),
        );
        match (now, before) {
            (Some(now), Some(before))
                if self.parts.objective.shape() == Shape::Pairs && now < before - 1.0 =>
            {
                vec![format!(
                    "the chosen answers have become less likely ({now:.2} nats, {before:.2} untuned): only the margin is \
                 trained; `objective.nll_weight` holds them up"
                )]
            }
            _ => Vec::new(),
        }
    }

    fn counts(&self) -> Vec<(String, u64)> {
        vec![
            ("tokens".to_owned(), self.tokens),
            ("examples".to_owned(), self.examples),
        ]
    }
}
