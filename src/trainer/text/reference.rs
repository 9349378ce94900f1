//! The frozen side: log-probs of the reference, computed once or at every step.

use std::rc::Rc;

use sha2::{Digest as _, Sha256};
use tch::{Kind, Tensor, no_grad};

use super::batch::Padded;
use super::examples::Example;
use crate::error::{Error, Result};
use crate::models::lm::LanguageModel;
use crate::models::lm::tokenizer::Sequence;
use crate::models::lora::LoraSet;
use crate::models::weights::hex;
use crate::ops::logprobs::{Scored, TwoPass};

/// The reference at hand at every step.
pub enum Live {
    /// The policy's model with its adapters off.
    AdapterOff(Rc<LoraSet>),
    /// A frozen copy or another model.
    Frozen(Box<LanguageModel>),
}

impl Live {
    /// What `compute` computes with the reference: `policy` is the trained model.
    pub(super) fn with<T>(
        &self,
        policy: &LanguageModel,
        compute: impl FnOnce(&LanguageModel) -> T,
    ) -> T {
        match self {
            Self::Frozen(model) => no_grad(|| compute(model)),
            Self::AdapterOff(lora) => {
                lora.set_enabled(false);
                let computed = no_grad(|| compute(policy));
                lora.set_enabled(true);
                computed
            }
        }
    }
}

/// Positions whose logits are computed together: 256 MiB of f32.
pub(super) fn head_rows(model: &LanguageModel) -> i64 {
    ((1 << 26) / model.config().vocab_size).max(1)
}

/// Summed log-probs of answers without a graph, f32 `[s]`.
pub(super) fn sums(model: &LanguageModel, sequences: &[&Sequence]) -> Tensor {
    let (scored, logps) = logps(model, sequences);
    scored.sum(&logps)
}

/// Log-probs of the answers' tokens without a graph, f32 `[n]`, with where they are.
fn logps(model: &LanguageModel, sequences: &[&Sequence]) -> (Scored, Tensor) {
    no_grad(|| {
        let batch = Padded::new(sequences, model.device());
        let scored = Scored::of(&batch.labels);
        let states = scored.states(&model.forward(&batch.ids, None, None));
        let head = |states: &Tensor| model.logits(states);
        let pass = TwoPass::new(&states, &scored.targets, &head, None, head_rows(model));
        (scored, pass.logps.detach())
    })
}

/// Log-prob of each of `ids` but the first, given those before it.
///
/// # Errors
/// libtorch refuses.
pub fn token_logps(model: &LanguageModel, ids: &[i64]) -> Result<Vec<f64>> {
    let whole = Sequence {
        ids: ids.to_vec(),
        prompt: 1,
    };
    let (_, logps) = logps(model, &[&whole]);
    Ok(Vec::try_from(logps.to_kind(Kind::Double))?)
}

/// Summed log-probs of all answers of all examples, in their order. `progress` is told how many of how many are done,
/// and may end it.
///
/// # Errors
/// What `progress` returns, or a log-prob that is not finite.
pub fn reference_logps(
    model: &LanguageModel,
    examples: &[Example],
    batch: usize,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Vec<f32>> {
    let sequences: Vec<&Sequence> = examples
        .iter()
        .flat_map(|example| &example.sequences)
        .collect();
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&index| sequences[index].ids.len());
    // Left as they are, values that nothing computed would be seen.
    let mut logps = vec![f32::NAN; sequences.len()];
    for (done, part) in order.chunks(batch.max(1)).enumerate() {
        progress((done * batch) as u64, sequences.len() as u64)?;
        let batch: Vec<&Sequence> = part.iter().map(|&index| sequences[index]).collect();
        let values = Vec::<f32>::try_from(sums(model, &batch).to_kind(Kind::Float))?;
        for (&index, value) in part.iter().zip(values) {
            logps[index] = value;
        }
    }
    progress(sequences.len() as u64, sequences.len() as u64)?;
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

/// Names what [`reference_logps`] depends on: the ids (and through them data, template, tokenizer and longest length),
/// the weights and the number type.
pub fn reference_key(examples: &[Example], weights_sha256: &str, kind: Kind) -> String {
    let mut hash = Sha256::new();
    hash.update(weights_sha256);
    hash.update(format!("{kind:?} sum"));
    for sequence in examples.iter().flat_map(|example| &example.sequences) {
        hash.update((sequence.ids.len() as u64).to_le_bytes());
        hash.update((sequence.prompt as u64).to_le_bytes());
        for id in &sequence.ids {
            hash.update(id.to_le_bytes());
        }
    }
    hex(&hash.finalize())
}
