//! Pairwise losses of a scalar reward: functions of the gap `d = reward(chosen) - reward(rejected)`, `[b]`.

use tch::Tensor;

use crate::ops::stable::log_sigmoid;

/// Bradley and Terry (1952), as reward models are trained with: `loss = -ln sigmoid(d)`.
///
/// Only differences count: a constant added to all rewards of a prompt changes nothing.
pub fn bradley_terry(gap: &Tensor) -> Tensor {
    -log_sigmoid(gap)
}

/// The penalty that keeps rewards near 0 (Eisenstein et al. 2023, arXiv 2312.09244, section 4.1), to be added with a small
/// weight: the square of `total = reward(chosen) + reward(rejected)`, `[b]`. Differences alone leave the mean free.
pub fn centring(total: &Tensor) -> Tensor {
    total.square()
}

/// Margin Bradley-Terry (Touvron et al. 2023, Llama 2, arXiv 2307.09288; compared in arXiv 2410.01257):
/// `loss = -ln sigmoid(d - m)`.
///
/// * `margin` `[b]` >= 0: by how much the chosen response is to lead, in logits. It takes strengths of preferences for
///   gaps of rewards.
pub fn margin_bradley_terry(gap: &Tensor, margin: &Tensor) -> Tensor {
    -log_sigmoid(&(gap - margin))
}

/// Scaled Bradley-Terry (Wang et al. 2024, HelpSteer2-Preference, arXiv 2410.01257): `loss = -m ln sigmoid(d)`.
///
/// * `strength` `[b]` > 0. Equal to repeating a pair `m` times: a strong preference counts more, and is not asked to be
///   wider.
pub fn scaled_bradley_terry(gap: &Tensor, strength: &Tensor) -> Tensor {
    -log_sigmoid(gap) * strength
}
