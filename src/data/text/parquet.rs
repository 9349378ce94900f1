//! Rows of Parquet files, as the hub stores data sets.

use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::file::reader::SerializedFileReader;
use parquet::record::{Field, Row as Record};
use serde_json::{Number, Value};

use super::rows::Row;
use crate::data::columns::Columns;
use crate::error::{Error, Result};
use crate::files;

/// All rows of a file.
///
/// # Errors
/// As [`records`].
pub(super) fn read(path: &Path) -> Result<Vec<Row>> {
    let all = records(path)?.enumerate();
    all.map(|(place, record)| {
        let columns = columns(path, &record?, &[])?;
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
/// Not a Parquet file, or a codec that is not built in.
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

/// The columns of a row as JSON, `without` some. A cell that cannot be read is a fault of the row where its column is used.
///
/// # Errors
/// The file is damaged.
pub(in crate::data) fn columns(path: &Path, row: &Record, without: &[&str]) -> Result<Columns> {
    let mut columns = Columns::default();
    for (name, field) in row.get_column_iter() {
        if without.contains(&name.as_str()) {
            continue;
        }
        match guarded(path, || Ok(value(field)))? {
            Ok(mut value) => {
                without_nulls(&mut value);
                columns.insert(name, value);
            }
            Err(what) => columns.insert_unreadable(name, &what),
        }
    }
    Ok(columns)
}

/// A cell as JSON; bytes are text, for so writers store it that do not say what it is.
///
/// # Errors
/// What it is: a number that is not finite, for which JSON has no word but null, or bytes that are no text.
pub(in crate::data) fn value(field: &Field) -> Result<Value, String> {
    let number = |number: f64| {
        let finite = Number::from_f64(number).map(Value::Number);
        finite.ok_or_else(|| format!("is {number}, not a finite number"))
    };
    Ok(match field {
        Field::Float16(half) => number(f64::from(*half))?,
        Field::Float(single) => number(f64::from(*single))?,
        Field::Double(double) => number(*double)?,
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => return Err(format!("is {} bytes that are not UTF-8 text", bytes.len())),
        },
        Field::Group(row) => {
            let fields = row.get_column_iter();
            let fields = fields.map(|(name, field)| Ok((name.clone(), value(field)?)));
            Value::Object(fields.collect::<Result<_, String>>()?)
        }
        Field::ListInternal(list) => {
            let elements = list.elements().iter().map(value);
            Value::Array(elements.collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let entries = map.entries().iter().map(|(key, field)| {
                let key = match value(key)? {
                    Value::String(key) => key,
                    key => key.to_string(),
                };
                Ok((key, value(field)?))
            });
            Value::Object(entries.collect::<Result<_, String>>()?)
        }
        other => other.to_json_value(),
    })
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
