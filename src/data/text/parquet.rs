//! Rows of Parquet files, as the hub stores data sets.

use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::file::reader::SerializedFileReader;
use parquet::record::{Field, Row as Record};
use serde_json::{Map, Value};

use super::rows::Row;
use crate::error::{Error, Result};
use crate::files;

/// All rows of a file.
///
/// # Errors
/// As [`records`] and [`columns`].
pub(super) fn read(path: &Path) -> Result<Vec<Row>> {
    let all = records(path)?.enumerate();
    all.map(|(place, record)| {
        let mut columns = columns(path, place, &record?, &[])?;
        columns.values_mut().for_each(without_nulls);
        Ok(Row::numbered(path, place + 1, columns))
    })
    .collect()
}

/// Takes nulls out of messages: a table gives each of them all the fields that any of them has.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(without_nulls),
        Value::Object(fields) => {
            fields.retain(|name, value| name == "content" || !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        _ => {}
    }
}

/// `true` of a file that is Parquet by its content. What is no file can be read but once, and is not looked into.
pub(in crate::data) fn is_parquet(path: &Path) -> bool {
    let mut head = [0; 4];
    let read = |mut file: std::fs::File| file.read_exact(&mut head).is_ok();
    path.is_file() && files::open(path).is_ok_and(read) && head == *b"PAR1"
}

/// The rows of a file one after the other; a row group at most is in memory.
///
/// # Errors
/// Not a Parquet file, or a codec that is not built in (snappy and zstd are).
pub(in crate::data) fn records(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Record>> + use<>> {
    let path = path.to_owned();
    let mut rows = guarded(&path, || open(&path).map(SerializedFileReader::into_iter))?;
    let mut ended = false;
    Ok(std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let row = guarded(&path, || {
            let row = rows.next();
            row.transpose().map_err(|error| broken(&path, &error))
        });
        // What a reader holds after a fault of its own is not known.
        ended = row.is_err();
        row.transpose()
    }))
}

/// Reads by the crate `parquet`, which panics on some damaged files.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        Err(
            Error::data(path, "not a readable Parquet file: it is damaged")
                .with_hint("fetch or write it again"),
        )
    })
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
        let value = guarded(path, || Ok(field.to_json_value()))?;
        columns.insert(name.clone(), value);
    }
    Ok(columns)
}

fn open(path: &Path) -> Result<SerializedFileReader<std::fs::File>> {
    let file = files::open(path)?;
    guarded(path, || {
        SerializedFileReader::new(file).map_err(|error| broken(path, &error))
    })
}

fn broken(path: &Path, error: &parquet::errors::ParquetError) -> Error {
    Error::data(path, format!("not a readable Parquet file: {error}"))
}
