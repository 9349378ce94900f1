//! The configuration of a run: TOML sections through serde, `--set a.b=c` overrides, one complete check.
//!
//! Every violation is listed at once, an unknown key is an error that names the nearest known one, and the
//! resolved configuration can be written back. Nothing here opens weights or images.

mod check;
mod image_rounds;
mod json_schema;
mod pairs;
mod pretrain;
mod reward;
mod rounds;
mod schema;
mod sections;
mod subject;
mod text;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
pub use image_rounds::*;
pub use json_schema::json_schema;
pub use pairs::*;
pub use pretrain::*;
pub use reward::*;
pub use rounds::*;
pub use sections::*;
use serde::Serialize;
pub use subject::*;
pub use text::*;
use toml::{Table, Value};

use crate::error::{Error, Result};
use crate::files::read_text;
use crate::installed;

/// A configuration, by its kind of run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Config {
    /// A diffusion model on the photos of a subject.
    Subject(Box<SubjectConfig>),
    /// A diffusion model on pairs of images: there is a section `[pairs]`.
    Pairs(Box<PairsConfig>),
    /// A language model: there is a section `[data]`.
    Text(Box<TextConfig>),
    /// Rounds of a language model on its own answers: there is a section `[rounds]`.
    Rounds(Box<RoundsConfig>),
    /// Rounds of a diffusion model on its own images: there is a section `[images]`.
    ImageRounds(Box<ImageRoundsConfig>),
    /// A reward model on embeddings: there is a section `[reward_model]`.
    Reward(Box<RewardConfig>),
    /// A part of a model from scratch: there is a section `[part]`.
    Pretrain(Box<PretrainConfig>),
}

/// A kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConfigKind {
    /// A diffusion model on the photos of a subject.
    Subject,
    /// A diffusion model on pairs of images.
    Pairs,
    /// A language model.
    Text,
    /// Rounds of a language model on its own answers.
    Rounds,
    /// Rounds of a diffusion model on its own images.
    ImageRounds,
    /// A reward or preference model.
    Reward,
    /// A part of a model from scratch.
    Pretrain,
}

impl ConfigKind {
    /// The sections that make a configuration one of a kind, the first that is there; without any it is one on a subject.
    const SECTIONS: [(&str, Self); 6] = [
        ("reward_model", Self::Reward),
        ("part", Self::Pretrain),
        ("pairs", Self::Pairs),
        ("images", Self::ImageRounds),
        ("rounds", Self::Rounds),
        ("data", Self::Text),
    ];

    /// The kind that a table's sections say.
    fn detect(table: &Table) -> Self {
        let known = Self::SECTIONS
            .iter()
            .find(|(name, _)| table.contains_key(*name));
        known.map_or(Self::Subject, |(_, kind)| *kind)
    }

    /// In words, after "a run".
    pub fn name(self) -> &'static str {
        match self {
            Self::Subject => "on a subject's photos",
            Self::Pairs => "on pairs of images",
            Self::Text => "on texts",
            Self::Rounds => "in rounds on a language model's answers",
            Self::ImageRounds => "in rounds on a diffusion model's images",
            Self::Reward => "that trains a reward model",
            Self::Pretrain => "that trains a part of a model from scratch",
        }
    }

    /// The verb that makes such a run.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Subject | Self::Pairs | Self::Text | Self::Reward => "train",
            Self::Rounds | Self::ImageRounds => "rounds",
            Self::Pretrain => "pretrain",
        }
    }
}

impl Config {
    /// Its kind of run.
    pub fn kind(&self) -> ConfigKind {
        match self {
            Self::Subject(_) => ConfigKind::Subject,
            Self::Pairs(_) => ConfigKind::Pairs,
            Self::Text(_) => ConfigKind::Text,
            Self::Rounds(_) => ConfigKind::Rounds,
            Self::ImageRounds(_) => ConfigKind::ImageRounds,
            Self::Reward(_) => ConfigKind::Reward,
            Self::Pretrain(_) => ConfigKind::Pretrain,
        }
    }

    /// The error of a verb that does not take it; `taken` says what the verb takes.
    pub fn refuse(&self, path: &Path, taken: &str) -> Error {
        let kind = self.kind();
        Error::data(
            path,
            format!("describes a run {}, not {taken}", kind.name()),
        )
        .with_hint(format!("`preftune {}` makes such a run", kind.verb()))
    }
}

/// The kind of run that a configuration file describes. Its values are not checked.
///
/// # Errors
/// A missing or unparsable file.
pub fn kind_of(path: &Path, overrides: &[String]) -> Result<ConfigKind> {
    Ok(ConfigKind::detect(&read(path, overrides)?))
}

/// Reads `path`, applies `overrides` (`section.key=value`) and checks everything, whatever kind of run it describes.
///
/// # Errors
/// A missing or unparsable file, or [`Error::Config`] with every violation.
pub fn load_any(path: &Path, overrides: &[String]) -> Result<Config> {
    let table = read(path, overrides)?;
    Ok(match ConfigKind::detect(&table) {
        ConfigKind::Subject => Config::Subject(Box::new(build(&table)?)),
        ConfigKind::Pairs => Config::Pairs(Box::new(build(&table)?)),
        ConfigKind::Text => Config::Text(Box::new(build(&table)?)),
        ConfigKind::Rounds => Config::Rounds(Box::new(build(&table)?)),
        ConfigKind::ImageRounds => Config::ImageRounds(Box::new(build(&table)?)),
        ConfigKind::Reward => Config::Reward(Box::new(build(&table)?)),
        ConfigKind::Pretrain => Config::Pretrain(Box::new(build(&table)?)),
    })
}

/// As [`load_any`], of a run on a subject.
///
/// # Errors
/// As [`load_any`], or it is that of another kind of run.
pub fn load(path: &Path, overrides: &[String]) -> Result<SubjectConfig> {
    match load_any(path, overrides)? {
        Config::Subject(config) => Ok(*config),
        other => Err(other.refuse(path, "one on a subject's photos")),
    }
}

/// As [`load_any`], of a run on texts.
///
/// # Errors
/// As [`load_any`], or it is that of another kind of run.
pub fn load_text(path: &Path, overrides: &[String]) -> Result<TextConfig> {
    match load_any(path, overrides)? {
        Config::Text(config) => Ok(*config),
        other => Err(other.refuse(path, "one on texts")),
    }
}

/// As [`load_any`], of rounds.
///
/// # Errors
/// As [`load_any`], or it is that of another kind of run.
pub fn load_rounds(path: &Path, overrides: &[String]) -> Result<RoundsConfig> {
    match load_any(path, overrides)? {
        Config::Rounds(config) => Ok(*config),
        other => Err(other.refuse(path, "one in rounds")),
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

/// As [`load_any`], of a part of the small world's model.
///
/// # Errors
/// As [`load_any`], or it is that of another kind of run.
pub fn load_pretrain(path: &Path, overrides: &[String]) -> Result<PretrainConfig> {
    match load_any(path, overrides)? {
        Config::Pretrain(config) => Ok(*config),
        other => Err(other.refuse(path, "one that trains a part from scratch")),
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
    let text = read_text(path)?;
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
    table
        .iter_mut()
        .for_each(|(_, value)| find_companions(value));
    for assignment in overrides {
        set(&mut table, assignment)?;
    }
    Ok(table)
}

/// Makes files of the small world that a configuration names findable from any folder.
fn find_companions(value: &mut Value) {
    match value {
        Value::String(path) if path.starts_with("assets/") => {
            if let Some(found) = installed::find(PathBuf::from(path.as_str())).to_str() {
                found.clone_into(path);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(find_companions),
        Value::Table(table) => table
            .iter_mut()
            .for_each(|(_, value)| find_companions(value)),
        _ => {}
    }
}

/// Builds an image run's configuration from a parsed table and checks it.
pub fn from_table(table: &Table) -> Result<SubjectConfig> {
    build(table)
}

/// Builds a reward model's configuration from a parsed table and checks it.
pub fn reward_from_table(table: &Table) -> Result<RewardConfig> {
    build(table)
}

/// The common part of all kinds of configuration.
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
