//! Answers that a model has written, one JSON object a line: what `generate` writes and rewards are given to.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::variables::{put_variables, variables};
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
    /// What the chat template was given beside the messages: columns of their own in the file.
    #[serde(skip)]
    pub variables: Map<String, Value>,
}

impl Answer {
    /// As a line of a file has it.
    pub fn to_row(&self) -> Value {
        let mut row = serde_json::to_value(self).unwrap_or_default();
        put_variables(&mut row, &self.variables);
        row
    }
}

/// The answers to one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// What was asked.
    pub prompt: Value,
    /// What the chat template was given beside it.
    pub variables: Map<String, Value>,
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
        let variables =
            variables(&columns).map_err(|problem| Error::data_line(path, line, problem))?;
        let mut answer: Answer = serde_json::from_value(Value::Object(columns))
            .map_err(|error| Error::data_line(path, line, format!("not an answer: {error}")))?;
        if !(answer.prompt.is_string() || answer.prompt.is_array()) {
            let message = "`prompt` is neither text nor a list of messages";
            return Err(Error::data_line(path, line, message));
        }
        if let (true, Some(name)) = (answer.prompt.is_string(), variables.keys().next()) {
            let message = format!("`{name}` is for the chat template, but the prompt is no chat");
            return Err(Error::data_line(path, line, message));
        }
        answer.variables = variables;
        let same =
            |known: &Answered| known.prompt == answer.prompt && known.variables == answer.variables;
        match all.iter_mut().find(|known| same(known)) {
            Some(known) => known.answers.push(answer),
            None => all.push(Answered {
                prompt: answer.prompt.clone(),
                variables: answer.variables.clone(),
                answers: vec![answer],
            }),
        }
    }
    if all.is_empty() {
        return Err(Error::data(path, "there are no answers in it"));
    }
    Ok(all)
}
