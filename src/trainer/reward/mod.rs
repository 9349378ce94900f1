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
use crate::distributed::{Peers, Share};
use crate::error::{Error, Result};
use crate::models::heads::{Head, Network};
use crate::models::lm::reward::RewardModel;
use crate::ops::tape::Tape;
use crate::ops::transfer::upload_slice;
use crate::trainer::event::{Metrics, Observer, Validation, metric};
use crate::trainer::{Scalar, Task};

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
    share: Share,
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
            share: Share::whole(),
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

    /// Figures of `head` on what is held out: the number to maximise, and all metrics. This process computes all of them.
    pub fn measure(&self, head: &Head) -> (f64, Metrics) {
        self.measure_on(head, &self.source)
    }

    fn measure_on(&self, head: &Head, source: &Source) -> (f64, Metrics) {
        let all = self.parts(head, source, &Peers::alone());
        self.summary(&Tensor::stack(&all, 0))
    }

    /// Sums over the held-out examples, part by part, `[k]` f64 each; zeros of those parts that other processes take.
    fn parts(&self, head: &Head, source: &Source, peers: &Peers) -> Vec<Tensor> {
        let held_out = self.held_out();
        let (chunk, device) = (source.chunk(self.batch), source.examples_device());
        let begins: Vec<i64> = (0..held_out.count()).step_by(chunk as usize).collect();
        let width = Objective::width(&held_out.names());
        let zeros = Tensor::zeros([width], (Kind::Double, device));
        let mut parts: Vec<Tensor> = begins.iter().map(|_| zeros.shallow_clone()).collect();
        no_grad(|| {
            for part in peers.deal(begins.len(), 1) {
                let (begin, end) = (begins[part], held_out.count().min(begins[part] + chunk));
                let rows = Tensor::arange_start(begin, end, (Kind::Int64, device));
                let (embeddings, examples) = source.embed(held_out.rows(&rows), None);
                parts[part] = self.objective.figures(head, &embeddings, &examples);
            }
        });
        parts
    }

    fn held_out(&self) -> &Examples {
        self.held_out.as_ref().unwrap_or(&self.train)
    }

    /// The number to maximise, and all metrics, from the sums of all parts, `[n, k]`.
    fn summary(&self, parts: &Tensor) -> (f64, Metrics) {
        let held_out = self.held_out();
        let metrics = Objective::summary(&held_out.names(), parts, held_out.count());
        let value = |name: &str| metric(&metrics, name).unwrap_or(f64::NAN);
        let reward = match self.by {
            ValidationBy::Loss => -value("loss"),
            ValidationBy::Accuracy => value("accuracy"),
        };
        (reward, metrics)
    }
}

impl Task for RewardTask {
    fn accumulate(&mut self, step: u64, micro: u64) -> Result<Vec<Scalar>> {
        let begin = (step * self.accumulation + micro) * self.batch;
        let count = self.train.count() as usize;
        let rows = epoch_order(self.seed, "example", count, begin..begin + self.batch);
        let rows = &rows[self.share.examples(rows.len())];
        let weight = rows.len() as f64 / self.batch as f64;
        self.examples += rows.len() as u64;
        let rows = upload_slice(rows, self.source.examples_device());
        let tape = self.checkpoint_activations.then(Tape::new);
        let (embeddings, examples) = self.source.embed(self.train.rows(&rows), tape.as_ref());
        let (loss, mut scalars) = self.objective.loss(&self.head, &embeddings, &examples);
        let loss = loss.mean(Kind::Float);
        (&loss / (self.accumulation as f64 / weight)).backward();
        if let Some(tape) = tape {
            tape.backward();
        }
        scalars.insert(0, ("loss", loss.detach()));
        Ok(Scalar::all(weight, scalars))
    }

    fn take(&mut self, share: &Share) -> Result<()> {
        self.share = share.clone();
        Ok(())
    }

    fn validate(&mut self, _step: u64, _observer: &mut dyn Observer) -> Result<Validation> {
        let peers = self.share.peers();
        let parts = Tensor::stack(&self.parts(&self.head, &self.source, peers), 0);
        // Every part is one process'; the others add zeros.
        peers.sum(&parts)?;
        let (reward, metrics) = self.summary(&parts);
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
