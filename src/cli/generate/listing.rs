//! `metadata.jsonl` beside generated images: a Hugging Face image folder, which `score`, `label` and `train` read.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::{read_text_if_there, write_atomically};

/// The adapters that were laid over the model: their files and strengths, as JSON.
pub(super) const LORAS: &str = "loras";

/// The name of a generated image.
pub(super) fn file_name(index: usize) -> String {
    format!("{index:05}.png")
}

/// The file, a row for each image.
pub(super) struct Listing {
    path: PathBuf,
    file: File,
}

impl Listing {
    /// Opens the file in `folder` for images `0..count`. Rows of other images stay; rows of images that are drawn anew go
    /// before the first one is, so that none ever names another image's prompt.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(super) fn open(folder: &Path, count: usize) -> Result<Self> {
        let path = folder.join("metadata.jsonl");
        let names: HashSet<String> = (0..count).map(file_name).collect();
        let drawn_anew = |line: &str| {
            let row: Value = serde_json::from_str(line).unwrap_or_default();
            row["file_name"]
                .as_str()
                .is_some_and(|name| names.contains(name))
        };
        let text = read_text_if_there(&path)?.unwrap_or_default();
        let kept: String = text
            .lines()
            .filter(|line| !line.trim().is_empty() && !drawn_anew(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        write_atomically(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path);
        let file = file.map_err(|source| Error::io("write", &path, source))?;
        Ok(Self { path, file })
    }

    /// Adds a row for an image that is stored.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn add(&mut self, name: &str, settings: &[(&'static str, String)]) -> Result<()> {
        let mut row = Map::new();
        row.insert("file_name".to_owned(), name.into());
        for (key, value) in settings.iter().filter(|(key, _)| *key != "parameters") {
            let is_text = matches!(*key, "prompt" | "negative_prompt" | "model" | "vae");
            let read = match *key {
                LORAS => serde_json::from_str(value).ok(),
                _ => value.parse().ok().map(Value::Number),
            };
            let read = read.filter(|_| !is_text);
            let value = read.unwrap_or_else(|| Value::String(value.clone()));
            row.insert((*key).to_owned(), value);
        }
        let line = Value::Object(row).to_string() + "\n";
        self.file
            .write_all(line.as_bytes())
            .map_err(|source| Error::io("write", &self.path, source))
    }
}
