//! Maths without models: seeded noise, resizing, stable functions of log-probs, token divergences, activation
//! checkpointing, Cholesky factors.

pub mod cholesky;
pub mod random;
pub mod resample;
pub mod stable;
pub mod tape;
pub mod token_kl;
