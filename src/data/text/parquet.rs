//! Rows of Parquet files, as the hub stores data sets.

use std::fs::File;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row as Record};
use serde_json::{Map, Value};

use super::rows::Row;
use crate::error::{Error, Result};

/// All rows of a file.
///
/// # Errors
/// As [`records`] and [`columns`].
pub(super) fn read(path: &Path) -> Result<Vec<Row>> {
    let all = records(path)?.enumerate();
    all.map(|(place, record)| {
        Ok(Row::numbered(
            place + 1,
            columns(path, place, &record?, &[])?,
        ))
    })
    .collect()
}

/// Whether a file has a column of this name.
///
/// # Errors
/// Not a Parquet file.
pub(in crate::data) fn has_column(path: &Path, name: &str) -> Result<bool> {
    let reader = open(path)?;
    let fields = reader.metadata().file_metadata().schema().get_fields();
    Ok(fields.iter().any(|field| field.name() == name))
}

/// The rows of a file one after the other; a row group at most is in memory.
///
/// # Errors
/// Not a Parquet file, or a codec that is not built in (snappy and zstd are).
pub(in crate::data) fn records(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Record>> + use<>> {
    let path = path.to_owned();
    let rows = open(&path)?.into_iter();
    Ok(rows.map(move |row| row.map_err(|error| broken(&path, &error))))
}

/// The columns of the row at `place` (from 0) as JSON, `without` some.
///
/// # Errors
/// A number that is not finite.
pub(in crate::data) fn columns(
    path: &Path,
    place: usize,
    row: &Record,
    without: &[&str],
) -> Result<Map<String, Value>> {
    let mut columns = Map::new();
    for (name, field) in row.get_column_iter() {
        if without.contains(&name.as_str()) {
            continue;
        }
        // JSON would turn it into null, which means that there is nothing.
        let finite = match field {
            Field::Float(number) => number.is_finite(),
            Field::Double(number) => number.is_finite(),
            _ => true,
        };
        if !finite {
            let problem = format!(
                "row {}: `{name}` is {field}, not a finite number",
                place + 1
            );
            return Err(Error::data(path, problem));
        }
        columns.insert(name.clone(), field.to_json_value());
    }
    Ok(columns)
}

fn open(path: &Path) -> Result<SerializedFileReader<File>> {
    let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    SerializedFileReader::new(file).map_err(|error| broken(path, &error))
}

fn broken(path: &Path, error: &parquet::errors::ParquetError) -> Error {
    Error::data(path, format!("not a readable Parquet file: {error}"))
}
