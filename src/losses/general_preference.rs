//! The loss of a general preference model: cross-entropy of its score.

use tch::Tensor;

use crate::ops::stable::log_sigmoid;

/// Temperature of the authors.
pub const TAU: f64 = 0.1;

/// General Preference Model (Zhang et al. 2024, arXiv 2410.02197): `loss = -ln sigmoid(s / tau)`.
///
/// * `score` `[b]`: [`score`](crate::rewards::general_preference::score) of the chosen over the rejected response.
/// * `tau` > 0, usually [`TAU`]: with embeddings of length 1 scores are bounded, so it sets how sure a preference can be.
pub fn general_preference(score: &Tensor, tau: f64) -> Tensor {
    -log_sigmoid(&(score / tau))
}
