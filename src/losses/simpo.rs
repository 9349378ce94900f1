//! SimPO: the margin of mean log-probabilities, without a reference.

use tch::Tensor;

use super::pair::Pair;
use crate::ops::stable::log_sigmoid;

/// Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734, equation 6).
///
/// `loss = -ln sigmoid(beta (m_w - m_l - ratio))`
/// * `mean`, `m`: mean log-probabilities of both responses.
/// * `beta` > 0, 2 to 10 in the authors' runs.
/// * `gamma_beta_ratio` >= 0, 0.1 to 0.8 there: the margin asked for, in nats per token. TRL's and the paper's `gamma`
///   is `beta` times this.
///
/// At equal means it is `-ln sigmoid(-beta ratio)`.
pub fn simpo(mean: &Pair, beta: f64, gamma_beta_ratio: f64) -> Tensor {
    let margin = &mean.chosen - &mean.rejected - gamma_beta_ratio;
    -log_sigmoid(&(margin * beta))
}
