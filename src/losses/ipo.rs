//! Identity preference optimisation: the margin is to reach a target, not to grow.

use tch::Tensor;

use super::pair::{Pair, PairLogps};

/// Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036, equation 17).
///
/// `loss = (h - 1 / (2 tau))^2`
/// * `tau` > 0, called `beta` in TRL: the target margin is `1 / (2 tau)` nats.
/// * `lengths`: with them, log-ratios are means over tokens (`h = a / n_w - b / n_l`), as in TRL and in HALOs, and the
///   target is in nats per token: 0.1 asks for 5, which no text reaches, so take 0.5 or more. Without them, sums, as in
///   the paper and in the DPO authors' repository.
///
/// Divides by the number of tokens; HALOs, by that of tokens with a ratio other than 0, is NaN at the first step. At
/// ratio 0 it is `1 / (4 tau^2)`.
pub fn ipo(pair: &PairLogps, lengths: Option<&Pair>, tau: f64) -> Tensor {
    let margin = match lengths {
        Some(lengths) => {
            let means = pair.ratios().mean(lengths);
            means.chosen - means.rejected
        }
        None => pair.margin(),
    };
    (margin - 0.5 / tau).square()
}
