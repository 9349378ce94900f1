//! Objectives without a reference on the odds of responses: ASFT and ORPO.
//!
//! The probability of a response is here the geometric mean of its tokens', `p = exp(m)` with `m` its mean
//! log-probability, and its log-odds are `o = m - ln(1 - p)`.

use tch::Tensor;

use super::pair::Pair;
use crate::ops::stable::{log_sigmoid, log1mexp};

/// Mean log-probability above which `ln(1 - p)` goes on along its tangent: at `p = 1` it would be infinite.
const NEARLY_CERTAIN: f64 = -1e-6;

/// The term of Aligned SFT that compares with both labels (Wang et al. 2024, arXiv 2409.10571). Not Anchored SFT.
///
/// `loss = -ln sigmoid(o_w) - ln sigmoid(-o_l)`, which is `-m_w - ln(1 - p_l)` and computed so.
/// * `mean`: mean log-probabilities of both responses.
///
/// The two responses do not interact: the preferred one is pulled as by SFT, the rejected one pushed the less the
/// rarer it is. There is no reference and no code of the authors'; the form is that of arXiv 2502.01237, section 2.4.
/// With equal `p` of both it is `-ln(p (1 - p))`.
pub fn asft_align(mean: &Pair) -> Tensor {
    -&mean.chosen - log_complement(&mean.rejected)
}

/// [`asft_align`] with a temperature (arXiv 2502.01237, section 3.1).
///
/// `loss = -ln sigmoid(t o_w) - ln sigmoid(-t o_l)`
/// * `temperature` (`t`) > 0; 1 is [`asft_align`].
pub fn asft_align_tempered(mean: &Pair, temperature: f64) -> Tensor {
    -log_sigmoid(&(log_odds(&mean.chosen) * temperature))
        - log_sigmoid(&(log_odds(&mean.rejected) * -temperature))
}

/// Aligned SFT: `loss = -sft_weight m_w + lambda L_align`, see [`asft_align`].
/// * `lambda` >= 0, 1 works best in arXiv 2502.01237; `sft_weight` is 1 in the paper, and 0 after a stage of SFT.
pub fn asft(mean: &Pair, lambda: f64, sft_weight: f64) -> Tensor {
    asft_align(mean) * lambda - &mean.chosen * sft_weight
}

/// The odds-ratio term of ORPO (Hong et al. 2024, arXiv 2403.07691, equation 7).
///
/// `loss = -ln sigmoid(o_w - o_l)`; never larger than [`asft_align`]. At equal log-odds it is `ln 2`.
/// * `mean`: mean log-probabilities of both responses.
pub fn odds_ratio(mean: &Pair) -> Tensor {
    -log_sigmoid(&(log_odds(&mean.chosen) - log_odds(&mean.rejected)))
}

/// Odds-ratio preference optimisation (as [`odds_ratio`], equation 6).
///
/// `loss = -m_w + lambda L_OR`
/// * `lambda` >= 0, TRL's `beta`: 0.1 in the authors' Mistral runs.
///
/// The first term goes over the response alone; the authors and TRL take prompt and response by default, for which the
/// caller adds that error to [`odds_ratio`] times `lambda`. At equal log-odds it is `-m_w + lambda ln 2`.
pub fn orpo(mean: &Pair, lambda: f64) -> Tensor {
    odds_ratio(mean) * lambda - &mean.chosen
}

fn log_odds(mean: &Tensor) -> Tensor {
    mean - log_complement(mean)
}

/// `ln(1 - exp(m))`, continued by its tangent above [`NEARLY_CERTAIN`].
fn log_complement(mean: &Tensor) -> Tensor {
    let slope = 1.0 / (-NEARLY_CERTAIN).exp_m1();
    log1mexp(&mean.clamp_max(NEARLY_CERTAIN)) - (mean - NEARLY_CERTAIN).relu() * slope
}
