//! Checks of a configuration that go beyond its own sections.

use super::inputs::objective;
use super::{pairs, rounds, subject};
use crate::config::Config;
use crate::error::Result;

/// Checks of a configuration that take tables of objectives and transforms; no weights or data are read.
///
/// # Errors
/// An objective, a transform or one of their numbers that does not exist.
pub fn check_config(config: &Config) -> Result<()> {
    match config {
        Config::Subject(config) => subject::check(config),
        Config::Pairs(config) => pairs::data::objective(config).map(drop),
        Config::Text(config) => objective(&config.objective).map(drop),
        Config::Rounds(config) => rounds::check(config),
        Config::ImageRounds(config) => rounds::images::check(config),
        Config::Reward(_) | Config::Pretrain(_) => Ok(()),
    }
}
