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
}

impl EarlyStopping {
    /// Takes in a validation; true if it is the best so far.
    ///
    /// A reward that is more than `min_gain` above the last one that was a gain is a gain. With a negative `min_gain` one
    /// that is less than that below the best is no loss of patience either.
    pub fn update(&mut self, step: u64, reward: f64, min_gain: f64) -> bool {
        let best = self.best.map(|(_, best)| best);
        let better = best.is_none_or(|best| reward > best);
        let from = self.gained.or(best);
        let gain = from.is_none_or(|from| reward > from + min_gain);
        if better {
            self.best = Some((step, reward));
        }
        if gain {
            self.since = 0;
            self.gained = None;
        } else {
            self.since += 1;
            self.gained = from.filter(|_| better).or(self.gained);
        }
        better
    }

    /// `true` if `patience` validations in a row were no gain; patience 0 never stops.
    pub fn exhausted(&self, patience: u64) -> bool {
        patience > 0 && self.since >= patience
    }
}
