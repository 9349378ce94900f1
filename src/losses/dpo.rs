//! Direct preference optimisation and its neighbours: functions of the margin of log-ratios alone.

use tch::Tensor;

use super::pair::PairLogps;
use crate::ops::stable::log_sigmoid;

/// Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7).
///
/// `loss = -ln sigmoid(beta h)`, with `h` the [margin](PairLogps::margin).
/// * `beta` > 0, usually 0.01 to 0.5: strength of the pull towards the reference.
///
/// The gradients of both log-probabilities are equal and opposite, so both may fall together. As TRL's `sigmoid`.
/// At ratio 0 it is `ln 2`.
pub fn dpo(pair: &PairLogps, beta: f64) -> Tensor {
    -log_sigmoid(&(pair.margin() * beta))
}

/// Conservative DPO: labels that are wrong with probability `label_smoothing` (Mitchell 2023, note on cDPO).
///
/// `loss = -(1 - eps) ln sigmoid(beta h) - eps ln sigmoid(-beta h)`
/// * `beta` as for [`dpo`]; `label_smoothing` (`eps`) in 0 to below 1/2.
///
/// The margin is bounded: the gradient changes its sign at `beta h = ln((1 - eps) / eps)`. TRL reads the option for its
/// `sigmoid` loss up to 0.28 only; this is the author's form. At ratio 0 it is `ln 2` for every `eps`.
///
/// # Panics
/// Where `label_smoothing` is out of range.
pub fn cdpo(pair: &PairLogps, beta: f64, label_smoothing: f64) -> Tensor {
    assert_smoothing(label_smoothing);
    let logit = pair.margin() * beta;
    let (right, flipped) = (-log_sigmoid(&logit), -log_sigmoid(&-logit));
    right * (1.0 - label_smoothing) + flipped * label_smoothing
}

/// Provably robust DPO: unbiased under labels flipped with probability `label_smoothing` (Ray Chowdhury et al. 2024,
/// arXiv 2403.00409). Not "R-DPO", which penalises length.
///
/// `loss = [-(1 - eps) ln sigmoid(beta h) + eps ln sigmoid(-beta h)] / (1 - 2 eps)`
/// * `beta` as for [`dpo`]; `label_smoothing` (`eps`) in 0 to below 1/2, where the loss has a pole.
///
/// Unbounded below: it falls with the slope `eps / (1 - 2 eps)` for ever, so its value says nothing about when to stop.
/// As TRL's `robust`. At ratio 0 it is `ln 2`.
///
/// # Panics
/// Where `label_smoothing` is out of range.
pub fn rdpo(pair: &PairLogps, beta: f64, label_smoothing: f64) -> Tensor {
    assert_smoothing(label_smoothing);
    let logit = pair.margin() * beta;
    let (right, flipped) = (-log_sigmoid(&logit), -log_sigmoid(&-logit));
    (right * (1.0 - label_smoothing) - flipped * label_smoothing) / (1.0 - 2.0 * label_smoothing)
}

/// Hinge on the margin of log-ratios (Liu et al. 2023, RSO, arXiv 2309.06657, after SLiC-HF, arXiv 2305.10425).
///
/// `loss = max(0, 1 - beta h)`
/// * `beta` > 0: the margin that ends the push is `1 / beta`.
///
/// As TRL's `hinge`; SLiC-HF itself has no reference. At ratio 0 it is 1.
pub fn hinge(pair: &PairLogps, beta: f64) -> Tensor {
    (pair.margin() * -beta + 1.0).relu()
}

#[track_caller]
fn assert_smoothing(label_smoothing: f64) {
    assert!(
        (0.0..0.5).contains(&label_smoothing),
        "label smoothing is at least 0 and below one half, not {label_smoothing}"
    );
}
