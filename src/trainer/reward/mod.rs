//! Training a head: what a reward run adds to the loop. A step looks rows up, or runs a language model over texts
//! (`source.rs`), and then the head; a validation runs it over what is held out.

mod examples;
mod objective;
mod source;
mod users;

use std::rc::Rc;

use tch::{Kind, Tensor, no_grad};

pub use self::examples::{Examples, Pairs, Ratings};
pub use self::objective::Objective;
pub use self::source::{Source, Texts};
pub use self::users::fit_users;
use super::visits::epoch_order;
use crate::config::{RewardConfig, ValidationBy};
use crate::error::{Error, Result};
use crate::models::heads::{Head, Network};
use crate::models::lm::reward::RewardModel;
use crate::ops::tape::Tape;
use crate::ops::transfer::upload_slice;
use crate::trainer::Task;
use crate::trainer::event::{Metrics, Observer, Validation, metric};

/// Embeddings, as the head reads them.
pub struct Embeddings {
    /// `[n, d]`
    pub responses: Tensor,
    /// `[m, d]`, where the head reads prompts.
    pub prompts: Option<Tensor>,
}

impl Embeddings {
    /// The same tensors once more.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        Self {
            responses: self.responses.shallow_clone(),
            prompts: self.prompts.as_ref().map(Tensor::shallow_clone),
        }
    }
}

/// A reward run's task.
pub struct RewardTask {
    head: Rc<Head>,
    objective: Objective,
    source: Source,
    train: Examples,
    held_out: Option<Examples>,
    by: ValidationBy,
    checkpoint_activations: bool,
    batch: u64,
    accumulation: u64,
    seed: u64,
    examples: u64,
}

impl RewardTask {
    /// A task that trains `head` on `train`, with `held_out` for validations.
    ///
    /// # Errors
    /// Ratings for a head that is not scalar.
    pub fn new(
        head: Rc<Head>,
        source: Source,
        train: Examples,
        held_out: Option<Examples>,
        config: &RewardConfig,
    ) -> Result<Self> {
        let scalar = matches!(head.network(), Network::Scalar(_));
        if !scalar && matches!(train, Examples::Ratings(_)) {
            return Err(Error::config("ratings train scalar heads"));
        }
        Ok(Self {
            head,
            objective: Objective::from(&config.reward_model),
            source,
            train,
            held_out,
            by: config.validation.by,
            checkpoint_activations: config.train.checkpoint_activations,
            batch: config.train.batch as u64,
            accumulation: config.train.accumulation as u64,
            seed: config.run.seed,
            examples: 0,
        })
    }

    /// As [`Self::measure`] of another model that reads the same texts.
    pub fn measure_model(&self, model: &Rc<RewardModel>) -> (f64, Metrics) {
        match self.source.read_by(model) {
            Some(source) => self.measure_on(model.head(), &source),
            None => self.measure(model.head()),
        }
    }

    /// Figures of `head` on what is held out: the number to maximise, and all metrics.
    pub fn measure(&self, head: &Head) -> (f64, Metrics) {
        self.measure_on(head, &self.source)
    }

    fn measure_on(&self, head: &Head, source: &Source) -> (f64, Metrics) {
        let held_out = self.held_out.as_ref().unwrap_or(&self.train);
        let metrics = no_grad(|| {
            let (chunk, device) = (source.chunk(self.batch), source.examples_device());
            let parts = (0..held_out.count()).step_by(chunk as usize).map(|begin| {
                let count = chunk.min(held_out.count() - begin);
                let rows = Tensor::arange_start(begin, begin + count, (Kind::Int64, device));
                let (embeddings, examples) = source.embed(held_out.rows(&rows), None);
                self.objective.figures(head, &embeddings, &examples)
            });
            Objective::summary(&held_out.names(), parts.collect())
        });
        let value = |name: &str| metric(&metrics, name).unwrap_or(f64::NAN);
        let reward = match self.by {
            ValidationBy::Loss => -value("loss"),
            ValidationBy::Accuracy => value("accuracy"),
        };
        (reward, metrics)
    }
}

impl Task for RewardTask {
    fn accumulate(&mut self, step: u64, micro: u64) -> Result<Vec<(&'static str, Tensor)>> {
        let begin = (step * self.accumulation + micro) * self.batch;
        let count = self.train.count() as usize;
        let rows = epoch_order(self.seed, "example", count, begin..begin + self.batch);
        let rows = upload_slice(&rows, self.source.examples_device());
        let tape = self.checkpoint_activations.then(Tape::new);
        let (embeddings, examples) = self.source.embed(self.train.rows(&rows), tape.as_ref());
        let (loss, mut scalars) = self.objective.loss(&self.head, &embeddings, &examples);
        let loss = loss.mean(Kind::Float);
        (&loss / self.accumulation as f64).backward();
        if let Some(tape) = tape {
            tape.backward();
        }
        self.examples += self.batch;
        scalars.insert(0, ("loss", loss.detach()));
        Ok(scalars)
    }

    fn validate(&mut self, _step: u64, _observer: &mut dyn Observer) -> Result<Validation> {
        let (reward, metrics) = self.measure(&self.head);
        Ok(Validation {
            reward,
            rewards: Vec::new(),
            metrics,
            samples: Vec::new(),
            answers: Vec::new(),
        })
    }

    fn alarms(&self, _validation: &Validation, _untuned: &Metrics) -> Vec<String> {
        Vec::new()
    }

    fn counts(&self) -> Vec<(String, u64)> {
        vec![("examples".to_owned(), self.examples)]
    }
}
