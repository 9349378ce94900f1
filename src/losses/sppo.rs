//! Self-play preference optimisation: each response of a pair has a log-ratio of its own to reach.

use tch::Tensor;

use super::pair::{Pair, PairLogps};

/// SPPO with estimated win probabilities (Wu et al. 2024, arXiv 2405.00675, algorithm 1).
///
/// `loss = [(a - (P_w - 1/2) / beta)^2 + (b - (P_l - 1/2) / beta)^2] / 2`, log-ratios against the previous iterate.
/// * `win` in 0 to 1: probability of each response to beat a response of the previous iterate, estimated over its pool
///   of samples, itself included (1/2). From a single pair: `P_l = 1 - P_w`.
/// * `beta` > 0 is `1 / eta`, 0.001 in the paper: targets of 500 nats and a loss of 1e5, for Adam or RMSprop with
///   clipped gradients alone. Multiplied by `beta^2` it suits plain gradient descent.
///
/// The half is the authors' code; the paper's pair form and TRL are twice as large. At ratio 0 it is
/// `[(P_w - 1/2)^2 + (P_l - 1/2)^2] / (2 beta^2)`.
pub fn sppo(pair: &PairLogps, win: &Pair, beta: f64) -> Tensor {
    let ratios = pair.ratios();
    let chosen = ratios.chosen - (&win.chosen - 0.5) / beta;
    let rejected = ratios.rejected - (&win.rejected - 0.5) / beta;
    (chosen.square() + rejected.square()) / 2.0
}

/// SPPO with hard labels: as [`sppo`] where the winner always wins, `P_w = 1` and `P_l = 0`.
///
/// `loss = [(a - 1 / (2 beta))^2 + (b + 1 / (2 beta))^2] / 2`; half of TRL's `sppo_hard`. At ratio 0 it is
/// `1 / (4 beta^2)`.
pub fn sppo_hard(pair: &PairLogps, beta: f64) -> Tensor {
    let ratios = pair.ratios();
    let target = 0.5 / beta;
    ((ratios.chosen - target).square() + (ratios.rejected + target).square()) / 2.0
}
