//! General preference optimisation: log-ratios to reach, set by mean preference scores.

use tch::Tensor;

use super::pair::{Pair, PairLogps};

/// Largest target, in nats, of the authors' scripts.
pub const TARGET_CLAMP: f64 = 1000.0;

/// GPO (Zhang et al. 2024, General Preference Modeling, arXiv 2410.02197, equation 5.3 with `ln Z = 0`). Not the
/// Generalized Preference Optimization of arXiv 2402.05749.
///
/// `loss = [(a - S_w / beta)^2 + (b - S_l / beta)^2] / 2`, log-ratios against the previous iterate.
/// * `score`, `S`: mean over the pool of samples, itself included, of the log-odds to be preferred to a sample.
/// * `beta` > 0, 0.001 in the authors' scripts.
/// * `clamp` > 0: targets stay within plus and minus this ([`TARGET_CLAMP`]).
///
/// Other than in [`sppo`](super::sppo::sppo) nothing is subtracted from the score: 0 leaves a response where it was. The
/// authors' script that prepares scores doubles them and their trainer is not published; this follows the paper. At
/// ratio 0 it is `(S_w^2 + S_l^2) / (2 beta^2)`.
pub fn gpo(pair: &PairLogps, score: &Pair, beta: f64, clamp: f64) -> Tensor {
    residuals(&pair.ratios(), score, beta, clamp)
}

/// Length-normalised GPO (as [`gpo`], appendix E.2): log-ratios are divided by `length^exponent`.
///
/// `loss = [(a / n_w^g - S_w / beta)^2 + (b / n_l^g - S_l / beta)^2] / 2`
/// * `exponent`, `g` in 0 ([`gpo`]) to 1 (the paper's), which makes answers shorter.
pub fn gpo_length_normalised(
    pair: &PairLogps,
    lengths: &Pair,
    score: &Pair,
    beta: f64,
    clamp: f64,
    exponent: f64,
) -> Tensor {
    let power = |length: &Tensor| length.clamp_min(1).pow_tensor_scalar(exponent);
    let ratios = pair.ratios();
    let scaled = Pair {
        chosen: ratios.chosen / power(&lengths.chosen),
        rejected: ratios.rejected / power(&lengths.rejected),
    };
    residuals(&scaled, score, beta, clamp)
}

fn residuals(ratios: &Pair, score: &Pair, beta: f64, clamp: f64) -> Tensor {
    let target = |score: &Tensor| (score / beta).clamp(-clamp, clamp);
    let chosen = &ratios.chosen - target(&score.chosen);
    let rejected = &ratios.rejected - target(&score.rejected);
    (chosen.square() + rejected.square()) / 2.0
}
