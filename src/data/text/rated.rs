//! Answers that annotators gave numbers to.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::message::Text;
use super::rows::{self, Row};
use super::variables::variables;
use super::{columns, held_out, helpsteer};
use crate::error::{Error, Result};

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
    /// What was asked.
    pub prompt: Text,
    /// The answer.
    pub answer: Text,
    /// One number for each attribute.
    pub values: Vec<f64>,
    /// What the chat template is given beside the messages.
    pub variables: Map<String, Value>,
    /// Whether it is held out, where the data say so.
    pub held_out: Option<bool>,
}

/// Reads rated answers: `prompt`, `response` (or `completion`, `output`) and a number for each of `attributes`. The
/// rows of HelpSteer2 are chats, whose turns are marked in the prompt.
///
/// # Errors
/// With the line or row: something is missing, empty or not of its kind.
pub fn read_rated(path: &Path, attributes: &[String]) -> Result<Vec<Rated>> {
    let rows = rows::read(path)?;
    if rows.is_empty() {
        return Err(Error::data(path, "there are no rows in it"));
    }
    rows.iter()
        .map(|row| rated(row, attributes).map_err(|problem| row.error(path, &problem)))
        .collect()
}

fn rated(row: &Row, attributes: &[String]) -> Result<Rated, String> {
    let columns = &row.columns;
    let (mut prompt, mut answer) = columns::completion(columns)?;
    if HELPSTEER.iter().all(|name| columns.contains_key(*name))
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
    Ok(Rated {
        line: row.number,
        prompt: prompt.with_system(columns)?,
        answer,
        values: values.collect::<Result<_, _>>()?,
        variables: variables(columns)?,
        held_out: held_out(columns)?,
    })
}

fn value(columns: &Map<String, Value>, name: &str) -> Result<f64, String> {
    let value = columns
        .get(name)
        .ok_or_else(|| format!("`{name}` is missing"))?;
    let number = value.as_f64().filter(|number| number.is_finite());
    number.ok_or_else(|| format!("`{name}` is {value}, not a number"))
}
