//! f-DPO: other divergences from the reference than the reverse Kullback-Leibler divergence of DPO.

use tch::Tensor;

use super::pair::PairLogps;
use crate::ops::stable::{expm1_capped, log_sigmoid};

/// Largest exponent before the tangent takes over in training; 80 for the range of TRL's f32 clamp.
pub const EXPONENT_CAP: f64 = 20.0;

/// The divergence that keeps the policy near the reference, with `f'(u)` of the ratio `u` of the two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Divergence {
    /// `ln u + 1`: DPO.
    ReverseKl,
    /// `-1 / u`.
    ForwardKl,
    /// `ln(2u / (1 + u))`.
    JensenShannon,
    /// `(1 - u^-alpha) / alpha`, `alpha` in 0 (reverse KL) to 1 (forward KL).
    Alpha(f64),
}

impl Divergence {
    /// `f'(exp t)` up to a constant, of log-ratios `t`.
    fn derivative(self, t: &Tensor, cap: f64) -> Tensor {
        match self {
            Self::JensenShannon => log_sigmoid(t),
            Self::ForwardKl => -expm1_capped(&-t, cap),
            // `expm1` keeps its digits for every alpha, however near to 0.
            Self::Alpha(alpha) if alpha > 0.0 => expm1_capped(&(t * -alpha), cap) / -alpha,
            Self::ReverseKl | Self::Alpha(_) => t.shallow_clone(),
        }
    }
}

/// DPO under another divergence (Wang et al. 2023, arXiv 2309.16240).
///
/// `loss = -ln sigmoid(beta [f'(exp a) - f'(exp b)])`, with `a` and `b` the log-ratios of the two responses.
/// * `beta` > 0 means another thing for each divergence: on HH the authors take 0.9 for the reverse KL divergence, 0.3
///   for Jensen-Shannon and alpha, 0.03 for the forward one.
/// * `cap` > 0: exponents above it go on as a straight line ([`EXPONENT_CAP`]). The authors overflow; TRL clamps, which
///   leaves no gradient where a response has become least likely.
///
/// All but the reverse KL divergence push hardest at responses below the reference. `alpha` is the authors': TRL from
/// 0.29 on means `1 - alpha` by its own. At ratio 0 it is `ln 2`.
///
/// # Panics
/// Where `alpha` is not in 0 to 1.
pub fn f_dpo(pair: &PairLogps, divergence: Divergence, beta: f64, cap: f64) -> Tensor {
    if let Divergence::Alpha(alpha) = divergence {
        assert!((0.0..=1.0).contains(&alpha), "alpha is 0 to 1, not {alpha}");
    }
    let ratios = pair.ratios();
    let difference =
        divergence.derivative(&ratios.chosen, cap) - divergence.derivative(&ratios.rejected, cap);
    -log_sigmoid(&(difference * beta))
}
