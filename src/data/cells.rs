//! Tables of any kind a row at a time, cells as text: text with delimiters, JSON lines, a JSON array, Parquet, and the
//! first three compressed by gzip. What a file is shows its content, not its name.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use parquet::file::reader::SerializedFileReader;
use parquet::record::Field;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::json_lines::{ON_ONE_LINE, no_row};
use super::table::csv_error;
use super::text::parquet_value;
use crate::error::{Error, Result};
use crate::files::refuse_pointer;

/// Bytes that tell what a file is.
const HEAD: u64 = 1 << 16;
/// Longest line of JSON, in bytes.
const LONGEST_LINE: u64 = 1 << 28;
/// JSON objects whose keys are the columns; a key that the first object lacks is often in the second.
const OBJECTS: usize = 100;

/// Where a row is in its file, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a line of text.
    Line(usize),
    /// In a file without lines.
    Row(usize),
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Line(line) => write!(formatter, "line {line}"),
            Self::Row(row) => write!(formatter, "row {row}"),
        }
    }
}

/// A receiver of the rows of a table.
pub trait Rows {
    /// Gets an object before its columns are known and gives the rows that it is; `None` of one that is a row itself.
    fn unfold(&mut self, _object: &Map<String, Value>) -> Option<Vec<Map<String, Value>>> {
        None
    }

    /// Gets the names of all columns and says which are wanted, by their places.
    ///
    /// # Errors
    /// Whatever makes the table useless; nothing more is read of it.
    fn choose(&mut self, names: &[String]) -> Result<Vec<usize>>;

    /// Gets the wanted cells of a row, trimmed, empty where there is nothing, none where a list or an object is; or what
    /// is wrong with a row that is none.
    ///
    /// # Errors
    /// Whatever ends the reading.
    fn row(&mut self, place: Place, cells: Result<&[Option<&str>], String>) -> Result<()>;
}

/// Gives the rows of a table to `rows`, one after the other.
///
/// # Errors
/// The file cannot be read, is empty, is of an unknown kind, or ends in the middle; and what `rows` returns.
pub fn visit(path: &Path, rows: &mut impl Rows) -> Result<()> {
    let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    let mut reader: Box<dyn BufRead> = Box::new(BufReader::new(file));
    let mut head = begin(path, &mut reader)?;
    if head.starts_with(b"PAR1") {
        return parquet_rows(path, rows);
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        let whole = Cursor::new(head).chain(reader);
        reader = Box::new(BufReader::new(MultiGzDecoder::new(whole)));
        head = begin(path, &mut reader)?;
    }
    refuse_other_kinds(path, &head)?;
    let after_mark = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
    let text = after_mark.trim_ascii_start();
    if text.is_empty() {
        return Err(Error::data(path, "the file is empty"));
    }
    let first = text[0];
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or(text);
    let told = told_delimiter(line);
    let delimiter = told.unwrap_or_else(|| delimiter(path, line));
    let before = usize::from(told.is_some()) + usize::from(line.ends_with(b"\r"));
    let mut skipped = head.len() - after_mark.len();
    if told.is_some() {
        let end = head.iter().position(|byte| *byte == b'\n');
        skipped = end.map_or(head.len(), |end| end + 1);
    }
    head.drain(..skipped);
    let whole = Cursor::new(head).chain(reader);
    match first {
        b'{' => json_lines(path, whole, rows),
        b'[' => json_array(path, whole, rows),
        _ => delimited(path, whole, delimiter, before, rows),
    }
}

/// The first bytes of a file.
fn begin(path: &Path, reader: &mut impl Read) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    reader
        .by_ref()
        .take(HEAD)
        .read_to_end(&mut head)
        .map_err(|source| unreadable(path, source))?;
    Ok(head)
}

/// A damaged gzip file is wrong input, a disk that fails is not.
fn unreadable(path: &Path, source: std::io::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    match source.kind() {
        InvalidData | InvalidInput | UnexpectedEof => {
            Error::data(path, format!("damaged or cut short: {source}"))
        }
        _ => Error::io("read", path, source),
    }
}

fn refuse_other_kinds(path: &Path, head: &[u8]) -> Result<()> {
    let refuse = |what: &str, hint: &str| Err(Error::data(path, what).with_hint(hint));
    refuse_pointer(path, head)?;
    if head.starts_with(b"PK\x03\x04") {
        return refuse(
            "a zip archive or an Excel workbook",
            "unpack it, or save the sheet as CSV",
        );
    }
    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        return refuse("text in UTF-16", "save it as UTF-8");
    }
    if head.contains(&0) {
        return refuse(
            "neither text nor Parquet",
            "tables are read from CSV, JSON lines, a JSON array and Parquet",
        );
    }
    Ok(())
}

/// The delimiter in the line before the names by which spreadsheets tell it (`sep=;`).
pub(super) fn told_delimiter(line: &[u8]) -> Option<u8> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    match line.trim_ascii_end() {
        [name @ .., b'=', delimiter] if name.eq_ignore_ascii_case(b"sep") => Some(*delimiter),
        // A tab is space at the end of a line.
        name if name.eq_ignore_ascii_case(b"sep=") && line.contains(&b'\t') => Some(b'\t'),
        _ => None,
    }
}

/// The delimiter that the line of names has most of; by the file's ending where it has none.
pub(super) fn delimiter(path: &Path, line: &[u8]) -> u8 {
    let mut counts = [(b',', 0), (b'\t', 0), (b';', 0), (b'|', 0)];
    let mut quoted = false;
    for byte in line {
        quoted ^= *byte == b'"';
        for (delimiter, count) in &mut counts {
            *count += u32::from(byte == delimiter && !quoted);
        }
    }
    let by_name = match path.extension().and_then(|ending| ending.to_str()) {
        Some("tsv" | "tab") => b'\t',
        _ => b',',
    };
    let of = |wanted: u8| counts.iter().find(|(delimiter, _)| *delimiter == wanted);
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
    if of(by_name).is_none_or(|(_, count)| *count < most) {
        let best = counts.iter().find(|(_, count)| *count == most);
        best.map_or(by_name, |(delimiter, _)| *delimiter)
    } else {
        by_name
    }
}

/// Text whose lines are `before` more than the parser counts: those before it, and one where lines end in CR LF, of which it
/// counts the second letter to the next line.
fn delimited(
    path: &Path,
    text: impl Read,
    delimiter: u8,
    before: usize,
    rows: &mut impl Rows,
) -> Result<()> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(text);
    let headers = reader
        .headers()
        .map_err(|error| csv_error(path, error, before))?;
    let names: Vec<String> = headers.iter().map(|name| name.trim().to_owned()).collect();
    for (number, name) in names.iter().enumerate() {
        // Spreadsheets leave empty columns behind.
        if !name.is_empty() && names[..number].contains(name) {
            let problem = format!("column `{name}` occurs twice");
            return Err(Error::data_line(path, 1, problem)
                .with_hint("the first line names the columns: where it is a row already, put a line of names before it"));
        }
    }
    let chosen = rows.choose(&names)?;
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let line = record.position().map_or(0, csv::Position::line) as usize + before;
                let cell = |column: &usize| Some(record.get(*column).unwrap_or_default().trim());
                let cells: Vec<Option<&str>> = chosen.iter().map(cell).collect();
                rows.row(Place::Line(line), Ok(&cells))?;
            }
            Err(error) if error.is_io_error() => {
                return Err(match error.into_kind() {
                    csv::ErrorKind::Io(source) => unreadable(path, source),
                    kind => Error::data(path, format!("not a table: {kind:?}")),
                });
            }
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line) as usize + before;
                let problem = match csv_error(path, error, before) {
                    Error::Data { message, .. } => message,
                    error => return Err(error),
                };
                rows.row(Place::Line(line), Err(problem))?;
            }
        }
    }
}

/// A row that waits: its place, and its columns or what is wrong with it.
type Waiting = (Place, Result<Map<String, Value>, String>);

/// Rows of JSON objects: the first ones wait until the columns are chosen.
struct Objects<'a, R> {
    rows: &'a mut R,
    waiting: Vec<Waiting>,
    /// Keys of the chosen columns.
    chosen: Option<Vec<String>>,
}

impl<'a, R: Rows> Objects<'a, R> {
    fn new(rows: &'a mut R) -> Self {
        Self {
            rows,
            waiting: Vec::new(),
            chosen: None,
        }
    }

    fn take(&mut self, place: Place, object: Result<Map<String, Value>, String>) -> Result<()> {
        let unfolded = object.as_ref().ok();
        match unfolded.and_then(|object| self.rows.unfold(object)) {
            Some(rows) => rows
                .into_iter()
                .try_for_each(|row| self.take_row(place, Ok(row))),
            None => self.take_row(place, object),
        }
    }

    fn take_row(&mut self, place: Place, object: Result<Map<String, Value>, String>) -> Result<()> {
        if self.chosen.is_some() {
            return self.give(place, object);
        }
        self.waiting.push((place, object));
        if self.waiting.len() >= OBJECTS {
            self.flush()?;
        }
        Ok(())
    }

    /// Refuses an object that is all there is in a file and holds the rows.
    fn refuse_no_row(&self, path: &Path) -> Result<()> {
        let ([(_, Ok(object))], None) = (self.waiting.as_slice(), &self.chosen) else {
            return Ok(());
        };
        let named = object.iter().map(|(name, value)| (name.as_str(), value));
        no_row(path, named).map_or(Ok(()), Err)
    }

    fn flush(&mut self) -> Result<()> {
        let mut names: Vec<String> = Vec::new();
        let objects = self.waiting.iter().filter_map(|(_, row)| row.as_ref().ok());
        for key in objects.flat_map(Map::keys) {
            if !names.contains(key) {
                names.push(key.clone());
            }
        }
        // Of rows that are all broken the first says why.
        if !names.is_empty() {
            let chosen = self.rows.choose(&names)?;
            let keys = chosen.into_iter().map(|column| names[column].clone());
            self.chosen = Some(keys.collect());
        }
        for (place, object) in std::mem::take(&mut self.waiting) {
            self.give(place, object)?;
        }
        Ok(())
    }

    fn give(&mut self, place: Place, object: Result<Map<String, Value>, String>) -> Result<()> {
        let keys = self.chosen.as_deref().unwrap_or_default();
        match object {
            Ok(object) => {
                let cells = keys.iter().map(|key| cell(object.get(key)));
                let cells: Vec<Option<String>> = cells.collect();
                let cells: Vec<Option<&str>> = cells.iter().map(Option::as_deref).collect();
                self.rows.row(place, Ok(&cells))
            }
            Err(problem) => self.rows.row(place, Err(problem)),
        }
    }
}

fn cell(value: Option<&Value>) -> Option<String> {
    match value {
        Some(Value::String(text)) => Some(text.trim().to_owned()),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(Value::Bool(truth)) => Some(truth.to_string()),
        None | Some(Value::Null) => Some(String::new()),
        Some(Value::Array(_) | Value::Object(_)) => None,
    }
}

fn json_lines(path: &Path, mut text: impl BufRead, rows: &mut impl Rows) -> Result<()> {
    let mut objects = Objects::new(rows);
    let mut line = Vec::new();
    let (mut parsed, mut is_cut) = (false, false);
    for number in 1.. {
        line.clear();
        let limited = &mut text.by_ref().take(LONGEST_LINE + 1);
        let read = limited.read_until(b'\n', &mut line);
        match read.map_err(|source| unreadable(path, source))? {
            0 => break,
            length if length as u64 > LONGEST_LINE => {
                let problem = format!("a line of more than {} MiB", LONGEST_LINE >> 20);
                return Err(Error::data_line(path, number, problem));
            }
            _ if line.trim_ascii().is_empty() => continue,
            _ => {}
        }
        let object = serde_json::from_slice(line.trim_ascii_end());
        is_cut |= number == 1 && object.as_ref().is_err_and(serde_json::Error::is_eof);
        parsed |= object.is_ok();
        let object = object.map_err(|error| {
            // Of the one line that the parser sees, it is the first.
            let problem = error.to_string().replace(" at line 1 column", " at column");
            format!("not a JSON object: {problem}")
        });
        objects.take(Place::Line(number), object)?;
    }
    if is_cut && !parsed {
        let problem = "not a JSON object: it goes on after the line, or is cut short";
        return Err(Error::data_line(path, 1, problem).with_hint(ON_ONE_LINE));
    }
    objects.refuse_no_row(path)?;
    objects.flush()
}

fn json_array(path: &Path, text: impl BufRead, rows: &mut impl Rows) -> Result<()> {
    let mut elements = Elements {
        objects: Objects::new(rows),
        failed: None,
    };
    let mut reader = serde_json::Deserializer::from_reader(text);
    let parsed = (&mut elements)
        .deserialize(&mut reader)
        .and_then(|()| reader.end());
    if let Some(error) = elements.failed {
        return Err(error);
    }
    parsed.map_err(|error| {
        let problem = format!("not an array of JSON objects: {error}");
        Error::data_line(path, error.line().max(1), problem)
    })?;
    elements.objects.flush()
}

/// Takes the elements of an array one after the other.
struct Elements<'a, R> {
    objects: Objects<'a, R>,
    /// Why the rest is not read.
    failed: Option<Error>,
}

impl<'de, R: Rows> DeserializeSeed<'de> for &mut Elements<'_, R> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, R: Rows> Visitor<'de> for &mut Elements<'_, R> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let mut number = 0;
        while let Some(element) = elements.next_element::<Value>()? {
            number += 1;
            let object = match element {
                Value::Object(object) => Ok(object),
                _ => Err("not a JSON object".to_owned()),
            };
            if let Err(error) = self.objects.take(Place::Row(number), object) {
                self.failed = Some(error);
                return Err(serde::de::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

fn parquet_rows(path: &Path, rows: &mut impl Rows) -> Result<()> {
    use parquet::file::reader::FileReader as _;
    let broken = |error: parquet::errors::ParquetError| {
        Error::data(path, format!("not a readable Parquet file: {error}"))
    };
    let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let first = reader.get_row_iter(None).map_err(broken)?.next();
    if let Some(first) = first.transpose().map_err(broken)?
        && rows.unfold(&object_of(&first)).is_some()
    {
        let mut objects = Objects::new(rows);
        for (number, row) in reader.into_iter().enumerate() {
            let object = object_of(&row.map_err(broken)?);
            objects.take(Place::Row(number + 1), Ok(object))?;
        }
        return objects.flush();
    }
    let fields = reader.metadata().file_metadata().schema().get_fields();
    let names: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
    let chosen = rows.choose(&names)?;
    for (number, row) in reader.into_iter().enumerate() {
        let row = row.map_err(broken)?;
        let place = Place::Row(number + 1);
        let fields: Vec<&Field> = row.get_column_iter().map(|(_, field)| field).collect();
        let cells = chosen
            .iter()
            .map(|&column| match fields.get(column).copied() {
                None | Some(Field::Null) => Some(String::new()),
                Some(Field::Float(number)) if number.is_nan() => Some(String::new()),
                Some(Field::Double(number)) if number.is_nan() => Some(String::new()),
                // What cannot be read is no text, as a list is none.
                Some(field) => {
                    let value = parquet_value(field).ok();
                    value.and_then(|value| cell(Some(&value)))
                }
            });
        let cells: Vec<Option<String>> = cells.collect();
        let cells: Vec<Option<&str>> = cells.iter().map(Option::as_deref).collect();
        rows.row(place, Ok(&cells))?;
    }
    Ok(())
}

fn object_of(row: &parquet::record::Row) -> Map<String, Value> {
    let columns = row.get_column_iter();
    columns
        .map(|(name, field)| (name.clone(), parquet_value(field).unwrap_or_default()))
        .collect()
}
