//! A tuned model beside the one it was tuned from, answer by answer.

use tch::{Kind, Tensor, no_grad};

use super::batch::Padded;
use super::examples::Example;
use super::reference::head_rows;
use crate::error::{Error, Result};
use crate::models::lm::LanguageModel;
use crate::models::lm::tokenizer::Sequence;
use crate::ops::logprobs::{Reference, TwoPass};

/// Scores of one answer by both models.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Compared {
    /// Summed log-prob by the tuned model.
    pub tuned: f64,
    /// Summed log-prob by the base.
    pub base: f64,
    /// Sum of `KL(base || tuned)` of the next-token distributions along the answer.
    pub kl: f64,
    /// Tokens of the answer.
    pub length: f64,
}

/// Compares two models on all answers of all examples, in their order. `progress` is told how many of how many are done,
/// and may end it.
///
/// # Errors
/// The error that `progress` returns, or log-probs that are not finite.
pub fn compare(
    tuned: &LanguageModel,
    base: &LanguageModel,
    examples: &[Example],
    batch: usize,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Vec<Compared>> {
    let sequences: Vec<&Sequence> = examples
        .iter()
        .flat_map(|example| &example.sequences)
        .collect();
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&index| sequences[index].ids.len());
    let mut all = vec![Compared::default(); sequences.len()];
    let mut done = 0;
    for part in order.chunks(batch.max(1)) {
        let batch: Vec<&Sequence> = part.iter().map(|&index| sequences[index]).collect();
        let columns = no_grad(|| columns(tuned, base, &batch));
        let columns = columns
            .iter()
            .map(|column| Vec::<f64>::try_from(column.to_kind(Kind::Double)));
        let columns: Vec<Vec<f64>> = columns.collect::<std::result::Result<_, _>>()?;
        if columns.iter().flatten().any(|number| !number.is_finite()) {
            return Err(Error::not_finite(tuned.folder(), "log-probs"));
        }
        for (row, &index) in part.iter().enumerate() {
            all[index] = Compared {
                tuned: columns[0][row],
                base: columns[1][row],
                kl: columns[2][row],
                length: columns[3][row],
            };
        }
        done += part.len() as u64;
        progress(done, sequences.len() as u64)?;
    }
    Ok(all)
}

/// The fields of [`Compared`] in their order, `[s]` each.
fn columns(tuned: &LanguageModel, base: &LanguageModel, batch: &[&Sequence]) -> [Tensor; 4] {
    let padded = Padded::new(batch, tuned.device());
    let scored = &padded.scored;
    let (tuned_head, base_head) = (
        |states: &Tensor| tuned.logits(states),
        |states: &Tensor| base.logits(states),
    );
    let base_states = padded.states(base, None);
    let reference = Reference {
        states: base_states.shallow_clone(),
        head: &base_head,
    };
    let rows = head_rows(tuned.config());
    let pass = TwoPass::new(
        &padded.states(tuned, None),
        &scored.targets,
        &tuned_head,
        Some(reference),
        rows,
    );
    let of_base = TwoPass::new(&base_states, &scored.targets, &base_head, None, rows);
    let kl = pass.kl.as_ref().unwrap_or(&pass.entropy);
    [
        scored.sum(&pass.logps),
        scored.sum(&of_base.logps),
        scored.sum(kl),
        scored.lengths(),
    ]
}
