//! The configuration of a run: TOML sections through serde, `--set a.b=c` overrides, one complete check.
//!
//! Every violation is listed at once, an unknown key is an error that names the nearest known one, and the
//! resolved configuration can be written back. Nothing here opens weights or images.

mod check;
mod image;
mod iterate;
mod pairs;
mod pretrain;
mod reward;
mod schema;
mod text;

use std::path::Path;

pub use image::*;
pub use iterate::*;
pub use pairs::*;
pub use pretrain::*;
pub use reward::*;
use serde::Serialize;
pub use text::*;
use toml::{Table, Value};

use crate::error::{Error, Result};

/// What a configuration file asks for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Config {
    /// An image run.
    Image(Box<ImageConfig>),
    /// A diffusion model on pairs of images: there is a section `[pairs]`.
    Pairs(Box<PairsConfig>),
    /// A language model: there is a section `[data]`.
    Text(Box<TextConfig>),
    /// Rounds of a language model on its own answers: there is a section `[rounds]`.
    Iterate(Box<IterateConfig>),
    /// A reward model on embeddings: there is a section `[reward_model]`.
    Reward(Box<RewardConfig>),
    /// A part of a model from scratch: there is a section `[part]`.
    Pretrain(Box<PretrainConfig>),
}

/// Reads `path`, applies `overrides` (`section.key=value`) and checks everything, whatever kind of run it describes.
///
/// # Errors
/// A missing or unparsable file, or [`Error::Config`] with every violation.
pub fn load_any(path: &Path, overrides: &[String]) -> Result<Config> {
    let table = read(path, overrides)?;
    Ok(if table.contains_key("reward_model") {
        Config::Reward(Box::new(build(&table)?))
    } else if table.contains_key("part") {
        Config::Pretrain(Box::new(build(&table)?))
    } else if table.contains_key("pairs") {
        Config::Pairs(Box::new(build(&table)?))
    } else if table.contains_key("rounds") {
        Config::Iterate(Box::new(build(&table)?))
    } else if table.contains_key("data") {
        Config::Text(Box::new(build(&table)?))
    } else {
        Config::Image(Box::new(build(&table)?))
    })
}

/// As [`load_any`], an image run's configuration.
///
/// # Errors
/// As [`load_any`], or it is that of another kind of run.
pub fn load(path: &Path, overrides: &[String]) -> Result<ImageConfig> {
    match load_any(path, overrides)? {
        Config::Image(config) => Ok(*config),
        Config::Reward(_) => Err(Error::data(path, "of a reward model, not of images")),
        Config::Text(_) | Config::Iterate(_) => {
            Err(Error::data(path, "of a language model, not of images"))
        }
        Config::Pairs(_) => Err(Error::data(
            path,
            "of pairs of images, where a run on a subject's photos is needed",
        )),
        Config::Pretrain(_) => Err(Error::data(path, "trains a part of a model from scratch")
            .with_hint("`preftune pretrain` takes it")),
    }
}

/// As [`load_any`], a text run's configuration.
///
/// # Errors
/// As [`load_any`], or it is that of another kind of run.
pub fn load_text(path: &Path, overrides: &[String]) -> Result<TextConfig> {
    match load_any(path, overrides)? {
        Config::Text(config) => Ok(*config),
        _ => Err(Error::data(
            path,
            "tunes no language model: it has no section `[data]`",
        )),
    }
}

/// As [`load_any`], for `preftune iterate`.
///
/// # Errors
/// As [`load_any`], or it is that of another kind of run.
pub fn load_iterate(path: &Path, overrides: &[String]) -> Result<IterateConfig> {
    match load_any(path, overrides)? {
        Config::Iterate(config) => Ok(*config),
        _ => Err(
            Error::data(path, "has no rounds: it has no section `[rounds]`")
                .with_hint("`preftune train` takes it"),
        ),
    }
}

/// The sections `[generate]` and `[scorer]` of a configuration; what else it has is not read.
///
/// # Errors
/// As [`load_any`].
pub fn load_scoring(path: &Path, overrides: &[String]) -> Result<Scoring> {
    let mut table = read(path, overrides)?;
    table.retain(|name, _| name == "generate" || name == "scorer");
    build(&table)
}

/// As [`load_any`], a part of the small world's model, for `preftune pretrain`.
///
/// # Errors
/// As [`load_any`], or it is that of another kind of run.
pub fn load_pretrain(path: &Path, overrides: &[String]) -> Result<PretrainConfig> {
    match load_any(path, overrides)? {
        Config::Pretrain(config) => Ok(*config),
        _ => Err(
            Error::data(path, "tunes a model: it has no section `[part]`")
                .with_hint("`preftune train` takes it"),
        ),
    }
}

/// A configuration as the table that is stored with a run.
///
/// # Errors
/// A value that TOML cannot hold.
pub fn to_table(config: &impl Serialize) -> Result<Table> {
    Table::try_from(config).map_err(|error| Error::config(error.to_string()))
}

fn read(path: &Path, overrides: &[String]) -> Result<Table> {
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

/// Builds an image run's configuration from a parsed table and checks it.
pub fn from_table(table: &Table) -> Result<ImageConfig> {
    build(table)
}

/// Builds a reward model's configuration from a parsed table and checks it.
pub fn reward_from_table(table: &Table) -> Result<RewardConfig> {
    build(table)
}

/// What the kinds of run configuration share.
trait RunConfig: Default + Serialize {
    /// Reads the sections; one sentence for every value of a wrong type.
    fn from_sections(table: &Table, problems: &mut Vec<String>) -> Self;

    /// Adds one sentence for every value that is out of its range or contradicts another.
    fn violations(&self, problems: &mut Vec<String>);
}

fn build<C: RunConfig>(table: &Table) -> Result<C> {
    let mut problems = schema::unknown_keys(table, &C::default());
    let config = C::from_sections(table, &mut problems);
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
