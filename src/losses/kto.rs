//! Kahneman-Tversky optimisation: single responses, each marked as desirable or not.

use tch::Tensor;

/// KTO (Ethayarajh et al. 2024, arXiv 2402.01306).
///
/// ```text
/// desirable:    loss = desirable_weight   * sigmoid(-beta (a - z))
/// undesirable:  loss = undesirable_weight * sigmoid(-beta (z - a))
/// ```
/// * `ratio` `[b]`, `a`: log-ratios of policy and reference (summed).
/// * `desirable` `[b]`, boolean.
/// * `reference_point`, `z` (a scalar, without a gradient): see [`reference_point`].
/// * `beta` > 0, 0.1 in the paper; weights > 0, such that weight times number of examples is between 1:1 and 4:3.
///
/// Saturates: a response far from the reference point on either side has no gradient. As in TRL. At ratio 0, with
/// `z = 0`, it is half the weight.
pub fn kto(
    ratio: &Tensor,
    desirable: &Tensor,
    reference_point: &Tensor,
    beta: f64,
    desirable_weight: f64,
    undesirable_weight: f64,
) -> Tensor {
    let logit = (ratio - reference_point) * beta;
    let gain = (-&logit).sigmoid() * desirable_weight;
    let harm = logit.sigmoid() * undesirable_weight;
    gain.where_self(desirable, &harm)
}

/// KTO's reference point for log-ratios: an estimate of the divergence of the policy from the reference.
///
/// `max(0, mean(mismatched))`, a scalar without a gradient, from the log-ratios `[b]` of prompts with the responses of
/// other prompts; `b` is at least 2. Averages over all of them like TRL, where HALOs leaves out zeros.
pub fn reference_point(mismatched: &Tensor) -> Tensor {
    mismatched.detach().mean(mismatched.kind()).clamp_min(0)
}
