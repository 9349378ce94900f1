//! Pseudo-random draws that depend on a seed and a stream alone, so that results do not depend on threads.

use crate::ops::random::{GAMMA, mix, split_mix};

/// The SplitMix64 generator (Steele, Lea and Flood 2014).
pub(super) struct Draws {
    state: u64,
}

impl Draws {
    /// Stream number `stream` of `seed`.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        Self {
            state: mix(seed ^ mix(stream.wrapping_mul(GAMMA) ^ GAMMA)),
        }
    }

    fn next(&mut self) -> u64 {
        split_mix(&mut self.state)
    }

    /// Uniform in `[0, 1)`.
    pub(super) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..n`; n > 0. The bias is below n / 2^64.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// Poisson with this mean, by inversion in parts of at most 64.
    pub(super) fn poisson(&mut self, mut mean: f64) -> f64 {
        let mut total = 0.0;
        while mean > 64.0 {
            total += self.small_poisson(64.0);
            mean -= 64.0;
        }
        total + self.small_poisson(mean)
    }

    fn small_poisson(&mut self, mean: f64) -> f64 {
        let uniform = self.uniform();
        let mut count = 0.0;
        let mut mass = (-mean).exp();
        let mut reached = mass;
        // Past the mean, a mass that no longer moves the sum ends the tail.
        while uniform >= reached && (count < mean || mass > 1e-18) {
            count += 1.0;
            mass *= mean / count;
            reached += mass;
        }
        count
    }

    /// Brings a list into random order (Fisher and Yates).
    pub(super) fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}
