//! Direct Nash optimisation: regression of the margin on the difference of two win rates.

use tch::Tensor;

use super::dpo::dpo;
use super::pair::{Pair, PairLogps};
use crate::ops::stable::log_sigmoid;

/// DNO (Rosset et al. 2024, arXiv 2404.03715, equation 8).
///
/// `loss = -[z ln sigmoid(eta h) + (1 - z) ln sigmoid(-eta h)]`, `z = sigmoid(scale (r_1 - r_2))`, log-ratios against the
/// previous iterate.
/// * `win`, `r` in 0 to 1: expected win rate of each response against the previous iterate.
/// * `eta` > 0, 0.05 or 0.1 in the paper (there `beta`).
/// * `scale` > 0, 1 in the equation: `z` then stays within 0.269 to 0.731, and larger ones sharpen it.
///
/// The same as [`cdpo`](super::dpo::cdpo) with `1 - z` of each pair as its smoothing. The authors published no code
/// and trained with [`dno_prct`]. At ratio 0 it is `ln 2` for every `z`.
pub fn dno(pair: &PairLogps, win: &Pair, eta: f64, scale: f64) -> Tensor {
    let logit = pair.margin() * eta;
    let target = ((&win.chosen - &win.rejected) * scale).sigmoid();
    -(&target * log_sigmoid(&logit) + target.rsub_scalar(1.0) * log_sigmoid(&-logit))
}

/// DNO-Prct (as [`dno`], equation 13): what the paper trains with.
///
/// [`dpo`] with `beta = eta` on pairs that a judge sets far apart, the reference being the previous iterate. At ratio 0
/// it is `ln 2`.
pub fn dno_prct(pair: &PairLogps, eta: f64) -> Tensor {
    dpo(pair, eta)
}
