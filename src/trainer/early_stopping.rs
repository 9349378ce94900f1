//! When to stop, and which weights were best: a strictly better validation reward makes the best weights, and what is
//! not a gain costs patience, which ends a run.

use serde::{Deserialize, Serialize};

/// The best validation so far and how long ago the last gain was. Part of every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    /// Step and reward of the best validation; step 0 is the untuned model.
    pub best: Option<(u64, f64)>,
    /// Validations since the last gain.
    pub since: u64,
    /// The reward that the next gain is measured from, where that is not the best: small gains add up until they count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gained: Option<f64>,
    /// Rewards of the single images, or examples, of the validation that the next gain is measured from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<f64>,
}

/// How much more reward is a gain.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GainRule {
    /// Reward above that of the last gain. With a negative one, a reward that is less than that below the best is no loss of
    /// patience either.
    pub least: f64,
    /// Standard errors of the difference that come on top, where single rewards are known.
    pub standard_errors: f64,
}

/// A validation beside the last one that was a gain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// By how much the mean reward is above that one's.
    pub mean: f64,
    /// Standard error of that: both are of the same prompts and noise, so that single differences are what varies.
    pub standard_error: f64,
}

impl EarlyStopping {
    /// Takes in a validation; true if it is the best so far. `rewards` are those of its single images, or none.
    pub fn update(&mut self, step: u64, reward: f64, rewards: &[f64], rule: GainRule) -> bool {
        let best = self.best.map(|(_, best)| best);
        let better = best.is_none_or(|best| reward > best);
        let from = self.gained.or(best);
        let chance = self.difference(rewards).map_or(0.0, |difference| {
            rule.standard_errors * difference.standard_error
        });
        let gain = from.is_none_or(|from| reward > from + rule.least + chance);
        if better {
            self.best = Some((step, reward));
        }
        if gain {
            self.since = 0;
            self.gained = None;
            self.rewards = rewards.to_vec();
        } else {
            self.since += 1;
            self.gained = from.filter(|_| better).or(self.gained);
        }
        better
    }

    /// A validation's single rewards beside those of the last gain; `None` where they are not of equally many images, or of one.
    pub fn difference(&self, rewards: &[f64]) -> Option<Difference> {
        let count = rewards.len();
        if count < 2 || self.rewards.len() != count {
            return None;
        }
        let differences: Vec<f64> = rewards
            .iter()
            .zip(&self.rewards)
            .map(|(now, before)| now - before)
            .collect();
        let mean = differences.iter().sum::<f64>() / count as f64;
        let squares = differences.iter().map(|value| (value - mean).powi(2));
        let variance = squares.sum::<f64>() / (count - 1) as f64;
        Some(Difference {
            mean,
            standard_error: (variance / count as f64).sqrt(),
        })
    }

    /// `true` if `patience` validations in a row were no gain; patience 0 never stops.
    pub fn exhausted(&self, patience: u64) -> bool {
        patience > 0 && self.since >= patience
    }
}
