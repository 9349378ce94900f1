//! The manifest of a run that trains a reward or preference model.

use serde::{Deserialize, Serialize};

use super::manifest::{Record, with_record};
use crate::config::RewardTask;
use crate::trainer::event::Metrics;

/// Identity and outcome of such a run. The best reward of its record is what the validation gave: an accuracy, or minus a
/// loss.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RewardManifest {
    /// The fields that all runs have.
    #[serde(flatten)]
    pub record: Record,
    /// The task that was learnt.
    pub task: RewardTask,
    /// Examples trained on and held out.
    pub examples: (u64, u64),
    /// Metrics of the best weights on what is held out, on the training examples where nothing is.
    pub best_metrics: Metrics,
    /// Factor by which the best weights were extrapolated.
    pub extrapolated: Option<f64>,
}

with_record!(RewardManifest);
