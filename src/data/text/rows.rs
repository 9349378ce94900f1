//! Files of named columns: JSON lines, one JSON array or Parquet, row by row with their numbers.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde_json::{Map, Value};

use super::parquet;
use crate::data::json_lines::JsonLines;
use crate::error::{Error, Result};

/// One row of a file.
pub(in crate::data) struct Row {
    /// Its line in the file or, of an array, its place, from 1.
    pub(super) number: usize,
    pub(in crate::data) columns: Map<String, Value>,
    /// Whether `number` is a line.
    lines: bool,
}

impl Row {
    /// A row of a file that has no lines.
    pub(super) fn numbered(number: usize, columns: Map<String, Value>) -> Self {
        Self {
            number,
            columns,
            lines: false,
        }
    }

    /// Where it is in `path`.
    pub(in crate::data) fn place(&self, path: &Path) -> String {
        let of = if self.lines { "line" } else { "row" };
        format!("`{}`, {of} {}", path.display(), self.number)
    }

    /// What is wrong with this row of `path`.
    pub(in crate::data) fn error(&self, path: &Path, problem: &str) -> Error {
        if self.lines {
            Error::data_line(path, self.number, problem)
        } else {
            Error::data(path, format!("row {}: {problem}", self.number))
        }
    }
}

fn ending(path: &Path) -> Option<String> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.map(str::to_lowercase)
}

/// Whether a file is one of rows by its name.
pub(super) fn is_known(path: &Path) -> bool {
    let known = ["jsonl", "ndjson", "gz", "json", "parquet"];
    ending(path).is_some_and(|ending| known.contains(&ending.as_str()))
}

/// All rows of a file.
pub(in crate::data) fn read(path: &Path) -> Result<Vec<Row>> {
    match ending(path).as_deref() {
        Some("jsonl" | "ndjson" | "gz") => JsonLines::open(path)?
            .map(|row| {
                let (number, columns) = row?;
                Ok(Row {
                    number,
                    columns,
                    lines: true,
                })
            })
            .collect(),
        Some("json") => array(path),
        Some("parquet") => parquet::read(path),
        _ => Err(Error::data(path, "not a file of a known kind")
            .with_hint("known are `.jsonl` (one object a line, also `.jsonl.gz`), `.json` (an array of objects) and `.parquet`")),
    }
}

fn array(path: &Path) -> Result<Vec<Row>> {
    let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    let rows: Vec<Value> = serde_json::from_reader(BufReader::new(file)).map_err(|error| {
        let line = error.line().max(1);
        Error::data_line(path, line, format!("not an array of JSON objects: {error}"))
            .with_hint("name a file with one object a line `.jsonl`")
    })?;
    let row = |(place, value)| match value {
        Value::Object(columns) => Ok(Row::numbered(place + 1, columns)),
        other => Err(Error::data(
            path,
            format!("row {}: {other} is no object", place + 1),
        )),
    };
    rows.into_iter().enumerate().map(row).collect()
}
