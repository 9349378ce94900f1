//! What a text run learns from: records, split, as token ids. Needs the tokenizer, not the weights.

use std::collections::BTreeMap;
use std::path::Path;

use super::scorer;
use crate::config::{Config, TextConfig, TextObjectiveSection};
use crate::data::text::{self, Record};
use crate::error::{Error, Result};
use crate::models::lm::LmConfig;
use crate::models::lm::tokenizer::TextTokenizer;
use crate::ops::random::{derive_seed, uniform};
use crate::trainer::text::{Example, Examples, Objective};

/// Everything that was read.
pub(super) struct TextInputs {
    pub(super) objective: Objective,
    pub(super) tokenizer: TextTokenizer,
    pub(super) train: Examples,
    pub(super) held_out: Examples,
    /// SHA-256 by what it is of.
    pub(super) hashes: BTreeMap<String, String>,
}

/// The objective of a configuration.
pub(super) fn objective(section: &TextObjectiveSection) -> Result<Objective> {
    Objective::new(section).map_err(|problems| Error::Config { problems })
}

/// Checks of a configuration that take the table of objectives.
pub(super) fn check(config: &Config) -> Result<()> {
    match config {
        Config::Text(config) => objective(&config.objective).map(drop),
        Config::Iterate(config) => {
            objective(&config.objective)?;
            scorer::transform(&config.scorer).map(drop)
        }
        _ => Ok(()),
    }
}

/// Reads and encodes the data of a configuration.
pub(super) fn read(config: &TextConfig) -> Result<TextInputs> {
    let objective = objective(&config.objective)?;
    let section = &config.data;
    let (train, mut held_out) = split(
        text::read(&section.train, objective.shape())?,
        config.run.seed,
        section.validation_share,
    );
    let base = &config.model.base;
    let tokenizer = TextTokenizer::open(base, LmConfig::open(base)?.vocab_size)?;
    let encode = |path: &Path, records: &[Record]| {
        let encoded = Examples::encode(path, records, &tokenizer, section)?;
        needed(path, &objective, &encoded.examples)?;
        Ok::<_, Error>(encoded)
    };
    let (train, mut held) = (
        encode(&section.train, &train)?,
        encode(&section.train, &held_out)?,
    );
    let mut hashes = BTreeMap::from([(
        "training data".to_owned(),
        super::train_reward_data::sha256(&section.train)?,
    )]);
    if let Some(path) = &section.validation {
        held_out = text::read(path, objective.shape())?;
        let more = encode(path, &held_out)?;
        held.examples.extend(more.examples);
        held.truncated.extend(more.truncated);
        held.dropped.extend(more.dropped);
        hashes.insert(
            "validation data".to_owned(),
            super::train_reward_data::sha256(path)?,
        );
    }
    if train.examples.is_empty() {
        let problem = match train.dropped.first() {
            Some((line, reason)) => {
                format!("no record is left to learn from; that of line {line}: {reason}")
            }
            None => "every record is held out".to_owned(),
        };
        return Err(Error::data(&section.train, problem));
    }
    Ok(TextInputs {
        objective,
        tokenizer,
        train,
        held_out: held,
        hashes,
    })
}

/// Training and held-out records: as the data say, else a share drawn by the seed.
fn split(records: Vec<Record>, seed: u64, share: f64) -> (Vec<Record>, Vec<Record>) {
    records.into_iter().partition(|record| {
        let drawn = || drawn(seed, record.line, share);
        !record.held_out.unwrap_or_else(drawn)
    })
}

/// Whether the row of a line is held out where the data do not say.
pub(super) fn drawn(seed: u64, line: usize, share: f64) -> bool {
    uniform(derive_seed(seed, "held out", &[line as u64])) < share
}

fn needed(path: &Path, objective: &Objective, examples: &[Example]) -> Result<()> {
    let lacking = examples
        .iter()
        .find_map(|example| Some((example, objective.lacks(example)?)));
    match lacking {
        None => Ok(()),
        Some((example, column)) => {
            let problem = format!("`{}` needs the column `{column}`", objective.name());
            Err(Error::data_line(path, example.line, problem))
        }
    }
}
