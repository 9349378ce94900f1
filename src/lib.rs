//! preftune tunes generative models to preferences; see the README for the command line.

pub mod error;
pub mod models;
pub mod ops;

pub use error::{Error, Result};
