//! Preference data of language models: pairs, marked or plain answers and ranked lists, from JSON lines, JSON arrays
//! and Parquet, in the column names that published data sets have, brought into one form. Every fault is named with
//! its file and line.

pub mod answers;
mod columns;
mod helpsteer;
mod lists;
mod message;
mod numbers;
mod parquet;
mod prompts;
mod rated;
mod rows;
mod split;
mod variables;

use std::path::Path;

use serde_json::{Map, Value};

pub use self::message::Text;
pub(super) use self::numbers::Numbers;
pub(super) use self::parquet::{columns, has_column, records as parquet_records};
pub use self::prompts::{Prompt, are_records, prompts, prompts_with_gold};
pub use self::rated::{Rated, read_rated};
pub(super) use self::rows::{Row, read as read_rows};
pub use self::variables::put_variables;
use crate::error::{Error, Result};

/// What an objective learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A preferred and a rejected answer.
    Pairs,
    /// Single answers, each marked as desirable or not.
    Marked,
    /// Single answers to imitate; of pairs the preferred one.
    Answers,
    /// Two answers or more with their ranks or rewards.
    Ranked,
    /// Two answers or more that a model has sampled, with their rewards, which may all be equal.
    Sampled,
}

/// A prompt with the answers to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Line of the file, or row of an array, from 1.
    pub line: usize,
    /// What it was read as.
    pub shape: Shape,
    /// What was asked; empty where the data have answers alone.
    pub prompt: Text,
    /// Pairs: preferred, rejected. Others: in the order of the file.
    pub answers: Vec<Text>,
    /// Reward of each answer: 1 and 0 of marks, and of ranks without scores, `n - 1` for the best to 0 for the worst.
    pub rewards: Vec<f64>,
    /// How much the record counts; 1 where the data do not say.
    pub weight: f64,
    /// How much better the preferred answer of a pair is; 1 where the data do not say.
    pub strength: f64,
    /// Probabilities of both answers of a pair to win, where they are given.
    pub wins: Option<[f64; 2]>,
    /// Scores of both answers of a pair, where they are given.
    pub scores: Option<[f64; 2]>,
    /// By how much the preferred answer of a pair should win; 0 where the data do not say.
    pub margin: f64,
    /// Log-prob of each answer by the distribution that it was sampled from; empty where the data do not say.
    pub proposal: Vec<f64>,
    /// Summed log-probs of both answers of a pair by the reference, where they are given.
    pub reference: Option<[f64; 2]>,
    /// What the chat template is given beside the messages: `tools`, and what `chat_template_kwargs` names.
    pub variables: Map<String, Value>,
    /// Whether it is held out, where the data say so.
    pub held_out: Option<bool>,
}

/// Reads a file of records of one shape: `.jsonl` (also `.gz`), `.json` with an array, or `.parquet`.
///
/// # Errors
/// With the line or row: a missing column, an empty or repeated answer, a number out of its range.
pub fn read(path: &Path, shape: Shape) -> Result<Vec<Record>> {
    records(path, &rows::read(path)?, shape)
}

fn records(path: &Path, rows: &[Row], shape: Shape) -> Result<Vec<Record>> {
    if rows.is_empty() {
        return Err(Error::data(path, "there are no rows in it"));
    }
    let records = rows
        .iter()
        .map(|row| record(row, shape).map_err(|problem| row.error(path, &problem)));
    let records: Vec<Record> = records
        .filter_map(Result::transpose)
        .collect::<Result<_>>()?;
    if records.is_empty() {
        return Err(Error::data(
            path,
            "no row in it has a better and a worse answer",
        ));
    }
    Ok(records)
}

/// As [`read`], of the shape that the columns of the first row have: pairs, lists, else single answers.
///
/// # Errors
/// As [`read`].
pub fn read_any(path: &Path) -> Result<(Shape, Vec<Record>)> {
    let rows = rows::read(path)?;
    let shape = rows.first().map_or(Shape::Answers, |row| {
        let has = |names: &[&str]| names.iter().any(|name| row.columns.contains_key(*name));
        if columns::is_pair(&row.columns) || has(&["preference_strength"]) {
            Shape::Pairs
        } else if has(&lists::ANSWERS) {
            Shape::Ranked
        } else {
            Shape::Answers
        }
    });
    Ok((shape, records(path, &rows, shape)?))
}

/// Prompt and answer in the columns of one row, and what they give the chat template beside them.
///
/// # Errors
/// A sentence on what is missing, empty or not of its kind.
pub fn answer(columns: &Map<String, Value>) -> Result<(Text, Text, Map<String, Value>), String> {
    let (prompt, answer) = columns::answer(columns)?;
    check_answers(std::slice::from_ref(&answer), Shape::Answers)?;
    let prompt = prompt.with_system(columns)?;
    let variables = of_chat(&prompt, columns)?;
    Ok((prompt, answer, variables))
}

/// What a row gives the chat template, which only a chat goes through.
fn of_chat(prompt: &Text, columns: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let variables = variables::variables(columns)?;
    match (prompt, variables.keys().next()) {
        (Text::Plain(_) | Text::Ids(_), Some(name)) => Err(format!(
            "`{name}` is for the chat template, but prompt and answers are no chats"
        )),
        _ => Ok(variables),
    }
}

/// The record of a row; `None` where no answer is better than another by what annotators gave them.
fn record(row: &Row, shape: Shape) -> Result<Option<Record>, String> {
    let columns = &row.columns;
    let pairs = shape == Shape::Pairs;
    let strength = helpsteer::strength(columns).filter(|_| pairs).transpose()?;
    if strength.is_some_and(|strength| strength.abs() < f64::EPSILON) {
        return Ok(None);
    }
    let (prompt, answers, rewards) = match shape {
        Shape::Pairs => {
            let (prompt, chosen, rejected) = match strength {
                Some(strength) => helpsteer::pair(columns, strength)?,
                None => columns::pair(columns)?,
            };
            (prompt, vec![chosen, rejected], vec![1.0, 0.0])
        }
        Shape::Marked => {
            let (prompt, completion) = columns::completion(columns)?;
            let desirable = columns::mark(columns)?;
            (
                prompt,
                vec![completion],
                vec![f64::from(u8::from(desirable))],
            )
        }
        Shape::Answers => {
            let (prompt, answer) = columns::answer(columns)?;
            (prompt, vec![answer], vec![1.0])
        }
        Shape::Ranked => match lists::ranked(columns)? {
            Some(listed) => listed,
            None => return Ok(None),
        },
        Shape::Sampled => lists::sampled(columns)?,
    };
    let prompt = prompt.with_system(columns)?;
    check_answers(&answers, shape)?;
    let variables = of_chat(&prompt, columns)?;
    let Numbers {
        weight,
        margin,
        wins,
        scores,
        proposal,
        reference,
    } = Numbers::of(columns, answers.len())?;
    Ok(Some(Record {
        line: row.number,
        shape,
        prompt,
        answers,
        rewards,
        weight,
        strength: strength.map_or(margin.unwrap_or(1.0), f64::abs),
        wins,
        scores,
        margin: margin.unwrap_or(0.0),
        proposal,
        reference: reference.filter(|_| pairs),
        variables,
        held_out: held_out(columns)?,
    }))
}

fn check_answers(answers: &[Text], shape: Shape) -> Result<(), String> {
    if let Some(place) = answers.iter().position(Text::is_empty) {
        let name = match (shape, place) {
            (Shape::Pairs, 0) => "the chosen answer".to_owned(),
            (Shape::Pairs, _) => "the rejected answer".to_owned(),
            (Shape::Ranked | Shape::Sampled, place) => format!("answer {}", place + 1),
            _ => "the answer".to_owned(),
        };
        return Err(format!("{name} is empty"));
    }
    if shape == Shape::Pairs && answers[0] == answers[1] {
        return Err("the chosen and the rejected answer are identical".to_owned());
    }
    Ok(())
}

pub(super) fn held_out(columns: &Map<String, Value>) -> Result<Option<bool>, String> {
    match columns.get("split") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(split)) if split.starts_with("train") => Ok(Some(false)),
        Some(Value::String(split)) if split == "validation" || split.starts_with("test") => {
            Ok(Some(true))
        }
        Some(other) => Err(format!(
            "`split` is {other}, neither `train` nor `validation` nor `test`"
        )),
    }
}
