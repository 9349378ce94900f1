//! Answers that a model has written, as `generate` writes them, one JSON object a line; and answers of any file of records,
//! those to one prompt together, as rewards are given to them.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::message::Text;
use super::rows::Row;
use super::variables::put_variables;
use super::{Read, Reading, columns, compared, kept, lists, of_chat, read_rows_with};
use crate::error::{Error, Result};

/// Columns of an answer that go along when it is written again with its reward.
const KEPT: [&str; 8] = [
    "id", "item", "model", "seed", "tokens", "ended", "split", "weight",
];

/// An answer that a model has written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The prompt: words, or messages of a chat.
    pub prompt: Value,
    /// The answer that the model wrote.
    pub text: String,
    /// Its seed.
    pub seed: u64,
    /// Its tokens.
    pub tokens: usize,
    /// `true` if it came to an end by itself.
    pub ended: bool,
    /// The variables that the chat template was given beside the messages: columns of their own in the file.
    #[serde(skip)]
    pub variables: Map<String, Value>,
    /// What else the prompt's row says of it: columns of their own in the file.
    #[serde(skip)]
    pub kept: Map<String, Value>,
}

impl Answer {
    /// As a line of a file has it.
    pub fn to_row(&self) -> Value {
        let mut row = serde_json::to_value(self).unwrap_or_default();
        for (name, value) in &self.kept {
            row[name] = value.clone();
        }
        put_variables(&mut row, &self.variables);
        row
    }
}

/// The answers to one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The prompt.
    pub prompt: Text,
    /// The variables that the chat template was given beside it.
    pub variables: Map<String, Value>,
    /// The answers in the order of the file, at least one.
    pub answers: Vec<Given>,
}

/// An answer that was read; it may be empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// The answer's text, in the form of its prompt.
    pub text: Text,
    /// The other columns of its row.
    kept: Map<String, Value>,
}

impl Answered {
    /// A line with an answer and its rewards, the first under `reward` and, where there are several, all by their names;
    /// every reader of answers takes it.
    pub fn scored_row(&self, answer: &Given, outputs: &[String], rewards: &[f64]) -> Value {
        let mut row = json!({});
        self.prompt.put(&mut row);
        match (&answer.text, answer.text.words()) {
            (Text::Chat(messages), Some(words)) if messages.len() == 1 => {
                row["text"] = json!(words);
            }
            (Text::Plain(words), _) => row["text"] = json!(words),
            (other, _) => row["completion"] = other.to_value(),
        }
        row["reward"] = json!(rewards.first());
        if rewards.len() > 1 {
            let named = outputs
                .iter()
                .cloned()
                .zip(rewards.iter().map(|reward| json!(reward)));
            row["rewards_by_name"] = Value::Object(named.collect());
        }
        for (name, value) in &answer.kept {
            row[name] = value.clone();
        }
        put_variables(&mut row, &self.variables);
        row
    }
}

/// Reads the answers of a file of records, those to one prompt together, prompts in the order of their first answers: single
/// answers, lists, and both answers of pairs; with notes on what else is in it.
///
/// # Errors
/// With the line: a column that is missing or of another type, no prompt, token ids. A file without answers.
pub fn read(path: &Path) -> Result<Read<Answered>> {
    let reading = Reading::default();
    let Read { rows, notes } = read_rows_with(path, &reading, of_row)?;
    notes.check(&reading)?;
    let mut all: Vec<Answered> = Vec::new();
    for own in rows {
        let same =
            |known: &Answered| known.prompt == own.prompt && known.variables == own.variables;
        match all.iter_mut().find(|known| same(known)) {
            Some(known) => known.answers.extend(own.answers),
            None => all.push(own),
        }
    }
    if all.is_empty() {
        return Err(Error::data(path, "there are no answers in it"));
    }
    Ok(Read { rows: all, notes })
}

/// The answers of a row; `None` of two of which neither is the better one.
fn of_row(row: &Row) -> Result<Option<Answered>, String> {
    let columns = &row.columns;
    let listed = lists::ANSWERS.iter().any(|name| columns.has(name));
    let (prompt, answers) = if listed {
        let (prompt, answers, _) = lists::listed(columns)?;
        (prompt, answers)
    } else if compared::are(columns) {
        let Some(compared) = compared::pair(columns)? else {
            return Ok(None);
        };
        let (prompt, better, worse) = compared.pair;
        (prompt, vec![better, worse])
    } else if columns::is_pair(columns) {
        let (prompt, chosen, rejected) = columns::pair(columns)?;
        (prompt, vec![chosen, rejected])
    } else {
        let (prompt, answer) = columns::answer(columns)?;
        (prompt, vec![answer])
    };
    let prompt = prompt.with_system(columns)?;
    if prompt.is_empty() {
        return Err("the prompt is empty or missing".to_owned());
    }
    if matches!(prompt, Text::Ids(_)) {
        return Err("prompt and answers are token ids, not words".to_owned());
    }
    let kept = kept(columns, &KEPT);
    let given = |text| Given {
        text,
        kept: kept.clone(),
    };
    Ok(Some(Answered {
        variables: of_chat(&prompt, columns)?,
        prompt,
        answers: answers.into_iter().map(given).collect(),
    }))
}
