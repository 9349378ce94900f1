//! Files of JSON objects, one a line, read one at a time; compressed ones (`.gz`) as they are.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::{refuse_parquet, refuse_pointer};

/// Longest row in bytes. Parsed it takes some twenty times as much; what is longer is no row but a file without line ends.
pub const LONGEST: usize = 32 << 20;

/// The objects of a file with their line numbers, from 1. Blank lines and a byte order mark are skipped.
///
/// A line that is no JSON object is an error that names it, and so is a number that JSON has not (NaN, infinity).
pub struct JsonLines {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    line: usize,
    text: Vec<u8>,
}

/// The bytes of a file, unpacked where its name ends with `.gz`.
///
/// # Errors
/// It cannot be read, or is a git-lfs pointer.
pub(super) fn bytes(path: &Path) -> Result<Box<dyn BufRead>> {
    let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    let mut plain = BufReader::new(file);
    let head = plain
        .fill_buf()
        .map_err(|source| Error::io("read", path, source))?;
    refuse_pointer(path, head)?;
    refuse_parquet(path, head, "a file of one JSON object a line")?;
    Ok(if is_compressed(path) {
        Box::new(BufReader::new(MultiGzDecoder::new(plain)))
    } else {
        Box::new(plain)
    })
}

pub(super) fn is_compressed(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("gz"))
}

/// Why bytes of a file could not be read: the system's refusal, or a compressed file that is damaged.
pub(super) fn unreadable(path: &Path, source: io::Error) -> Error {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    let damaged = [InvalidData, InvalidInput, UnexpectedEof].contains(&source.kind());
    if damaged && is_compressed(path) {
        return Error::data(path, format!("not a readable gzip file: {source}"))
            .with_hint("it is damaged or cut short: fetch it again");
    }
    Error::io("read", path, source)
}

impl JsonLines {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be read, or is a git-lfs pointer.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::new(path, bytes(path)?))
    }

    /// Of an opened file.
    pub(super) fn new(path: &Path, reader: Box<dyn BufRead>) -> Self {
        Self {
            path: path.to_owned(),
            reader,
            line: 0,
            text: Vec::new(),
        }
    }
}

impl Iterator for JsonLines {
    type Item = Result<(usize, Map<String, Value>)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.text.clear();
            self.line += 1;
            let line = self.line;
            let mut reader = (&mut self.reader).take(LONGEST as u64 + 1);
            match reader.read_until(b'\n', &mut self.text) {
                Err(source) => return Some(Err(unreadable(&self.path, source))),
                Ok(0) => return None,
                Ok(length) if length > LONGEST => return Some(Err(too_long(&self.path, line))),
                Ok(_) => {}
            }
            let text = self
                .text
                .strip_prefix(b"\xef\xbb\xbf")
                .unwrap_or(&self.text);
            if text.trim_ascii().is_empty() {
                continue;
            }
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

/// Names under which an object holds the rows of a file.
const WRAPPERS: [&str; 14] = [
    "data",
    "rows",
    "train",
    "validation",
    "test",
    "examples",
    "records",
    "items",
    "instances",
    "samples",
    "dataset",
    "pairs",
    "entries",
    "results",
];

/// The error of an object, all that there is in a file, that is no row but holds the rows; `None` where it may be a row.
pub(super) fn no_row<'v>(
    path: &Path,
    object: impl Iterator<Item = (&'v str, &'v Value)>,
) -> Option<Error> {
    let object: Vec<(&str, &Value)> = object.collect();
    let wrapped = object.iter().find_map(|(name, value)| {
        let first = value.as_array()?.first()?.as_object()?;
        WRAPPERS.contains(name).then_some((name, first))
    });
    if let Some((name, first)) = wrapped {
        let problem = format!("an object that holds the rows in `{name}`, not the rows");
        let within = if first.get("row").is_some_and(Value::is_object) {
            ".row"
        } else {
            ""
        };
        let hint = format!("write the list alone: `jq -c '.{name}[]{within}' FILE > rows.jsonl`");
        return Some(Error::data(path, problem).with_hint(hint));
    }
    let is_column = |value: &Value| match value {
        Value::Object(cells) => cells.contains_key("0"),
        Value::Array(cells) => cells.first().is_some_and(Value::is_string),
        _ => false,
    };
    (object.len() > 1 && object.iter().all(|(_, value)| is_column(value))).then(|| {
        Error::data(path, "an object of columns, not rows").with_hint(
            "write one object a row: in pandas `to_json(FILE, orient=\"records\", lines=True)`",
        )
    })
}

/// How an object that goes over several lines is mended.
pub(super) const ON_ONE_LINE: &str = "write one object a line (`jq -c . FILE`), or an array of objects; where the object holds the rows in a list \
                                      (`{\"data\": [...]}`), write that list alone";

/// That a row is longer than any row is.
pub(super) fn too_long(path: &Path, line: usize) -> Error {
    let problem = format!("longer than {} MiB", LONGEST >> 20);
    Error::data_line(path, line, problem)
        .with_hint("a row is one object: is this a file of one object a line?")
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
