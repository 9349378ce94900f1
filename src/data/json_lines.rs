//! Files of JSON objects, one a line, read one at a time; compressed ones (`.gz`) as they are.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The objects of a file with their line numbers, from 1. Blank lines and a byte order mark are skipped.
///
/// A line that is no JSON object is an error that names it, and so is a number that JSON has not (NaN, infinity).
pub struct JsonLines {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    line: usize,
    text: Vec<u8>,
}

impl JsonLines {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
        let plain = BufReader::new(file);
        let compressed = path
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
        Ok(Self {
            path: path.to_owned(),
            reader: if compressed {
                Box::new(BufReader::new(MultiGzDecoder::new(plain)))
            } else {
                Box::new(plain)
            },
            line: 0,
            text: Vec::new(),
        })
    }
}

impl Iterator for JsonLines {
    type Item = Result<(usize, Map<String, Value>)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.text.clear();
            self.line += 1;
            match self.reader.read_until(b'\n', &mut self.text) {
                Err(source) => return Some(Err(Error::io("read", &self.path, source))),
                Ok(0) => return None,
                Ok(_) => {}
            }
            let text = self
                .text
                .strip_prefix(b"\xef\xbb\xbf")
                .unwrap_or(&self.text);
            if text.trim_ascii().is_empty() {
                continue;
            }
            let line = self.line;
            let object = serde_json::from_slice(text.trim_ascii_end()).map_err(|error| {
                // Of the one line that the parser sees, it is the first.
                let problem = error.to_string().replace(" at line 1 column", " at column");
                Error::data_line(&self.path, line, format!("not a JSON object: {problem}"))
                    .with_hint("each line is one JSON object; NaN and infinity are not JSON")
            });
            return Some(object.map(|object| (line, object)));
        }
    }
}

/// The text under `key`, a number as it is written; else why there is none.
pub fn text_of(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.trim().to_owned()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(other) => Err(format!("`{key}` is neither text nor a number: {other}")),
        None => Err(format!("`{key}` is missing")),
    }
}
