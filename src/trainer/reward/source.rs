//! Where the vectors come from that a head reads: computed before, or by a language model that is trained too.

use std::collections::HashMap;
use std::rc::Rc;

use tch::{Device, Tensor};

use super::{Embeddings, Examples};
use crate::models::lm::reward::RewardModel;
use crate::models::lm::tokenizer::Sequence;
use crate::ops::tape::Tape;
use crate::ops::transfer::upload;

/// Vectors of responses and prompts.
pub enum Source {
    /// All of them, once.
    Stored(Embeddings),
    /// Computed from texts whenever they are needed.
    Texts(Texts),
}

/// Texts and the language model that reads them; a response is a prompt with an answer.
pub struct Texts {
    /// The model with the head.
    pub model: Rc<RewardModel>,
    /// The responses, to which the examples' rows point.
    pub sequences: Vec<Sequence>,
}

impl Source {
    /// The vectors that a head reads for these examples, and the examples with their rows in them.
    pub(super) fn embed<'a>(
        &'a self,
        examples: Examples,
        tape: Option<&Tape<'a>>,
    ) -> (Embeddings, Examples) {
        match self {
            Self::Stored(embeddings) => (embeddings.shallow_clone(), examples),
            Self::Texts(texts) => texts.embed(examples, tape),
        }
    }

    /// The same texts, read by another model; `None` where there are none.
    pub(super) fn read_by(&self, model: &Rc<RewardModel>) -> Option<Self> {
        let Self::Texts(texts) = self else {
            return None;
        };
        Some(Self::Texts(Texts {
            model: Rc::clone(model),
            sequences: texts.sequences.clone(),
        }))
    }

    /// Examples that are judged together in a validation, where a step takes `batch`.
    pub(super) fn chunk(&self, batch: u64) -> i64 {
        match self {
            Self::Stored(_) => 4096,
            Self::Texts(_) => batch as i64,
        }
    }

    /// Where the examples are: texts are looked up by them in the computer's memory.
    pub(super) fn examples_device(&self) -> Device {
        match self {
            Self::Stored(embeddings) => embeddings.responses.device(),
            Self::Texts(_) => Device::Cpu,
        }
    }
}

impl Texts {
    /// A prompt's vector is that of its last token before the preferred answer; the other answer would give the same.
    fn embed<'a>(
        &'a self,
        mut examples: Examples,
        tape: Option<&Tape<'a>>,
    ) -> (Embeddings, Examples) {
        let (mut rows, device) = (Rows::default(), self.model.device());
        match &mut examples {
            Examples::Pairs(pairs) => {
                pairs.chosen = upload(&rows.take(&pairs.chosen), device);
                pairs.rejected = upload(&rows.take(&pairs.rejected), device);
                pairs.prompts = Some(pairs.chosen.shallow_clone());
                for values in [&mut pairs.strength, &mut pairs.weight, &mut pairs.users] {
                    *values = upload(values, device);
                }
            }
            Examples::Ratings(ratings) => {
                ratings.rows = upload(&rows.take(&ratings.rows), device);
                ratings.values = upload(&ratings.values, device);
            }
        }
        let sequences = rows.all.iter().map(|&row| &self.sequences[row as usize]);
        let states = self.model.states(&sequences.collect::<Vec<_>>(), tape);
        let embeddings = Embeddings {
            responses: states.last,
            prompts: Some(states.prompt),
        };
        (embeddings, examples)
    }
}

/// The different rows of some examples, each with a new number.
#[derive(Default)]
struct Rows {
    all: Vec<i64>,
    numbers: HashMap<i64, i64>,
}

impl Rows {
    /// The new numbers of `rows` `[b]`, in the computer's memory as these.
    fn take(&mut self, rows: &Tensor) -> Tensor {
        let old = Vec::<i64>::try_from(rows).expect("rows are i64 of one dimension");
        let new: Vec<i64> = old
            .into_iter()
            .map(|row| {
                *self.numbers.entry(row).or_insert_with(|| {
                    self.all.push(row);
                    self.all.len() as i64 - 1
                })
            })
            .collect();
        Tensor::from_slice(&new)
    }
}
