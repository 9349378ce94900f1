//! The configuration of a run: TOML sections through serde, `--set a.b=c` overrides, one complete check.
//!
//! Every violation is listed at once, an unknown key is an error that names the nearest known one, and the
//! resolved configuration can be written back. Nothing here opens weights or images.

mod check;
mod image;
mod reward;
mod schema;

use std::path::Path;

pub use image::*;
pub use reward::*;
use toml::{Table, Value};

use crate::error::{Error, Result};

/// What a configuration file asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Config {
    /// An image run.
    Image(Box<ImageConfig>),
    /// A reward model on embeddings: there is a section `[reward_model]`.
    Reward(Box<RewardConfig>),
}

/// Reads `path` as [`load`] does, whatever kind of run it describes.
pub fn load_any(path: &Path, overrides: &[String]) -> Result<Config> {
    let table = table(path, overrides)?;
    if table.contains_key("reward_model") {
        reward_from_table(&table).map(|config| Config::Reward(Box::new(config)))
    } else {
        from_table(&table).map(|config| Config::Image(Box::new(config)))
    }
}

/// Reads an image run's configuration from `path`, applies `overrides` (`section.key=value`) and checks everything.
///
/// # Errors
/// A missing or unparsable file, or [`Error::Config`] with every violation.
pub fn load(path: &Path, overrides: &[String]) -> Result<ImageConfig> {
    from_table(&table(path, overrides)?)
}

fn table(path: &Path, overrides: &[String]) -> Result<Table> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::io("read", path, source))?;
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error
            .span()
            .map(|span| text[..span.start.min(text.len())].lines().count().max(1));
        let message = format!("not valid TOML: {}", error.message());
        match line {
            Some(line) => Error::data_line(path, line, message),
            None => Error::data(path, message),
        }
    })?;
    for assignment in overrides {
        set(&mut table, assignment)?;
    }
    Ok(table)
}

/// Builds a reward run's configuration from a parsed table and checks it.
pub fn reward_from_table(table: &Table) -> Result<RewardConfig> {
    let mut problems = schema::unknown_keys(table, &RewardConfig::default());
    let config = RewardConfig::from_sections(table, &mut problems);
    if problems.is_empty() {
        config.violations(&mut problems);
    }
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(Error::Config { problems })
    }
}

/// Builds the configuration from a parsed table and checks it.
pub fn from_table(table: &Table) -> Result<ImageConfig> {
    let mut problems = schema::unknown_keys(table, &ImageConfig::default());
    let config = ImageConfig::from_sections(table, &mut problems);
    if problems.is_empty() {
        config.violations(&mut problems);
    }
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(Error::Config { problems })
    }
}

/// Applies one `section.key=value`; the value is read as TOML and, where that fails, as a plain string.
fn set(table: &mut Table, assignment: &str) -> Result<()> {
    let usage = || {
        Error::config(format!(
            "`--set {assignment}` is not of the form `section.key=value`"
        ))
    };
    let (path, value) = assignment.split_once('=').ok_or_else(usage)?;
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().filter(|key| !key.is_empty()).ok_or_else(usage)?;
    let parsed = format!("value = {value}")
        .parse::<Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("value"));
    let mut section = table;
    for key in keys {
        let entry = section
            .entry(key)
            .or_insert_with(|| Value::Table(Table::new()));
        section = entry.as_table_mut().ok_or_else(usage)?;
    }
    section.insert(
        last.to_owned(),
        parsed.unwrap_or_else(|| Value::String(value.to_owned())),
    );
    Ok(())
}
