//! The frozen side: log-probs of the reference, computed once or at every step.

use std::rc::Rc;

use sha2::{Digest as _, Sha256};
use tch::{Kind, Tensor, no_grad};

use super::batch::{Padded, Rows};
use super::examples::{Example, by_length, one_after_the_other};
use crate::distributed::Peers;
use crate::error::{Error, Result};
use crate::models::lm::tokenizer::Sequence;
use crate::models::lm::{LanguageModel, LmConfig};
use crate::models::lora::LoraSet;
use crate::models::weights::hex;
use crate::ops::halving::in_halves;
use crate::ops::logprobs::TwoPass;

/// The reference at hand at every step.
pub enum Live {
    /// The policy's model with its adapters off.
    AdapterOff(Rc<LoraSet>),
    /// A frozen copy or another model.
    Frozen(Box<LanguageModel>),
}

impl Live {
    /// The result of `compute` with the reference: `policy` is the trained model.
    pub(super) fn with<T>(
        &self,
        policy: &LanguageModel,
        compute: impl FnOnce(&LanguageModel) -> T,
    ) -> T {
        match self {
            Self::Frozen(model) => no_grad(|| compute(model)),
            Self::AdapterOff(lora) => {
                let _off = lora.off();
                no_grad(|| compute(policy))
            }
        }
    }
}

/// Positions whose logits are computed together: 256 MiB of f32.
pub fn head_rows(model: &LmConfig) -> i64 {
    ((1 << 26) / model.vocab_size).max(1)
}

/// Summed log-probs of answers without a graph, f32 `[s]`.
pub(super) fn sums(model: &LanguageModel, sequences: &[&Sequence]) -> Tensor {
    sums_of(model, &Padded::new(sequences, model.device()))
}

/// As [`sums`] of a batch that is there.
pub(super) fn sums_of(model: &LanguageModel, batch: &Padded) -> Tensor {
    batch.scored.sum(&logps(model, batch))
}

/// Log-probs of the answers' tokens without a graph, f32 `[n]`.
fn logps(model: &LanguageModel, batch: &Padded) -> Tensor {
    no_grad(|| {
        let states = batch.states(model, None);
        let head = |states: &Tensor| model.logits(states);
        let targets = &batch.scored.targets;
        let pass = TwoPass::new(&states, targets, &head, None, head_rows(model.config()));
        pass.logps.detach()
    })
}

/// Log-prob of each of `ids` but the first, given those before it.
///
/// # Errors
/// libtorch refuses, or the model's numbers overflow.
pub fn token_logps(model: &LanguageModel, ids: &[i64]) -> Result<Vec<f64>> {
    let whole = Sequence {
        ids: ids.to_vec(),
        prompt: 1,
        skipped: Vec::new(),
    };
    let logps = logps(model, &Padded::new(&[&whole], model.device()));
    let logps: Vec<f64> = Vec::try_from(logps.to_kind(Kind::Double))?;
    if logps.iter().any(|logp| !logp.is_finite()) {
        return Err(Error::not_finite(model.folder(), "log-probs"));
    }
    Ok(logps)
}

/// Summed log-probs of all answers of all examples, in their order, `batch` examples at a time, which the processes of a run
/// share. `progress` is told how many of how many are done, and may end it.
///
/// # Errors
/// The error that `progress` returns, a log-prob that is not finite, or another process that has ended or does not answer.
pub fn reference_logps(
    model: &LanguageModel,
    examples: &[Example],
    batch: usize,
    peers: &Peers,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Vec<f32>> {
    let starts: Vec<usize> = examples
        .iter()
        .scan(0, |next, example| {
            let start = *next;
            *next += example.sequences.len();
            Some(start)
        })
        .collect();
    let count = |index: usize| examples[index].sequences.len();
    let parts = by_length(examples, batch);
    let own = peers.deal(parts.len(), 1);
    // Left as they are, values that nothing computed would be seen.
    let mut logps = vec![f32::NAN; (0..examples.len()).map(count).sum()];
    for &index in parts
        .iter()
        .enumerate()
        .filter(|(part, _)| !own.contains(part))
        .flat_map(|(_, part)| part)
    {
        // Another process' part: the sum over all is then what that one has computed.
        logps[starts[index]..starts[index] + count(index)].fill(0.0);
    }
    let indices = own.iter().flat_map(|&part| &parts[part]);
    let total: usize = indices.map(|&index| count(index)).sum();
    let mut done = 0;
    for part in own.iter().map(|&part| &parts[part]) {
        progress(done as u64, total as u64)?;
        let places = part
            .iter()
            .flat_map(|&index| (0..examples[index].sequences.len()).map(move |one| (index, one)));
        let places: Vec<(usize, usize)> = places.collect();
        let batch: Vec<&Example> = part.iter().map(|&index| &examples[index]).collect();
        let values = in_halves(batch.len(), batch.len(), |range| {
            let rows = frozen_rows(&batch[range], model.config());
            let padded = Padded::from_rows(&rows, model.device());
            let values = sums_of(model, &padded).to_kind(Kind::Float);
            Ok(Vec::<f32>::try_from(values)?)
        })?;
        let values = values.into_iter().flatten();
        for ((index, one), value) in places.into_iter().zip(values) {
            logps[starts[index] + one] = value;
        }
        done += batch
            .iter()
            .map(|example| example.sequences.len())
            .sum::<usize>();
    }
    progress(total as u64, total as u64)?;
    if !peers.are_none() {
        let all = Tensor::from_slice(&logps);
        peers.sum(&all)?;
        logps = Vec::try_from(all)?;
    }
    let lines = examples
        .iter()
        .flat_map(|example| example.sequences.iter().map(|_| example.line));
    match lines.zip(&logps).find(|(_, logp)| !logp.is_finite()) {
        None => Ok(logps),
        Some((line, logp)) => Err(Error::Diverged {
            step: 0,
            what: format!("the reference's log-prob of the record of line {line} is {logp}"),
        }),
    }
}

/// How the examples of a batch lie where a frozen model reads them.
pub(super) fn frozen_rows<'a>(batch: &[&'a Example], model: &LmConfig) -> Rows<'a> {
    let sequences: Vec<&Sequence> = batch
        .iter()
        .flat_map(|example| &example.sequences)
        .collect();
    Rows::shared(&sequences, &one_after_the_other(batch), model)
}

/// Names what [`reference_logps`] depends on: the ids (and through them data, template, tokenizer and longest length),
/// the weights and the number type.
pub fn reference_key(examples: &[Example], weights_sha256: &str, kind: Kind) -> String {
    let mut hash = Sha256::new();
    hash.update(weights_sha256);
    hash.update(format!("{kind:?} sum"));
    for sequence in examples.iter().flat_map(|example| &example.sequences) {
        hash.update((sequence.ids.len() as u64).to_le_bytes());
        hash.update((sequence.prompt as u64).to_le_bytes());
        for range in &sequence.skipped {
            hash.update(format!("{range:?}"));
        }
        for id in &sequence.ids {
            hash.update(id.to_le_bytes());
        }
    }
    hex(&hash.finalize())
}
