//! Tensor maths without models: seeded noise, resizing, stable log-sigmoid, activation checkpointing, log-probs.

pub mod random;
pub mod resample;
pub mod stable;
pub mod tape;
