//! A judge's verdict on several answers to one prompt, in the forms that objectives take: win probabilities, log-odds,
//! rewards. Plain numbers.

use serde::{Deserialize, Serialize};

use crate::ops::stable::sigmoid;

/// Log-odds of a preference that a judge is sure of would be infinite: it counts as one of this probability.
const SURE: f64 = 0.99;

/// A judge's verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// A reward for each answer.
    Rewards(Vec<f64>),
    /// `[i][j]`: the probability that answer `i` beats answer `j`; 1/2 of one against itself.
    Preferences(Vec<Vec<f64>>),
}

/// A pool of answers, a number for each.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Rewards; where a judge compares, the mean log-odds.
    pub rewards: Vec<f64>,
    /// Probability to beat an answer of the pool, itself included (1/2): `P_hat` of SPPO (Wu et al. 2024, arXiv
    /// 2405.00675, algorithm 1), `r` of DNO (Rosset et al. 2024, arXiv 2404.03715, equation 8).
    pub wins: Vec<f64>,
    /// Mean log-odds to beat an answer of the pool, itself included (0): the score of GPO (Zhang et al. 2024, arXiv
    /// 2410.02197, equation 5.3).
    pub log_odds: Vec<f64>,
}

impl Pool {
    /// Rewards become preferences by Bradley and Terry's model, `P(i beats j) = sigmoid((r_i - r_j) / tau)`.
    ///
    /// # Panics
    /// Without answers.
    pub fn new(verdict: &Verdict, tau: f64) -> Self {
        match verdict {
            Verdict::Rewards(rewards) => {
                let odds = |one: f64| rewards.iter().map(move |other| (one - other) / tau);
                let wins = |one| mean(&odds(one).map(sigmoid).collect::<Vec<_>>());
                let log_odds = |one| mean(&odds(one).collect::<Vec<_>>());
                Self {
                    wins: rewards.iter().map(|&reward| wins(reward)).collect(),
                    log_odds: rewards.iter().map(|&reward| log_odds(reward)).collect(),
                    rewards: rewards.clone(),
                }
            }
            Verdict::Preferences(rows) => {
                let logit = |share: &f64| {
                    let share = share.clamp(1.0 - SURE, SURE);
                    (share / (1.0 - share)).ln()
                };
                let log_odds: Vec<f64> = rows
                    .iter()
                    .map(|row| mean(&row.iter().map(logit).collect::<Vec<_>>()))
                    .collect();
                Self {
                    wins: rows.iter().map(|row| mean(row)).collect(),
                    rewards: log_odds.clone(),
                    log_odds,
                }
            }
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "a pool has answers");
    values.iter().sum::<f64>() / values.len() as f64
}
