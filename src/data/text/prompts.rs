//! The prompts of a file of records, where it is wanted with the answer that the data bring along.

use std::path::Path;

use serde_json::{Map, Value};

use super::message::Text;
use super::rows::{self, Row};
use super::variables::variables;
use super::{Read, Reading, columns, held_out, kept, read_rows_with};
use crate::error::Result;

/// A prompt that is to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Line of the file, or row of an array, from 1.
    pub line: usize,
    /// The prompt; messages where the data have something for the chat template.
    pub text: Text,
    /// The variables that the chat template is given beside the messages.
    pub variables: Map<String, Value>,
    /// The answer that the data bring along, where it was asked for.
    pub gold: Option<String>,
    /// `true` if it is held out; `None` where the data do not say.
    pub held_out: Option<bool>,
    /// Columns of its row that go along with the answers to it.
    pub kept: Map<String, Value>,
}

/// Columns of a prompt that go along with the answers to it.
const KEPT: [&str; 3] = ["id", "item", "split"];

impl Prompt {
    /// Words that are in no file.
    pub fn in_words(line: usize, words: &str) -> Self {
        Self {
            line,
            text: Text::Plain(words.to_owned()),
            variables: Map::new(),
            gold: None,
            held_out: None,
            kept: Map::new(),
        }
    }
}

/// `true` if a file's name is that of records.
pub fn are_records(path: &Path) -> bool {
    rows::is_known(path)
}

/// Reads the prompts of a file, with notes on what else is in it; rows with faults are left out and counted.
///
/// # Errors
/// Too many rows have faults: a prompt is missing or empty; a column is not of its kind.
pub fn prompts(path: &Path, reading: &Reading) -> Result<Read<Prompt>> {
    all(path, reading, |_| Ok(None))
}

/// As [`prompts`], each with the answer in its row: `completion` and its other names, or the chosen answer of a pair.
///
/// # Errors
/// As [`prompts`]; an answer is missing, empty or not in words.
pub fn prompts_with_gold(path: &Path, reading: &Reading) -> Result<Read<Prompt>> {
    all(path, reading, |row| columns::gold(&row.columns).map(Some))
}

fn all(
    path: &Path,
    reading: &Reading,
    gold: impl Fn(&Row) -> Result<Option<String>, String>,
) -> Result<Read<Prompt>> {
    let reading = Reading {
        drops_invalid: true,
        ..*reading
    };
    let read = read_rows_with(path, &reading, |row| {
        let variables = variables(&row.columns)?;
        let mut text = columns::question(&row.columns)?;
        if !variables.is_empty() {
            text = Text::Chat(text.into_chat("user"));
        }
        let text = text.with_system(&row.columns)?;
        if text.is_empty() || text.asks_nothing() {
            return Err("the prompt is empty".to_owned());
        }
        Ok(Some(Prompt {
            line: row.place.number,
            text,
            variables,
            gold: gold(row)?,
            held_out: held_out(&row.columns)?.or(row.held_out),
            kept: kept(&row.columns, &KEPT),
        }))
    })?;
    read.notes.check(&reading)?;
    Ok(read)
}
