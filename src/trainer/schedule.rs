//! Learning rate over a run.

use crate::config::LearningRateSchedule;

/// Warm-up and course of the learning rate.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Highest learning rate.
    pub peak: f64,
    /// Steps over which it rises in a line from 0.
    pub warmup: u64,
    /// Last step, at which a falling course reaches 0.
    pub steps: u64,
    /// Course after the warm-up.
    pub course: LearningRateSchedule,
}

impl Schedule {
    /// Learning rate of the update that follows `done` updates (transformers' `get_scheduler` counts alike).
    pub fn at(&self, done: u64) -> f64 {
        if done < self.warmup {
            return self.peak * done as f64 / self.warmup as f64;
        }
        let left = self.steps.saturating_sub(done) as f64
            / self.steps.saturating_sub(self.warmup).max(1) as f64;
        self.peak
            * match self.course {
                LearningRateSchedule::Constant => 1.0,
                LearningRateSchedule::Linear => left,
                LearningRateSchedule::Cosine => {
                    0.5 * (1.0 + (std::f64::consts::PI * (1.0 - left)).cos())
                }
            }
    }
}
