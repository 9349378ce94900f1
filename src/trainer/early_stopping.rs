//! When to stop, and which weights were best: a strictly better validation reward counts, patience ends a run.

use serde::{Deserialize, Serialize};

/// The best validation so far and how long ago it was. Part of every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    /// Step and reward of the best validation; step 0 is the untuned model.
    pub best: Option<(u64, f64)>,
    /// Validations since then.
    pub since: u64,
}

impl EarlyStopping {
    /// Takes in a validation; true if it is the best so far.
    pub fn update(&mut self, step: u64, reward: f64) -> bool {
        let better = self.best.is_none_or(|(_, best)| reward > best);
        if better {
            self.best = Some((step, reward));
            self.since = 0;
        } else {
            self.since += 1;
        }
        better
    }

    /// Whether `patience` validations in a row were not better; patience 0 never stops.
    pub fn exhausted(&self, patience: u64) -> bool {
        patience > 0 && self.since >= patience
    }
}
