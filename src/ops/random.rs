//! Counter-based randomness: every random draw of a run comes from a seed derived from the run's seed, a purpose
//! and counters, so that nothing needs to be stored for an exact resume and no draw depends on another.

use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

/// A seed for one purpose: the first 8 bytes of SHA-256 over (seed, purpose, counters), sign bit cleared.
pub fn derive_seed(seed: u64, purpose: &str, counters: &[u64]) -> i64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(purpose.as_bytes());
    hash.update([0]);
    for counter in counters {
        hash.update(counter.to_le_bytes());
    }
    let digest = hash.finalize();
    let bytes: [u8; 8] = digest[..8]
        .try_into()
        .expect("a SHA-256 digest has 32 bytes");
    (u64::from_le_bytes(bytes) >> 1) as i64
}

/// Standard normal f32 noise of `shape`, drawn on the CPU so that it is the same on every device.
///
/// Sets libtorch's global CPU generator: nothing in this crate relies on its state between calls.
pub fn randn(seed: i64, shape: &[i64], device: Device) -> Tensor {
    seeded(seed, || Tensor::randn(shape, (Kind::Float, Device::Cpu))).to_device(device)
}

/// Uniform f32 noise in `[0, 1)`, drawn as [`randn`] draws.
pub fn rand(seed: i64, shape: &[i64], device: Device) -> Tensor {
    seeded(seed, || Tensor::rand(shape, (Kind::Float, Device::Cpu))).to_device(device)
}

/// The result of `make` with libtorch's global CPU generator set to `seed`.
pub fn seeded<T>(seed: i64, make: impl FnOnce() -> T) -> T {
    // The generator is shared by all threads; without the lock another thread could draw between seed and noise.
    static GENERATOR: Mutex<()> = Mutex::new(());
    let _guard = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed);
    make()
}

/// `count` integers in `[0, bound)`, one `i64` each, from their own seed.
pub fn integers(seed: i64, bound: u64, count: usize) -> Vec<i64> {
    let mut state = seed as u64;
    (0..count)
        .map(|_| (split_mix(&mut state) % bound) as i64)
        .collect()
}

/// A number in `[0, 1)` with 53 random bits.
pub fn uniform(seed: i64) -> f64 {
    (split_mix(&mut (seed as u64)) >> 11) as f64 / (1u64 << 53) as f64
}

/// A permutation of `0..count` (Fisher-Yates).
pub fn permutation(seed: i64, count: usize) -> Vec<usize> {
    let mut state = seed as u64;
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, (split_mix(&mut state) % (last as u64 + 1)) as usize);
    }
    order
}

/// Draws of several sorts in a row from one seed, equal on every machine.
pub struct Stream(u64);

impl Stream {
    /// The stream of a seed; see [`derive_seed`].
    pub fn new(seed: i64) -> Self {
        Self(seed as u64)
    }

    /// An integer in `[0, bound)`.
    pub fn integer(&mut self, bound: usize) -> usize {
        (split_mix(&mut self.0) % bound as u64) as usize
    }

    /// A number in `[low, high)` with 24 random bits.
    pub fn within(&mut self, low: f32, high: f32) -> f32 {
        let unit = (split_mix(&mut self.0) >> 40) as f32 / (1u32 << 24) as f32;
        low + unit * (high - low)
    }

    /// Yes with this probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.within(0.0, 1.0) < probability
    }
}

/// The step of SplitMix64's state: 2^64 over the golden ratio, odd.
pub const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64 (Steele, Lea and Flood 2014): full period, passes BigCrush, one addition of state a draw.
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(GAMMA);
    mix(*state)
}

/// The output function of SplitMix64.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
