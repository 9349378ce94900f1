//! Tensor maths without models: seeded noise, stable log-sigmoid, activation checkpointing, log-probs.

pub mod random;
pub mod stable;
pub mod tape;
