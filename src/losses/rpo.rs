//! Reward preference optimisation for subject-driven generation (Miao et al. 2024, arXiv 2407.12164).
//!
//! One step compares a reference photo of the subject with an image that the untuned model generated, both noised
//! and denoised by the policy and by the base model. All inputs are denoising errors or labels, shape `[b]`.

use tch::Tensor;

use crate::ops::stable::log_sigmoid;

/// Denoising errors of `b` pairs, `[b]` each; see [`denoising_error`](super::denoising_error).
pub struct PairErrors {
    /// Policy on the reference photo.
    pub policy_reference: Tensor,
    /// Policy on the generated image.
    pub policy_generated: Tensor,
    /// Base model on the reference photo, same noise and timestep as the policy; without a gradient.
    pub base_reference: Tensor,
    /// Base model on the generated image, likewise.
    pub base_generated: Tensor,
}

/// The objective's terms, `[b]` each.
pub struct Rpo {
    /// `L_sim`: the policy's error on the reference photo.
    pub similarity: Tensor,
    /// `L_pref`: cross-entropy of the label under the implicit preference.
    pub preference: Tensor,
    /// `k`: by how much more the policy improved on the reference photo than on the generated image.
    pub margin: Tensor,
    /// `similarity + weight * preference`, to be averaged and minimised.
    pub loss: Tensor,
}

/// The RPO objective of each pair.
///
/// ```text
/// k      = (L_base(ref) - L(ref)) - (L_base(gen) - L(gen))
/// L_pref = -[ y ln sigmoid(beta k) + (1 - y) ln sigmoid(-beta k) ]
/// loss   = L(ref) + weight * L_pref
/// ```
/// * `label` `[b]`, `y` in 0 to 1: the probability that the reference photo is preferred, or a draw from it. With
///   `weight` 1, `d loss / d L(ref) = 1 - beta (sigmoid(beta k) - y)` and `d loss / d L(gen) = beta (sigmoid(beta k) - y)`:
///   labels near one half make the term a weak prior preservation of weight `beta (1/2 - y)`.
/// * `beta` > 0 scales a margin of *mean* errors, which is about 0.01: below 100 the term stays linear.
/// * `weight` is 1 in the paper.
///
/// Differs from the paper in print by the leading minus, which is missing there, and from the authors' code in that
/// `beta` is used. At the start of training `k` is 0 and the preference term is `ln 2` whatever the label.
pub fn rpo(errors: &PairErrors, label: &Tensor, beta: f64, weight: f64) -> Rpo {
    let margin = (&errors.base_reference - &errors.policy_reference)
        - (&errors.base_generated - &errors.policy_generated);
    let preference = preference(&margin, label, beta);
    let similarity = errors.policy_reference.shallow_clone();
    Rpo {
        loss: &similarity + &preference * weight,
        similarity,
        preference,
        margin,
    }
}

/// Cross-entropy of `label` under `sigmoid(beta * margin)`, per pair.
fn preference(margin: &Tensor, label: &Tensor, beta: f64) -> Tensor {
    let logit = margin * beta;
    let chosen = label * log_sigmoid(&logit);
    let rejected = label.rsub_scalar(1.0) * log_sigmoid(&-logit);
    -(chosen + rejected)
}
