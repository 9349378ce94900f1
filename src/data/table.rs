//! Small tables with named columns, from CSV, TSV or JSON lines, as text.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::json_lines::JsonLines;
use crate::error::{Error, Result};

/// A table as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns, in the order of the file.
    pub columns: Vec<String>,
    /// Cells by column; none where a line of JSON lacks it or holds something else than text, a number, true or false.
    pub rows: Vec<Row>,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Line in the file, from 1.
    pub line: usize,
    /// `[columns]`
    pub cells: Vec<Option<String>>,
}

impl Table {
    /// Reads a `.csv`, `.tsv` or `.jsonl` file.
    ///
    /// # Errors
    /// Another ending, text that is not of that form, a column that occurs twice.
    pub fn read(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension.map(str::to_lowercase).as_deref() {
            Some("csv") => Self::delimited(path, b','),
            Some("tsv") => Self::delimited(path, b'\t'),
            Some("jsonl" | "ndjson" | "gz") => Self::json(path),
            _ => Err(
                Error::data(path, "tables are read from .csv, .tsv and .jsonl files")
                    .with_hint("rename the file by what is in it"),
            ),
        }
    }

    fn delimited(path: &Path, delimiter: u8) -> Result<Self> {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .trim(csv::Trim::All)
            .from_path(path)
            .map_err(|error| csv_error(path, error))?;
        let headers = reader.headers().map_err(|error| csv_error(path, error))?;
        let columns: Vec<String> = headers.iter().map(str::to_owned).collect();
        for (number, name) in columns.iter().enumerate() {
            if columns[..number].contains(name) {
                return Err(Error::data_line(
                    path,
                    1,
                    format!("column `{name}` occurs twice"),
                ));
            }
        }
        let rows = reader.records().map(|record| {
            let record = record.map_err(|error| csv_error(path, error))?;
            Ok(Row {
                line: record.position().map_or(0, csv::Position::line) as usize,
                cells: record.iter().map(|cell| Some(cell.to_owned())).collect(),
            })
        });
        Ok(Self {
            rows: rows.collect::<Result<_>>()?,
            columns,
        })
    }

    fn json(path: &Path) -> Result<Self> {
        let mut columns: Vec<String> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut rows = Vec::new();
        for row in JsonLines::open(path)? {
            let (line, object) = row?;
            let mut cells = vec![None; columns.len()];
            for (name, value) in object {
                let place = *places.entry(name).or_insert_with_key(|name| {
                    columns.push(name.clone());
                    columns.len() - 1
                });
                if place >= cells.len() {
                    cells.resize(place + 1, None);
                }
                cells[place] = match value {
                    Value::String(text) => Some(text.trim().to_owned()),
                    Value::Number(number) => Some(number.to_string()),
                    Value::Bool(truth) => Some(truth.to_string()),
                    _ => None,
                };
            }
            rows.push(Row { line, cells });
        }
        for row in &mut rows {
            row.cells.resize(columns.len(), None);
        }
        Ok(Self { columns, rows })
    }

    /// Where a column is.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn column(&self, path: &Path, name: &str) -> Result<usize> {
        let place = self.columns.iter().position(|column| column == name);
        place.ok_or_else(|| {
            Error::data(
                path,
                format!("no column `{name}` among {}", self.columns.join(", ")),
            )
        })
    }
}

/// What the reader of delimited text found, with its line.
pub fn csv_error(path: &Path, error: csv::Error) -> Error {
    let line = error.position().map(|position| position.line() as usize);
    let message = match error.into_kind() {
        csv::ErrorKind::Io(error) => return Error::io("read", path, error),
        csv::ErrorKind::Utf8 { err, .. } => {
            format!("field {} is not UTF-8 text", err.field() + 1)
        }
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => format!("{len} fields in a table of {expected_len} columns"),
        kind => format!("not a table: {kind:?}"),
    };
    Error::Data {
        path: path.to_owned(),
        line,
        message,
    }
}
