//! Sizes of a run's passes: the lengths of its examples say them before there is a model.

use super::examples::{Example, by_length};
use super::reference::frozen_rows;
use super::{batches, laid_out, rows_of};
use crate::config::TextConfig;
use crate::data::text::Shape;
use crate::error::Result;
use crate::models::lm::{LmConfig, LmPass};
use crate::trainer::objective::Objective;

/// The passes of the trained model in the steps of a run.
#[derive(Default)]
pub struct Sizes {
    /// Every micro-batch, in order.
    pub passes: Vec<LmPass>,
    /// Examples in them, as the run counts them.
    pub examples: u64,
    /// Tokens in them, without padding and with every prompt as often as it has answers, as the run counts them.
    pub tokens: u64,
}

impl Sizes {
    /// Of a run on these examples.
    ///
    /// # Errors
    /// As those of [`super::TextTask::new`].
    pub fn new(
        objective: &Objective,
        examples: &[Example],
        config: &TextConfig,
        model: &LmConfig,
    ) -> Result<Self> {
        let mut sizes = Self::default();
        let mut batches = batches(objective, examples, config)?;
        for index in 0..config.train.steps * config.train.accumulation as u64 {
            let rows = batches.get(index);
            sizes
                .passes
                .push(pass(objective.shape(), examples, &rows, model));
            sizes.examples += rows.len() as u64;
            let sequences = rows.iter().flat_map(|&row| &examples[row].sequences);
            sizes.tokens += sequences.map(|one| one.ids.len() as u64).sum::<u64>();
        }
        Ok(sizes)
    }
}

/// The passes of a validation, `batch` examples at a time.
pub fn validation_passes(
    objective: &Objective,
    examples: &[Example],
    batch: usize,
    model: &LmConfig,
) -> Vec<LmPass> {
    let parts = by_length(examples, batch);
    let pass = |rows: &Vec<usize>| pass(objective.shape(), examples, rows, model);
    parts.iter().map(pass).collect()
}

/// The passes of [`super::reference_logps`].
pub fn reference_passes(examples: &[Example], batch: usize, model: &LmConfig) -> Vec<LmPass> {
    let parts = by_length(examples, batch);
    let pass = |rows: &Vec<usize>| frozen_rows(&chosen(examples, rows), model).pass();
    parts.iter().map(pass).collect()
}

fn pass(shape: Shape, examples: &[Example], rows: &[usize], model: &LmConfig) -> LmPass {
    let batch = chosen(examples, rows);
    rows_of(shape, &batch, &laid_out(shape, &batch), model).pass()
}

fn chosen<'a>(examples: &'a [Example], rows: &[usize]) -> Vec<&'a Example> {
    rows.iter().map(|&row| &examples[row]).collect()
}
