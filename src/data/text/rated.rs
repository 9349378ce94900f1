//! Answers that annotators gave numbers to.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::message::Text;
use super::numbers::number;
use super::rows::Row;
use super::variables::variables;
use super::{Read, Reading, columns, held_out, helpsteer, read_rows_with};
use crate::data::columns::Columns;
use crate::error::Result;

/// The columns by which a file of HelpSteer2's ratings is known.
const HELPSTEER: [&str; 5] = [
    "helpfulness",
    "correctness",
    "coherence",
    "complexity",
    "verbosity",
];

/// A prompt with an answer and what it was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Rated {
    /// Line of the file, or row of an array, from 1.
    pub line: usize,
    /// The file.
    pub file: PathBuf,
    /// The prompt.
    pub prompt: Text,
    /// The answer.
    pub answer: Text,
    /// One number for each attribute.
    pub values: Vec<f64>,
    /// The variables that the chat template is given beside the messages.
    pub variables: Map<String, Value>,
    /// `true` if it is held out; `None` where the data do not say.
    pub held_out: Option<bool>,
}

/// Reads rated answers: `prompt`, `response` (or `completion`, `output`) and a number for each of `attributes`. The
/// rows of HelpSteer2 are chats, whose turns are marked in the prompt.
///
/// # Errors
/// The file is not of its kind; what is wrong with rows is in the notes.
pub fn read_rated(path: &Path, attributes: &[String], reading: &Reading) -> Result<Read<Rated>> {
    read_rows_with(path, reading, |row| rated(row, attributes).map(Some))
}

fn rated(row: &Row, attributes: &[String]) -> Result<Rated, String> {
    let columns = &row.columns;
    let (mut prompt, mut answer) = columns::completion(columns)?;
    if HELPSTEER.iter().all(|name| columns.has(name))
        && let (Text::Plain(asked), Text::Plain(said)) = (&prompt, &answer)
    {
        let message = json!({"role": "assistant", "content": said});
        (prompt, answer) = (
            Text::Chat(helpsteer::turns(asked)?),
            Text::Chat(vec![message]),
        );
    }
    if answer.is_empty() {
        return Err("the answer is empty".to_owned());
    }
    let values = attributes.iter().map(|name| value(columns, name));
    let prompt = prompt.with_system(columns)?;
    if prompt.asks_nothing() {
        return Err("the prompt is empty".to_owned());
    }
    Ok(Rated {
        line: row.place.number,
        file: row.place.file.clone(),
        prompt,
        answer,
        values: values.collect::<Result<_, _>>()?,
        variables: variables(columns)?,
        held_out: held_out(columns)?.or(row.held_out),
    })
}

fn value(columns: &Columns, name: &str) -> Result<f64, String> {
    number(columns, name)?.ok_or_else(|| format!("`{name}` is missing"))
}
