//! Tensor maths without models: seeded noise, resizing, stable functions of log-probs, token divergences, activation
//! checkpointing.

pub mod random;
pub mod resample;
pub mod stable;
pub mod tape;
pub mod token_kl;
