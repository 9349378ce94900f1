//! Answers that a model has written, one JSON object a line: what `generate` writes and rewards are given to.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::json_lines::JsonLines;
use crate::error::{Error, Result};

/// An answer to a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What was asked: words, or messages of a chat.
    pub prompt: Value,
    /// What the model wrote.
    pub text: String,
    /// Its seed.
    #[serde(default)]
    pub seed: u64,
    /// Its tokens, where they were counted.
    #[serde(default)]
    pub tokens: usize,
    /// Whether it came to an end by itself.
    #[serde(default)]
    pub ended: bool,
}

/// The answers to one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// What was asked.
    pub prompt: Value,
    /// The answers in the order of the file, at least one.
    pub answers: Vec<Answer>,
}

/// Reads a file of answers, those to one prompt together, prompts in the order of their first answers.
///
/// # Errors
/// With the line: no JSON object, a column that is missing or of another type. A file without answers.
pub fn read(path: &Path) -> Result<Vec<Answered>> {
    let mut all: Vec<Answered> = Vec::new();
    for row in JsonLines::open(path)? {
        let (line, columns) = row?;
        let answer: Answer = serde_json::from_value(Value::Object(columns))
            .map_err(|error| Error::data_line(path, line, format!("not an answer: {error}")))?;
        if !(answer.prompt.is_string() || answer.prompt.is_array()) {
            let message = "`prompt` is neither text nor a list of messages";
            return Err(Error::data_line(path, line, message));
        }
        match all.iter_mut().find(|known| known.prompt == answer.prompt) {
            Some(known) => known.answers.push(answer),
            None => all.push(Answered {
                prompt: answer.prompt.clone(),
                answers: vec![answer],
            }),
        }
    }
    if all.is_empty() {
        return Err(Error::data(path, "there are no answers in it"));
    }
    Ok(all)
}
