//! The meaning of a tie of two items: half a win each, nothing, or an outcome with a probability of its own
//! (Davidson 1970; Rao and Kupper 1967). The only place that knows the likelihood of a pair.

use crate::ops::stable::sigmoid;
use serde::Serialize;

use super::counts::{Counts, Pair};

/// How ties enter the likelihood. With `d` the difference of two strengths:
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ties {
    /// Half a win for each side.
    #[default]
    Half,
    /// Ties are left out.
    Drop,
    /// `P(win) : P(loss) : P(tie) = e^(d/2) : e^(-d/2) : nu`, nu >= 0 (Davidson 1970, eq. 2.4).
    Davidson,
    /// `P(win) = sigmoid(d - ln nu)`, `P(loss) = sigmoid(-d - ln nu)`, nu >= 1 (Rao and Kupper 1967, eq. 2.2).
    RaoKupper,
}

impl Ties {
    /// `true` if the model has a parameter for ties.
    pub fn has_parameter(self) -> bool {
        matches!(self, Self::Davidson | Self::RaoKupper)
    }

    /// The parameter `ln nu` that gives the observed share of ties between equal items.
    pub(super) fn start(self, counts: &Counts) -> f64 {
        let share = counts.ties() / (counts.ties() + counts.decided());
        match self {
            Self::Half | Self::Drop => 0.0,
            Self::Davidson => (2.0 * share / (1.0 - share)).ln(),
            Self::RaoKupper => ((1.0 + share) / (1.0 - share)).ln(),
        }
    }

    /// Probabilities that the first item wins, loses and ties, at the difference `d` and `log_nu`.
    pub fn probabilities(self, d: f64, log_nu: f64) -> [f64; 3] {
        match self {
            Self::Half | Self::Drop => [sigmoid(d), sigmoid(-d), 0.0],
            Self::Davidson => davidson(d, log_nu).0,
            Self::RaoKupper => {
                let (win, loss) = (sigmoid(d - log_nu), sigmoid(-d - log_nu));
                // 1 - win - loss, without the cancellation.
                [win, loss, win * loss * (2.0 * log_nu).exp_m1()]
            }
        }
    }

    /// Minus the log-likelihood of a pair's games and its derivatives.
    pub(super) fn terms(self, pair: &Pair, d: f64, log_nu: f64) -> Terms {
        match self {
            Self::Half => logistic(
                pair.wins + 0.5 * pair.ties,
                pair.losses + 0.5 * pair.ties,
                d,
            ),
            Self::Drop => logistic(pair.wins, pair.losses, d),
            Self::Davidson => davidson_terms(pair, d, log_nu),
            Self::RaoKupper => rao_kupper_terms(pair, d, log_nu),
        }
    }
}

/// Minus a log-likelihood, its derivatives by the difference `d` of strengths and by the tie parameter `a`.
#[derive(Clone, Copy, Default)]
pub(super) struct Terms {
    pub(super) value: f64,
    pub(super) d: f64,
    pub(super) a: f64,
    pub(super) dd: f64,
    pub(super) da: f64,
    pub(super) aa: f64,
}

/// `ln(1 + e^x)` without overflow.
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn logistic(wins: f64, losses: f64, d: f64) -> Terms {
    let e = (-d.abs()).exp();
    let (likely, unlikely) = (1.0 / (1.0 + e), e / (1.0 + e));
    let (p, q) = if d >= 0.0 {
        (likely, unlikely)
    } else {
        (unlikely, likely)
    };
    let log = e.ln_1p();
    Terms {
        value: wins * (log + (-d).max(0.0)) + losses * (log + d.max(0.0)),
        d: losses * p - wins * q,
        dd: (wins + losses) * p * q,
        ..Terms::default()
    }
}

/// Probabilities of win, loss and tie, and the logarithm of their common denominator.
fn davidson(d: f64, log_nu: f64) -> ([f64; 3], f64) {
    let logits = [0.5 * d, -0.5 * d, log_nu];
    let largest = logits.into_iter().fold(f64::NEG_INFINITY, f64::max);
    let parts = logits.map(|logit| (logit - largest).exp());
    let sum: f64 = parts.iter().sum();
    (parts.map(|part| part / sum), largest + sum.ln())
}

fn davidson_terms(pair: &Pair, d: f64, log_nu: f64) -> Terms {
    let ([p, q, tie], log_sum) = davidson(d, log_nu);
    let games = pair.games();
    let slope = 0.5 * (p - q);
    Terms {
        value: games * log_sum - 0.5 * d * (pair.wins - pair.losses) - log_nu * pair.ties,
        d: games * slope - 0.5 * (pair.wins - pair.losses),
        a: games * tie - pair.ties,
        dd: games * (0.25 * (p + q) - slope * slope),
        da: -games * slope * tie,
        aa: games * tie * (1.0 - tie),
    }
}

fn rao_kupper_terms(pair: &Pair, d: f64, a: f64) -> Terms {
    if a <= 0.0 {
        // nu < 1 would make ties less than impossible: the line search turns back from here.
        return Terms {
            value: if pair.ties > 0.0 { f64::INFINITY } else { 0.0 },
            ..Terms::default()
        };
    }
    let (not_lost, not_won) = (pair.wins + pair.ties, pair.losses + pair.ties);
    let (u, v) = (sigmoid(a - d), sigmoid(a + d));
    let (uu, vv) = (u * sigmoid(d - a), v * sigmoid(-a - d));
    // ln(e^2a - 1) and its derivatives.
    let rest = -(-2.0 * a).exp_m1();
    let log = 2.0 * a + rest.ln();
    Terms {
        value: not_lost * softplus(a - d) + not_won * softplus(a + d) - pair.ties * log,
        d: not_won * v - not_lost * u,
        a: not_lost * u + not_won * v - pair.ties * 2.0 / rest,
        dd: not_lost * uu + not_won * vv,
        da: not_won * vv - not_lost * uu,
        aa: not_lost * uu + not_won * vv + pair.ties / a.sinh().powi(2),
    }
}
