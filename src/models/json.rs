//! Reads the JSON files of a Hugging Face folder. Unknown keys are ignored and an explicit `null` means the
//! default: published configurations carry hundreds of keys that change nothing here.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::recognize::refuse_stand_in;
use super::single_file;
use crate::error::{Error, Result};
use crate::files::{read_text, write_atomically};

/// Largest file that is read. Values take up to forty times the room of their text.
const MOST_BYTES: u64 = 64 << 20;

/// The object in the file at `path`, without its null entries. Python writes an infinite bound as `-Infinity`,
/// which JSON has not; no bound is what null means too.
///
/// # Errors
/// The file cannot be read, is not JSON, or holds something else than an object.
pub fn read_object(path: &Path) -> Result<Map<String, Value>> {
    read_object_as_written(path).map(without_nulls)
}

/// As [`read_object`], with the null entries: in a few keys of language models null and absent differ.
pub fn read_object_as_written(path: &Path) -> Result<Map<String, Value>> {
    if let Some(settings) = single_file::settings(path)? {
        return Ok(settings);
    }
    let size = std::fs::metadata(path).map_or(0, |file| file.len());
    if size > MOST_BYTES {
        let message = format!("has {} MB, which no configuration has", size / 1_000_000);
        return Err(Error::weights(path, message));
    }
    let text = read_text(path)?;
    let text = text.replace(": -Infinity", ": null");
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::weights(path, "must hold a JSON object")),
        Err(error) => {
            refuse_stand_in(path)?;
            Err(Error::weights(path, format!("not JSON: {error}")))
        }
    }
}

/// As [`read_object`]; empty where there is no such file.
pub fn read_object_if_there(path: &Path) -> Result<Map<String, Value>> {
    if single_file::is_there(path) {
        read_object(path)
    } else {
        Ok(Map::new())
    }
}

/// Copies a file of a model's folder; the settings of a model in one file are written out.
///
/// # Errors
/// It cannot be read, or `to` cannot be written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    match single_file::settings(from)? {
        Some(settings) => {
            let text = format!("{:#}\n", Value::Object(settings));
            write_atomically(to, text.as_bytes())
        }
        None => std::fs::copy(from, to)
            .map(drop)
            .map_err(|source| Error::io("write", to, source)),
    }
}

/// The object as a typed configuration; `path` is for the message.
///
/// # Errors
/// A key has a value of the wrong type.
pub fn parse<T: DeserializeOwned>(path: &Path, object: Map<String, Value>) -> Result<T> {
    serde_json::from_value(Value::Object(object))
        .map_err(|error| Error::weights(path, error.to_string()))
}

/// The object under `key` without its null entries; `None` where there is none.
pub fn section(object: &Map<String, Value>, key: &str) -> Option<Map<String, Value>> {
    object
        .get(key)
        .and_then(Value::as_object)
        .map(|section| without_nulls(section.clone()))
}

fn without_nulls(object: Map<String, Value>) -> Map<String, Value> {
    object
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .collect()
}
