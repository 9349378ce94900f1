//! preftune tunes generative models to preferences; see the README for the command line.

pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod eval;
pub mod files;
pub mod losses;
pub mod models;
pub mod ops;
pub mod ranking;
pub mod report;
pub mod rewards;
pub mod run;
pub mod trainer;

pub use error::{Error, Result};
