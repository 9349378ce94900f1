//! Which answers are right, and how sure of them somebody was: tables of `item`, `correct` and scores.

use std::collections::HashMap;
use std::path::Path;

use crate::data::table::Table;
use crate::error::{Error, Result};

/// A table of answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// The questions that were answered, each once.
    pub items: Vec<String>,
    /// `true` where the answer is right. `[items]`
    pub correct: Vec<bool>,
    /// Confidences by the name of their column. `[scores][items]`
    pub scores: Vec<(String, Vec<f64>)>,
}

impl Answers {
    /// Reads a `.csv`, `.tsv` or `.jsonl` file with the columns `item` and `correct` (true, false, 1, 0) and these
    /// columns of scores; with none named, all others that hold numbers in every row.
    ///
    /// # Errors
    /// With the line: a value that is not of its kind, an item twice.
    pub fn read(path: &Path, scores: Option<&[String]>) -> Result<Self> {
        let table = Table::read(path)?;
        let (item, correct) = (table.column(path, "item")?, table.column(path, "correct")?);
        let numbers: Vec<usize> = match scores {
            Some(names) => {
                let places = names.iter().map(|name| table.column(path, name));
                places.collect::<Result<_>>()?
            }
            None => (0..table.columns.len())
                .filter(|&place| place != item && place != correct)
                .filter(|&place| {
                    table
                        .rows
                        .iter()
                        .all(|row| number(row.cells[place].as_deref()).is_some())
                })
                .collect(),
        };
        let mut answers = Self {
            items: Vec::with_capacity(table.rows.len()),
            correct: Vec::with_capacity(table.rows.len()),
            scores: numbers
                .iter()
                .map(|&place| (table.columns[place].clone(), Vec::new()))
                .collect(),
        };
        let mut lines: HashMap<String, usize> = HashMap::new();
        for row in &table.rows {
            let fail = |problem: String| Error::data_line(path, row.line, problem);
            let cell = |place: usize| row.cells[place].as_deref().unwrap_or_default();
            let name = cell(item).to_owned();
            if name.is_empty() {
                return Err(fail("`item` is empty".to_owned()));
            }
            if lines.insert(name.clone(), row.line).is_some() {
                return Err(fail(format!("`{name}` occurs twice")));
            }
            answers.items.push(name);
            answers
                .correct
                .push(match cell(correct).to_ascii_lowercase().as_str() {
                    "1" | "true" => true,
                    "0" | "false" => false,
                    text => {
                        return Err(fail(format!(
                            "`{text}` in column `correct` is not one of true, false, 1, 0"
                        )));
                    }
                });
            for (&place, (name, values)) in numbers.iter().zip(&mut answers.scores) {
                values.push(number(row.cells[place].as_deref()).ok_or_else(|| {
                    fail(format!(
                        "`{}` in column `{name}` is not a number",
                        cell(place)
                    ))
                })?);
            }
        }
        if answers.items.is_empty() {
            return Err(Error::data(path, "there are no answers in it"));
        }
        Ok(answers)
    }

    /// For each of `items`, `true` if it was answered rightly. Other rows of the table do not matter.
    ///
    /// # Errors
    /// There is no row for one of them.
    pub fn correct_of(&self, path: &Path, items: &[String]) -> Result<Vec<bool>> {
        let places = self.items.iter().zip(&self.correct);
        let known: HashMap<&String, bool> =
            places.map(|(item, correct)| (item, *correct)).collect();
        let answer = |item: &String| {
            known
                .get(item)
                .copied()
                .ok_or_else(|| Error::data(path, format!("no row for the item `{item}`")))
        };
        items.iter().map(answer).collect()
    }
}

fn number(cell: Option<&str>) -> Option<f64> {
    let value: f64 = cell?.parse().ok()?;
    value.is_finite().then_some(value)
}
