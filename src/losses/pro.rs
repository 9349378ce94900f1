//! Preference ranking optimisation: every response of a ranked list against all that are worse.

use tch::Tensor;

use super::pair::mean;

/// Responses to `b` prompts, `n >= 2` each, `[b, n]` everywhere, in any order.
pub struct RankedLogps {
    /// Policy's summed log-probabilities.
    pub policy: Tensor,
    /// Numbers of tokens that these go over.
    pub lengths: Tensor,
    /// Rewards, which set the order and the gaps; without a gradient.
    pub rewards: Tensor,
}

/// How much a pair of ranks counts in [`pro`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gaps {
    /// By the difference of the rewards: the authors' default.
    Rewards,
    /// All alike: the order alone.
    Uniform,
}

impl RankedLogps {
    /// The same lists, best reward first.
    #[must_use]
    pub fn sorted(&self) -> Self {
        let order = self.rewards.argsort_stable(true, 1, true); // [b, n]
        let sort = |values: &Tensor| values.gather(1, &order, false);
        Self {
            policy: sort(&self.policy),
            lengths: sort(&self.lengths),
            rewards: sort(&self.rewards),
        }
    }
}

/// The ranking term of PRO (Song et al. 2023, arXiv 2306.17492), `[b]`. Not Proximalized PO.
///
/// ```text
/// D_ki = R_k - R_i for i > k,  D_kk = max_{i > k} D_ki
/// loss = sum_{k < n} [ ln sum_{i >= k} exp(D_ki m_i) - D_kk m_k ]
/// ```
/// with `m` the mean log-probabilities, best reward first (they are sorted here).
///
/// Without the `1e-10` that the authors add inside the logarithm, which makes the gradient wrong for wide gaps. Where
/// all rewards of a list are equal the value is a constant without a gradient: leave such lists out. With two responses
/// and a gap of 1 it is [`simpo`](super::simpo::simpo) with `beta` 1 and ratio 0.
///
/// # Panics
/// Where there are fewer than two responses.
pub fn pro(list: &RankedLogps, gaps: Gaps) -> Tensor {
    let list = list.sorted();
    let count = list.policy.size()[1];
    assert!(count >= 2, "a ranking has two responses or more");
    let means = mean(&list.policy, &list.lengths); // [b, n]
    let tail = |values: &Tensor, from: i64| values.narrow(1, from, count - from);
    let worst = list.rewards.narrow(1, count - 1, 1); // [b, 1]
    let term = |k: i64| {
        let own = list.rewards.narrow(1, k, 1); // [b, 1]
        let gap = match gaps {
            // The worst response is the farthest: its gap is the largest, and stands at the place of `k` itself.
            Gaps::Rewards => {
                let others = &own - tail(&list.rewards, k + 1);
                Tensor::cat(&[&own - &worst, others], 1).detach() // [b, n - k]
            }
            Gaps::Uniform => tail(&means, k).ones_like(),
        };
        let logits = tail(&means, k) * gap; // [b, n - k]
        logits.logsumexp(1, false) - logits.select(1, 0) // [b]
    };
    (1..count - 1).fold(term(0), |sum, k| sum + term(k))
}

/// The likelihood term of PRO for the best response, `[b]`, to be added to [`pro`].
///
/// `weight (n - 1)^2 (-s_1)`; with `per_token` the mean takes the place of the sum `s_1`.
/// * `weight` >= 0, 0.05 in the authors' scripts, which take the sum.
pub fn pro_sft(list: &RankedLogps, weight: f64, per_token: bool) -> Tensor {
    let list = list.sorted();
    let count = list.policy.size()[1];
    let best = list.policy.select(1, 0); // [b]
    let logp = if per_token {
        mean(&best, &list.lengths.select(1, 0))
    } else {
        best
    };
    logp * (-weight * ((count - 1) * (count - 1)) as f64)
}
