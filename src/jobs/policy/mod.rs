//! A model with what is trained of it, its reference, and how its best weights are stored.

pub(crate) mod diffusion;
pub(crate) mod language;
