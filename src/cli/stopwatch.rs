//! Seconds by phase of a run.

use std::collections::BTreeMap;
use std::time::Instant;

/// Adds up the time between laps.
pub(super) struct Stopwatch {
    seconds: BTreeMap<String, f64>,
    since: Instant,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self {
            seconds: BTreeMap::new(),
            since: Instant::now(),
        }
    }

    /// Goes on from what the earlier parts of an interrupted run took.
    pub(super) fn resume(&mut self, earlier: &BTreeMap<String, f64>) {
        self.seconds.clone_from(earlier);
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
