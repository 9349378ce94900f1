//! The inputs of pairwise objectives: log-probabilities of a preferred and of a rejected response.
//!
//! A log-probability of a response is the sum over its tokens, the end-of-sequence token included, prompt and padding
//! left out; see [`mean`] for the per-token form.

use tch::Tensor;

/// One number for each response of `b` pairs, `[b]` each.
pub struct Pair {
    /// Of the preferred response.
    pub chosen: Tensor,
    /// Of the rejected response.
    pub rejected: Tensor,
}

/// Summed log-probabilities of `b` pairs, `[b]` each.
pub struct PairLogps {
    /// Policy on the preferred response; carries the gradient.
    pub policy_chosen: Tensor,
    /// Policy on the rejected response; carries the gradient.
    pub policy_rejected: Tensor,
    /// Frozen reference on the preferred response. For SPPO, DNO and GPO this is the previous iterate.
    pub reference_chosen: Tensor,
    /// Frozen reference on the rejected response, likewise.
    pub reference_rejected: Tensor,
}

impl PairLogps {
    /// Log-ratios `ln policy - ln reference` of both responses.
    pub fn ratios(&self) -> Pair {
        Pair {
            chosen: &self.policy_chosen - &self.reference_chosen,
            rejected: &self.policy_rejected - &self.reference_rejected,
        }
    }

    /// `h`: the log-ratio of the preferred response minus that of the rejected one.
    pub fn margin(&self) -> Tensor {
        let ratios = self.ratios();
        ratios.chosen - ratios.rejected
    }
}

impl Pair {
    /// Both sums divided by the numbers of tokens they go over.
    #[must_use]
    pub fn mean(&self, lengths: &Self) -> Self {
        Self {
            chosen: mean(&self.chosen, &lengths.chosen),
            rejected: mean(&self.rejected, &lengths.rejected),
        }
    }
}

/// A sum over tokens divided by their number, which counts as 1 where it is 0.
pub fn mean(sum: &Tensor, length: &Tensor) -> Tensor {
    sum / length.clamp_min(1)
}
