//! Where the time of training steps goes.

use std::collections::BTreeMap;
use std::time::Instant;

use tch::{Cuda, Device};

/// Adds up seconds by part of a step. On a GPU every lap waits for the device, so a profiled run is slower than others.
pub struct Profile {
    device: Device,
    since: Instant,
    seconds: BTreeMap<&'static str, f64>,
    steps: u64,
}

impl Profile {
    /// Of a loop on `device`.
    pub fn new(device: Device) -> Self {
        Self {
            device,
            since: Instant::now(),
            seconds: BTreeMap::new(),
            steps: 0,
        }
    }

    /// A step's pass begins: what went before is none of its parts.
    pub fn begin(&mut self) {
        self.synchronize();
        self.since = Instant::now();
    }

    /// Gives the time since the last lap to a part.
    pub fn lap(&mut self, part: &'static str) {
        self.synchronize();
        *self.seconds.entry(part).or_default() += self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
    }

    /// A step is done.
    pub fn count(&mut self) {
        self.steps += 1;
    }

    /// Steps, and the seconds of each part in all of them.
    pub fn totals(&self) -> (u64, &BTreeMap<&'static str, f64>) {
        (self.steps, &self.seconds)
    }

    fn synchronize(&self) {
        if let Device::Cuda(index) = self.device {
            Cuda::synchronize(index as i64);
        }
    }
}
