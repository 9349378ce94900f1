//! BRAIn: distil the reward-weighted posterior over samples into the policy.

use tch::{Kind, Tensor};

/// Summed log-probabilities of `n >= 2` samples for each of `b` prompts, `[b, n]` each.
pub struct SampleLogps {
    /// Policy; carries the gradient.
    pub policy: Tensor,
    /// The prior: the frozen reference.
    pub prior: Tensor,
    /// The distribution that the samples were drawn from, its temperature and truncation included.
    pub proposal: Tensor,
}

/// Bayesian reward-conditioned amortised inference (Pandey et al. 2024, arXiv 2402.02479), `[b]`.
///
/// ```text
/// alpha = softmax(R / gamma + prior - proposal)      (no gradient)
/// beta  = softmax(policy - proposal)
/// loss  = sum_i alpha_i (ln alpha_i - ln beta_i),    d loss / d policy_i = beta_i - alpha_i
/// ```
/// * `rewards` `[b, n]`, up to a constant for each prompt.
/// * `gamma` > 0: temperature of the posterior; the authors' value is not published.
///
/// The gradients of a prompt add up to 0, so that a policy which already overrates the best sample pushes it down. As
/// the author's published experiments; the training code is not public. With two samples from the prior and `gamma`
/// near 0 it is [`dpo`](super::dpo::dpo) with `beta` 1. With equal rewards and `policy = prior` it is 0.
pub fn brain(samples: &SampleLogps, rewards: &Tensor, gamma: f64) -> Tensor {
    let kind: Option<Kind> = None;
    let posterior = rewards / gamma + &samples.prior - &samples.proposal; // [b, n]
    let log_alpha = posterior.log_softmax(1, kind).detach();
    let log_beta = (&samples.policy - &samples.proposal).log_softmax(1, kind);
    let terms = log_alpha.exp() * (log_alpha - log_beta);
    terms.sum_dim_intlist(1, false, kind) // [b]
}
