//! Which items are right answers: a table of `item` and `correct`, to judge strengths as confidences.

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, Result};

/// Reads a `.csv` with the columns `item` and `correct` (true, false, 1, 0), one row for each of `items` at least.
/// `[items]`
///
/// An error names the line of an unusable value, an item twice, or an item that is missing.
pub fn read(path: &Path, items: &[String]) -> Result<Vec<bool>> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(path)
        .map_err(|error| super::read::csv_error(path, error))?;
    let headers = reader
        .headers()
        .map_err(|error| super::read::csv_error(path, error))?
        .clone();
    let column = |name: &str| {
        headers
            .iter()
            .position(|header| header == name)
            .ok_or_else(|| Error::data(path, format!("no column `{name}`")))
    };
    let (item_column, correct_column) = (column("item")?, column("correct")?);
    let mut answers: HashMap<String, bool> = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(|error| super::read::csv_error(path, error))?;
        let line = record.position().map_or(0, csv::Position::line) as usize;
        let text = &record[correct_column];
        let correct = match text.to_ascii_lowercase().as_str() {
            "1" | "true" => true,
            "0" | "false" => false,
            _ => {
                return Err(Error::data_line(
                    path,
                    line,
                    format!("`{text}` in column `correct` is not one of true, false, 1, 0"),
                ));
            }
        };
        let item = record[item_column].to_owned();
        if answers.contains_key(&item) {
            return Err(Error::data_line(
                path,
                line,
                format!("`{item}` occurs twice"),
            ));
        }
        answers.insert(item, correct);
    }
    let answer = |item: &String| {
        answers
            .get(item)
            .copied()
            .ok_or_else(|| Error::data(path, format!("no row for the item `{item}`")))
    };
    items.iter().map(answer).collect()
}
