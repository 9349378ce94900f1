//! Preferences and ratings of responses that are rows of a table of embeddings: JSON lines of pairs, or of ratings,
//! those of HelpSteer2 as they are published.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::json_lines::{JsonLines, text_of};
use super::left_out::{LeftOut, Place};
use crate::error::{Error, Result};
use crate::files::read_text;

/// One preference. Responses and prompts are rows of their embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The preferred response.
    pub chosen: usize,
    /// The other.
    pub rejected: usize,
    /// The prompt that both answer, where it is known.
    pub prompt: Option<usize>,
    /// How strong the preference is: 1 where the data do not say.
    pub strength: f64,
    /// How much the pair counts.
    pub weight: f64,
    /// Whose preference it is.
    pub user: Option<String>,
    /// `true` if it is held out; `None` where the data do not say.
    pub held_out: Option<bool>,
}

/// A response with what annotators gave it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rating {
    /// The response's row.
    pub row: usize,
    /// One number for each attribute.
    pub values: Vec<f64>,
    /// `true` if it is held out; `None` where the data do not say.
    pub held_out: Option<bool>,
}

/// The names and the number of rows of embeddings.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// How many there are.
    pub responses: usize,
    /// How many prompts there are; 0 where prompts have no embeddings.
    pub prompts: usize,
    names: HashMap<String, usize>,
}

impl Rows {
    /// Rows that go by their number.
    pub fn numbered(responses: usize, prompts: usize) -> Self {
        Self {
            responses,
            prompts,
            names: HashMap::new(),
        }
    }

    /// Rows of responses that go by the names in `path`, one a line.
    ///
    /// # Errors
    /// Not as many names as rows, or a name twice.
    pub fn named(path: &Path, responses: usize, prompts: usize) -> Result<Self> {
        let text = read_text(path)?;
        Self::called(path, text.lines(), responses, prompts)
    }

    /// Rows of responses that go by `names`, which are from `path`.
    ///
    /// # Errors
    /// Not as many names as rows, or a name twice.
    pub fn called<'a>(
        path: &Path,
        names: impl Iterator<Item = &'a str>,
        responses: usize,
        prompts: usize,
    ) -> Result<Self> {
        let mut rows = Self::numbered(responses, prompts);
        for (line, name) in names.enumerate() {
            if rows.names.insert(name.trim().to_owned(), line).is_some() {
                let problem = format!("`{}` occurs twice", name.trim());
                return Err(Error::data_line(path, line + 1, problem));
            }
        }
        if rows.names.len() != responses {
            let problem = format!(
                "{} names for {responses} rows of embeddings",
                rows.names.len()
            );
            return Err(Error::data(path, problem));
        }
        Ok(rows)
    }

    fn response(&self, object: &Map<String, Value>, key: &str) -> Result<usize, String> {
        if self.names.is_empty() {
            return row(object, key, self.responses, "responses");
        }
        let name = text_of(object, key)?;
        let row = self.names.get(&name).copied();
        row.ok_or_else(|| format!("`{key}` is `{name}`, which no row of embeddings is called"))
    }
}

fn row(object: &Map<String, Value>, key: &str, rows: usize, of: &str) -> Result<usize, String> {
    let value = object
        .get(key)
        .ok_or_else(|| format!("`{key}` is missing"))?;
    let row = value
        .as_u64()
        .map(|row| row as usize)
        .filter(|row| *row < rows);
    row.ok_or_else(|| format!("`{key}` is {value}, not one of the {rows} rows of `{of}`"))
}

/// Reads pairs: `chosen` and `rejected` (a row or a name), and where they are there `prompt`, `margin`, `weight`,
/// `user`, `split`; a `label` or `probability` below one half turns a pair round. Or HelpSteer2-Preference as published:
/// `preference_strength` of line `i` (from 0, negative where the first response is better) is on rows `2 i` and
/// `2 i + 1`. Ties, a label of one half or a strength of 0, are counted in `left_out`.
///
/// # Errors
/// With the line: something is missing or not of its kind. Or all rows are ties.
pub fn read_pairs(path: &Path, rows: &Rows, left_out: &mut LeftOut) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for (place, object) in JsonLines::open(path)?.enumerate() {
        let (line, object) = object?;
        let fail = |problem: String| Error::data_line(path, line, problem);
        let pair = match object.get("preference_strength") {
            Some(strength) => helpsteer(&object, strength, place, rows.responses),
            None => pair(&object, rows),
        };
        match pair.map_err(fail)? {
            Some(pair) => pairs.push(pair),
            None => left_out.says_nothing(
                "a tie",
                Place {
                    file: path.to_owned(),
                    number: line,
                    is_line: true,
                },
            ),
        }
    }
    if pairs.is_empty() && !left_out.reasons.is_empty() {
        return Err(Error::data(
            path,
            "no row in it prefers one response to another",
        ));
    }
    not_empty(path, pairs)
}

/// The pair of a row; `None` of a tie.
fn pair(object: &Map<String, Value>, rows: &Rows) -> Result<Option<Pair>, String> {
    let (mut chosen, mut rejected) = (
        rows.response(object, "chosen")?,
        rows.response(object, "rejected")?,
    );
    if chosen == rejected {
        return Err(format!(
            "`chosen` and `rejected` are one response, row {chosen}"
        ));
    }
    let prompt = match object.get("prompt") {
        // Text is for people where prompts have no embeddings.
        Some(_) if rows.prompts > 0 => Some(row(object, "prompt", rows.prompts, "prompts")?),
        _ => None,
    };
    let amount = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(1.0),
        Some(value) => {
            let number = value.as_f64().filter(|number| *number >= 0.0);
            number.ok_or_else(|| format!("`{key}` is {value}, not a number of 0 or more"))
        }
    };
    let first = first_wins(object)?.unwrap_or(1.0);
    if (first - 0.5).abs() < f64::EPSILON {
        return Ok(None);
    }
    if first < 0.5 {
        if object.get("margin").is_some_and(|margin| !margin.is_null()) {
            return Err("`margin` and a `label` against `chosen` contradict each other".to_owned());
        }
        std::mem::swap(&mut chosen, &mut rejected);
    }
    Ok(Some(Pair {
        chosen,
        rejected,
        prompt,
        strength: amount("margin")?,
        weight: amount("weight")?,
        user: object
            .get("user")
            .map(|_| text_of(object, "user"))
            .transpose()?,
        held_out: held_out(object)?,
    }))
}

/// The share with which `chosen` wins by `label`, else by `probability`; `None` where neither is there.
fn first_wins(object: &Map<String, Value>) -> Result<Option<f64>, String> {
    for name in ["label", "probability"] {
        let share = match object.get(name) {
            None | Some(Value::Null) => continue,
            Some(Value::Bool(wins)) => Some(f64::from(u8::from(*wins))),
            Some(value) => value.as_f64().filter(|share| (0.0..=1.0).contains(share)),
        };
        let problem = || format!("`{name}` is {}, not a number of 0 to 1", object[name]);
        return share.map(Some).ok_or_else(problem);
    }
    Ok(None)
}

fn helpsteer(
    object: &Map<String, Value>,
    strength: &Value,
    place: usize,
    responses: usize,
) -> Result<Option<Pair>, String> {
    let strength = strength
        .as_f64()
        .ok_or_else(|| format!("`preference_strength` is {strength}, not a number"))?;
    let (first, second) = (2 * place, 2 * place + 1);
    if second >= responses {
        return Err(format!(
            "there are only {responses} rows of embeddings, two for a line"
        ));
    }
    let (chosen, rejected) = if strength < 0.0 {
        (first, second)
    } else {
        (second, first)
    };
    Ok((strength.abs() > 0.0).then_some(Pair {
        chosen,
        rejected,
        prompt: None,
        strength: strength.abs(),
        weight: 1.0,
        user: None,
        held_out: held_out(object)?,
    }))
}

/// Reads ratings: a number for each of `attributes`. The response is `row` where that is given, else line `i` (from 0)
/// is row `i`, as in HelpSteer2.
///
/// # Errors
/// With the line: something is missing or not of its kind.
pub fn read_ratings(path: &Path, attributes: &[String], rows: &Rows) -> Result<Vec<Rating>> {
    let mut ratings = Vec::new();
    for (place, object) in JsonLines::open(path)?.enumerate() {
        let (line, object) = object?;
        let fail = |problem: String| Error::data_line(path, line, problem);
        let row = if object.contains_key("row") {
            rows.response(&object, "row").map_err(fail)?
        } else if place < rows.responses {
            place
        } else {
            let problem = format!("there are only {} rows of embeddings", rows.responses);
            return Err(fail(problem));
        };
        let value = |name: &String| {
            let value = object
                .get(name)
                .ok_or_else(|| fail(format!("`{name}` is missing")))?;
            let number = value.as_f64();
            number.ok_or_else(|| fail(format!("`{name}` is {value}, not a number")))
        };
        ratings.push(Rating {
            row,
            values: attributes.iter().map(value).collect::<Result<_>>()?,
            held_out: held_out(&object).map_err(fail)?,
        });
    }
    not_empty(path, ratings)
}

fn held_out(object: &Map<String, Value>) -> Result<Option<bool>, String> {
    match object.get("split").map(Value::as_str) {
        None => Ok(None),
        Some(Some("train")) => Ok(Some(false)),
        Some(Some("validation")) => Ok(Some(true)),
        Some(_) => Err("`split` is neither `train` nor `validation`".to_owned()),
    }
}

fn not_empty<T>(path: &Path, rows: Vec<T>) -> Result<Vec<T>> {
    if rows.is_empty() {
        return Err(Error::data(path, "there are no rows in it"));
    }
    Ok(rows)
}
