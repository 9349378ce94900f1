//! Seconds by phase of a run.

use std::collections::BTreeMap;
use std::time::Instant;

/// The time between laps, added up by phase.
pub(super) struct Stopwatch {
    seconds: BTreeMap<String, f64>,
    since: Instant,
}

impl Stopwatch {
    /// Starts now, on top of what the earlier parts of an interrupted run took.
    pub(super) fn resume(earlier: Option<&BTreeMap<String, f64>>) -> Self {
        Self {
            seconds: earlier.cloned().unwrap_or_default(),
            since: Instant::now(),
        }
    }

    /// Gives the time since the last lap to a phase.
    pub(super) fn lap(&mut self, phase: &str) {
        *self.seconds.entry(phase.to_owned()).or_default() += self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
    }

    /// All laps so far.
    pub(super) fn seconds(&self) -> BTreeMap<String, f64> {
        self.seconds.clone()
    }
}
