//! Reads comparisons from CSV, TSV or JSON lines, one row at a time.

use std::fs::File;
use std::path::Path;

use super::columns::{Columns, Named};
use super::comparisons::{Builder, Comparisons, Keep};
use crate::data::json_lines::{JsonLines, text_of};
use crate::data::table::csv_error;
use crate::error::{Error, Result};

/// Reads all comparisons of a `.csv`, `.tsv` or `.jsonl` file.
///
/// An error names the line: an outcome that is not one, an item against itself, an empty name, a weight that is not
/// a positive number, a row of another length, text that is not UTF-8. A file without comparisons, with a column
/// twice, or with nothing but ties is refused too.
pub fn read(path: &Path, named: &Named, keep: Keep) -> Result<Comparisons> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let comparisons = match extension.map(str::to_lowercase).as_deref() {
        Some("csv") => delimited(path, b',', named, keep)?,
        Some("tsv") => delimited(path, b'\t', named, keep)?,
        Some("jsonl" | "ndjson") => json_lines(path, named, keep)?,
        _ => {
            return Err(Error::data(
                path,
                "comparisons are read from .csv, .tsv and .jsonl files",
            )
            .with_hint("rename the file by what is in it"));
        }
    };
    comparisons.refuse_empty(path)?;
    Ok(comparisons)
}

fn delimited(path: &Path, delimiter: u8, named: &Named, keep: Keep) -> Result<Comparisons> {
    let file = File::open(path).map_err(|error| Error::io("read", path, error))?;
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(file);
    let headers: Vec<String> = reader
        .headers()
        .map_err(|error| csv_error(path, error))?
        .iter()
        .map(|header| header.trim().to_owned())
        .collect();
    if headers.iter().all(String::is_empty) {
        return Err(Error::data(path, "the file is empty"));
    }
    let columns = Columns::find(path, &headers, named)?;
    let position = |name: &str| headers.iter().position(|header| header == name);
    let left = position(&columns.left).unwrap_or_default();
    let right = position(&columns.right).unwrap_or_default();
    let winner = columns.winner.as_deref().and_then(position);
    let weight = columns.weight.as_deref().and_then(position);
    let group = columns.group.as_deref().and_then(position);
    let mut builder = Builder::new(keep);
    let mut record = csv::StringRecord::new();
    while reader
        .read_record(&mut record)
        .map_err(|error| csv_error(path, error))?
    {
        let line = record.position().map_or(0, csv::Position::line) as usize;
        let cell = |column: usize| record.get(column).unwrap_or_default().trim();
        let row = Row {
            left: cell(left),
            right: cell(right),
            winner: winner.map(cell),
            weight: weight.map(cell),
            group: group.map(cell),
        };
        row.add(&columns, &mut builder)
            .map_err(|problem| Error::data_line(path, line, problem))?;
    }
    Ok(builder.finish(columns))
}

fn json_lines(path: &Path, named: &Named, keep: Keep) -> Result<Comparisons> {
    let mut builder = Builder::new(keep);
    let mut columns: Option<Columns> = None;
    for row in JsonLines::open(path)? {
        let (line, object) = row?;
        let fail = |problem: String| Error::data_line(path, line, problem);
        if columns.is_none() {
            let keys: Vec<String> = object.keys().cloned().collect();
            columns = Some(Columns::find(path, &keys, named)?);
        }
        let Some(columns) = &columns else { continue };
        let text = |key: &str| text_of(&object, key).map_err(fail);
        let optional = |key: &Option<String>| key.as_deref().map(text).transpose();
        let (left, right) = (text(&columns.left)?, text(&columns.right)?);
        let winner = optional(&columns.winner)?;
        let weight = optional(&columns.weight)?;
        let group = optional(&columns.group)?;
        let row = Row {
            left: &left,
            right: &right,
            winner: winner.as_deref(),
            weight: weight.as_deref(),
            group: group.as_deref(),
        };
        row.add(columns, &mut builder).map_err(fail)?;
    }
    match columns {
        Some(columns) => Ok(builder.finish(columns)),
        None => Err(Error::data(path, "the file is empty")),
    }
}

struct Row<'a> {
    left: &'a str,
    right: &'a str,
    winner: Option<&'a str>,
    weight: Option<&'a str>,
    group: Option<&'a str>,
}

impl Row<'_> {
    fn add(&self, columns: &Columns, builder: &mut Builder) -> Result<(), String> {
        let (left, right) = (self.left, self.right);
        for (name, column) in [(left, &columns.left), (right, &columns.right)] {
            if name.is_empty() {
                return Err(format!("column `{column}` is empty"));
            }
        }
        if left == right {
            return Err(format!("`{left}` is compared with itself"));
        }
        let outcome = match self.winner {
            Some(value) => columns.outcome(value, left, right)?,
            None => super::Outcome::Left,
        };
        let weight = match self.weight {
            Some(text) => text
                .parse()
                .ok()
                .filter(|weight: &f64| weight.is_finite() && *weight > 0.0)
                .ok_or_else(|| format!("weight `{text}` is not a positive number"))?,
            None => 1.0,
        };
        builder.add(left, right, outcome, weight, self.group);
        Ok(())
    }
}
