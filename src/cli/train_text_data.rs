//! What a text run learns from: records, split, as token ids. Needs the tokenizer, not the weights.

use std::collections::BTreeMap;
use std::path::Path;

use super::scorer;
use crate::config::{Config, PreferenceSection, ReferenceMode, TextConfig};
use crate::data::text::{self, Record};
use crate::error::{Error, Result};
use crate::models::lm::LmConfig;
use crate::models::lm::tokenizer::TextTokenizer;
use crate::ops::random::{derive_seed, uniform};
use crate::trainer::objective::Objective;
use crate::trainer::text::{Example, Examples};

/// The columns of the reference's log-probs, for messages.
const REFERENCE: &str = "ref_chosen_logps` and `ref_rejected_logps";

/// Everything that was read.
pub(super) struct TextInputs {
    pub(super) objective: Objective,
    pub(super) tokenizer: TextTokenizer,
    pub(super) train: Examples,
    pub(super) held_out: Examples,
    /// Whether the examples bring the reference's log-probs along.
    pub(super) brings_reference: bool,
    /// SHA-256 by what it is of.
    pub(super) hashes: BTreeMap<String, String>,
}

/// The objective of a configuration.
pub(super) fn objective(section: &PreferenceSection) -> Result<Objective> {
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
    let of_the_same = held.examples.len();
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
    let (same, other) = held.examples.split_at(of_the_same);
    let files = [
        (section.train.as_path(), train.examples.as_slice()),
        (section.train.as_path(), same),
        (
            section.validation.as_deref().unwrap_or(&section.train),
            other,
        ),
    ];
    Ok(TextInputs {
        brings_reference: brings_reference(config, &objective, &files)?,
        objective,
        tokenizer,
        train,
        held_out: held,
        hashes,
    })
}

/// Whether all examples bring the log-probs of the reference along; `false` where none does, or none is needed.
fn brings_reference(
    config: &TextConfig,
    objective: &Objective,
    files: &[(&Path, &[Example])],
) -> Result<bool> {
    if !objective.needs_reference() {
        return Ok(false);
    }
    let examples = files.iter().flat_map(|(path, examples)| {
        examples
            .iter()
            .map(|example| (*path, example.line, example.reference.is_some()))
    });
    let all: Vec<(&Path, usize, bool)> = examples.collect();
    let Some((path, line, _)) = all.iter().find(|(.., brings)| *brings) else {
        return Ok(false);
    };
    if let Some((other, at, _)) = all.iter().find(|(.., brings)| !brings) {
        let problem = format!(
            "has no `{REFERENCE}`, but line {line} of `{}` has: either all rows bring the reference's log-probs or none",
            path.display()
        );
        return Err(Error::data_line(other, *at, problem));
    }
    if objective.needs_live_reference() {
        let problem = format!(
            "`{}` compares whole distributions of tokens with the reference: `{REFERENCE}` do not say them",
            objective.name()
        );
        return Err(Error::data_line(path, *line, problem)
            .with_hint("leave the two columns out: the reference is then a model"));
    }
    let section = &config.reference;
    let key = match (&section.model, section.mode) {
        (Some(_), _) => "reference.model",
        (None, ReferenceMode::Live) => "reference.mode",
        (None, ReferenceMode::Cached) => return Ok(true),
    };
    let problem = format!("`{key}` names a reference, and the data bring its `{REFERENCE}` along");
    Err(Error::config(problem).with_hint(format!("leave out `{key}` or the two columns")))
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
        .find_map(|example| Some((example, objective.lacks(&example.judged)?)));
    match lacking {
        None => Ok(()),
        Some((example, column)) => {
            let problem = format!("`{}` needs the column `{column}`", objective.name());
            Err(Error::data_line(path, example.line, problem))
        }
    }
}
