//! Supervised fine-tuning: the negative log-likelihood of a response.

use tch::Tensor;

/// `loss = -logp`, per response.
/// * `logp` `[b]`: summed log-probabilities, or [means](super::pair::mean) for a loss that does not grow with length.
pub fn sft(logp: &Tensor) -> Tensor {
    -logp
}
