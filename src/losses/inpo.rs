//! Iterative Nash policy optimisation: IPO against a mixture of the reference and the previous iterate.

use tch::Tensor;

use super::pair::{Pair, PairLogps};

/// INPO (Zhang et al. 2024, arXiv 2407.00617, equation 8).
///
/// ```text
/// H    = [s_w - s_l] - tau / eta [r_w - r_l] - (eta - tau) / eta [t_w - t_l]
/// loss = (H - 1 / (2 eta))^2
/// ```
/// with `s` the policy, `r` the original reference and `t`, in `previous`, the previous iterate (summed log-probs).
/// * `eta` > 0, 0.005 in the paper: a target margin of 100 nats, for clipped gradients.
/// * `tau` in 0 to `eta`, a third of it in the paper: the pull to the original reference.
///
/// At the first iteration (`t = r`) it is [`ipo`](super::ipo::ipo) of sums with `tau = eta`. There is no code of the
/// authors'; one survey prints `1 / (2 tau)`, which is a slip. At ratio 0 it is `1 / (4 eta^2)`.
///
/// # Panics
/// Where `tau` is not in 0 to `eta`.
pub fn inpo(pair: &PairLogps, previous: &Pair, eta: f64, tau: f64) -> Tensor {
    (margin(pair, previous, eta, tau) - 0.5 / eta).square()
}

/// INPO with the expected instead of the sampled preference (as [`inpo`], equation 7).
///
/// `loss = (H - [P(w > previous) - P(l > previous)] / eta)^2`; `win` holds the two probabilities.
///
/// # Panics
/// Where `tau` is not in 0 to `eta`.
pub fn inpo_expected(pair: &PairLogps, previous: &Pair, win: &Pair, eta: f64, tau: f64) -> Tensor {
    let target = (&win.chosen - &win.rejected) / eta;
    (margin(pair, previous, eta, tau) - target).square()
}

fn margin(pair: &PairLogps, previous: &Pair, eta: f64, tau: f64) -> Tensor {
    assert!(
        (0.0..=eta).contains(&tau),
        "tau is 0 to eta = {eta}, not {tau}"
    );
    let share = tau / eta;
    (&pair.policy_chosen - &pair.policy_rejected)
        - (&pair.reference_chosen - &pair.reference_rejected) * share
        - (&previous.chosen - &previous.rejected) * (1.0 - share)
}
