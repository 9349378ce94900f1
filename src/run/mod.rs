//! A run's folder: configuration, manifest, metrics, checkpoints, best weights, generated images. Everything is
//! written beside its place and renamed, so that a kill at any moment leaves only whole files.

pub mod checkpoint;
pub mod data_manifest;
pub mod evaluation;
pub mod folder;
pub mod image_rounds;
pub mod manifest;
pub mod negatives;
pub mod recorder;
pub mod refcache;
pub mod reward_manifest;
pub mod rounds;
pub mod rows;
pub mod sampled;
mod tfevents;
