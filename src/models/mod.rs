//! Models and their weights: nothing here knows of configs of a run, of losses or of files other than weights.

pub mod device;
pub mod diffusion;
pub mod layers;
pub mod weights;
