//! Token-level DPO: the margin also counts how far each response's next-token distributions drifted.

use tch::Tensor;

use super::pair::{Pair, PairLogps};
use crate::ops::stable::log_sigmoid;

/// TDPO1 (Zeng et al. 2024, arXiv 2404.11999, equations 13 to 18).
///
/// `loss = -ln sigmoid(beta [h - (K_l - K_w)])`
/// * `kl`, `K`: sums of [`token_kl`](crate::ops::token_kl::token_kl) over the tokens of each response; they carry a
///   gradient.
/// * `beta` > 0, 0.1 in the paper.
///
/// Pushes `K_l` down and `K_w` up. At ratio 0, with equal distributions, it is `ln 2`.
pub fn tdpo1(pair: &PairLogps, kl: &Pair, beta: f64) -> Tensor {
    let margin = pair.margin() - (&kl.rejected - &kl.chosen);
    -log_sigmoid(&(margin * beta))
}

/// TDPO2, the method's default (as [`tdpo1`]).
///
/// `loss = -ln sigmoid(beta [h - alpha (K_l - sg(K_w))])`, where `sg` stops the gradient.
/// * `alpha` >= 0, 0.5 in the paper; 0 is DPO. At 1 the value is that of [`tdpo1`], the gradient is not.
///
/// The authors' configuration has said `if_tdpo2: false` since July 2024, so that their command for TDPO2 runs TDPO1.
/// At ratio 0, with equal distributions, it is `ln 2`.
pub fn tdpo2(pair: &PairLogps, kl: &Pair, beta: f64, alpha: f64) -> Tensor {
    let margin = pair.margin() - (&kl.rejected - kl.chosen.detach()) * alpha;
    -log_sigmoid(&(margin * beta))
}
