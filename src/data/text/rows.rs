//! Files of named columns, row by row with their places: JSON lines, a JSON array, Parquet, comma- or tab-separated text,
//! or a folder of these.

use std::cell::Cell;
use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::parquet;
use crate::data::cells::{delimiter, told_delimiter};
use crate::data::columns::Columns;
use crate::data::json_lines::{self, JsonLines, LONGEST, ON_ONE_LINE};
use crate::data::left_out::{Place, shown};
use crate::data::table::csv_error;
use crate::error::{Error, Result};

/// One row of a file.
pub(in crate::data) struct Row {
    pub(in crate::data) place: Place,
    pub(in crate::data) columns: Columns,
    /// `true` if the name of its file says that it is held out; else `None`.
    pub(super) held_out: Option<bool>,
}

impl Row {
    /// A row of a file that has no lines.
    pub(super) fn numbered(path: &Path, number: usize, columns: impl Into<Columns>) -> Self {
        Self::at(path, number, false, columns)
    }

    fn at(path: &Path, number: usize, is_line: bool, columns: impl Into<Columns>) -> Self {
        Self {
            place: Place {
                file: path.to_owned(),
                number,
                is_line,
            },
            columns: columns.into(),
            held_out: None,
        }
    }
}

/// The kinds of files by the ends of their names.
const KINDS: [(&str, Kind); 7] = [
    ("jsonl", Kind::Json),
    ("ndjson", Kind::Json),
    ("json", Kind::Json),
    ("gz", Kind::Json),
    ("parquet", Kind::Parquet),
    ("csv", Kind::Delimited),
    ("tsv", Kind::Delimited),
];

#[derive(Clone, Copy)]
enum Kind {
    Json,
    Parquet,
    Delimited,
}

fn kind(path: &Path) -> Option<Kind> {
    let ending = path.extension()?.to_str()?.to_lowercase();
    let known = KINDS.iter().find(|(known, _)| *known == ending);
    known.map(|(_, kind)| *kind)
}

/// `true` if a file is one of rows by its name.
pub(super) fn is_known(path: &Path) -> bool {
    kind(path).is_some()
}

/// The files of rows that `path` stands for: itself or, of a folder, those in it or in its folder `data`, by name.
///
/// # Errors
/// There is nothing of this name, or the folder has no such files.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        let there = fs::metadata(path).map_err(|source| not_there(path, source));
        return there.map(|_| vec![path.to_owned()]);
    }
    for folder in [path.to_owned(), path.join("data")] {
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let file = entry
                .map_err(|source| Error::io("read", &folder, source))?
                .path();
            let hidden = file
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden && is_known(&file) && file.is_file() {
                files.push(file);
            }
        }
        // The hub's data sets describe themselves beside their rows.
        files.retain(|file| {
            let name = file.file_name().unwrap_or_default();
            name != "dataset_infos.json" && name != "dataset_info.json" && name != "state.json"
        });
        files.sort();
        if !files.is_empty() {
            return Ok(files);
        }
    }
    let error = Error::data(path, "there are no files of rows in this folder");
    Err(match snapshot(path) {
        Some(snapshot) => error.with_hint(format!(
            "it is the root of a cache; the files are in `{}`",
            snapshot.display()
        )),
        None => error.with_hint(KNOWN),
    })
}

/// A snapshot in the root of a cache of the hub (`datasets--org--name`).
fn snapshot(root: &Path) -> Option<PathBuf> {
    let mut snapshots = fs::read_dir(root.join("snapshots")).ok()?;
    Some(snapshots.next()?.ok()?.path())
}

/// That there is no such file; a name of the hub is told apart.
fn not_there(path: &Path, source: io::Error) -> Error {
    let parts: Vec<_> = path.components().collect();
    let of_the_hub = parts.len() == 2 && path.is_relative() && path.extension().is_none();
    let error = Error::io("read", path, source);
    if !of_the_hub {
        return error;
    }
    error
        .with_hint("a data set of the hub is not fetched: download it and name its folder or files")
}

const KNOWN: &str = "known are `.jsonl` (one object a line) and `.json` (an array of objects), both also with `.gz`, \
                     `.parquet`, `.csv` and `.tsv`, and folders of these";

/// All rows of a file, or of the files of a folder.
///
/// # Errors
/// With the file and the line where there is one: it is not of its kind.
pub(in crate::data) fn read(path: &Path) -> Result<Vec<Row>> {
    let files = files(path)?;
    let several = files.len() > 1;
    let mut all = Vec::new();
    for file in files {
        // A name can be wrong.
        let kind = if parquet::is_parquet(&file) {
            Some(Kind::Parquet)
        } else {
            kind(&file)
        };
        let mut rows = match kind {
            Some(Kind::Json) => json(&file)?,
            Some(Kind::Parquet) => parquet::read(&file)?,
            Some(Kind::Delimited) => delimited(&file)?,
            None => {
                return Err(Error::data(&file, "not a file of a known kind").with_hint(KNOWN));
            }
        };
        if several {
            let held_out = is_held_out(&file);
            for row in &mut rows {
                row.held_out = held_out;
            }
        }
        all.extend(rows);
    }
    Ok(all)
}

/// `true` if a shard is one of those that are not learnt from, by its name (`test-00000-of-00001.parquet`); else
/// `None`.
fn is_held_out(file: &Path) -> Option<bool> {
    let name = file.file_stem()?.to_str()?.to_lowercase();
    let first = name.split(['-', '_', '.']).next()?;
    ["test", "validation", "valid", "val", "dev", "eval"]
        .contains(&first)
        .then_some(true)
}

/// An array of objects, or one object a line.
fn json(path: &Path) -> Result<Vec<Row>> {
    let mut reader = json_lines::bytes(path)?;
    let inner = if json_lines::is_compressed(path) {
        path.with_extension("")
    } else {
        path.to_owned()
    };
    let of_an_array = inner
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    match first_letter(&mut reader).map_err(|source| json_lines::unreadable(path, source))? {
        Some(b'{') => {}
        Some(b'[') if of_an_array => return array(path, reader),
        _ if !of_an_array => {}
        None => return Ok(Vec::new()),
        Some(_) => return Err(no_array(path, 1, "it begins with neither `[` nor `{`")),
    }
    let rows = JsonLines::new(path, reader).map(|row| {
        let (line, columns) = row?;
        Ok(Row::at(path, line, true, columns))
    });
    let rows: Result<Vec<Row>> = rows.collect();
    if let Ok([row]) = rows.as_deref() {
        let columns = &row.columns;
        let named = columns.names();
        let named = named.filter_map(|name| Some((name, columns.peek(name)?)));
        if let Some(error) = json_lines::no_row(path, named) {
            return Err(error);
        }
    }
    match rows {
        Err(Error::Hinted { source, .. }) if of_an_array => {
            let line = match *source {
                Error::Data { line, .. } => line.unwrap_or(1),
                other => return Err(other),
            };
            let problem = "it begins with an object, but is not one object a line";
            Err(no_array(path, line, problem).with_hint(ON_ONE_LINE))
        }
        rows => rows,
    }
}

fn no_array(path: &Path, line: usize, problem: &str) -> Error {
    Error::data_line(
        path,
        line,
        format!("not an array of JSON objects: {problem}"),
    )
    .with_hint("name a file with one object a line `.jsonl`")
}

/// The first letter of a text, which is not taken out; a byte order mark before it is.
fn first_letter(reader: &mut dyn BufRead) -> io::Result<Option<u8>> {
    if reader.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    // Blank lines are left in place, for lines are numbered.
    let head = reader.fill_buf()?;
    Ok(head
        .iter()
        .find(|letter| !letter.is_ascii_whitespace())
        .copied())
}

/// Bytes of which only so many may be read before they are granted anew.
struct Rationed<R> {
    inner: R,
    left: Rc<Cell<usize>>,
}

impl<R: Read> Read for Rationed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::other("too long"));
        }
        let most = buffer.len().min(left);
        let read = self.inner.read(&mut buffer[..most])?;
        self.left.set(left - read);
        Ok(read)
    }
}

/// Takes the rows of an array one by one.
struct Rows<'a> {
    path: &'a Path,
    left: Rc<Cell<usize>>,
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = Result<Vec<Row>>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut rows = Vec::new();
        while let Some(value) = array.next_element()? {
            self.left.set(LONGEST);
            let number = rows.len() + 1;
            match value {
                Value::Object(columns) => rows.push(Row::numbered(self.path, number, columns)),
                other => {
                    let problem = format!("row {number}: {} is no object", shown(&other));
                    // The rest is read all the same, for the parser looks for its end.
                    while array.next_element::<serde::de::IgnoredAny>()?.is_some() {
                        self.left.set(LONGEST);
                    }
                    return Ok(Err(Error::data(self.path, problem)));
                }
            }
        }
        Ok(Ok(rows))
    }
}

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = Result<Vec<Row>>;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_seq(self)
    }
}

fn array(path: &Path, reader: Box<dyn BufRead>) -> Result<Vec<Row>> {
    let left = Rc::new(Cell::new(LONGEST));
    let rationed = Rationed {
        inner: reader,
        left: Rc::clone(&left),
    };
    let mut parser = serde_json::Deserializer::from_reader(rationed);
    let of_each = Rows {
        path,
        left: Rc::clone(&left),
    };
    let rows = of_each.deserialize(&mut parser);
    let rows = rows.and_then(|rows| parser.end().map(|()| rows));
    rows.map_err(|error| {
        if error.is_io() && left.get() == 0 {
            return Error::data(path, format!("a row is longer than {} MiB", LONGEST >> 20));
        }
        if error.is_io() {
            return json_lines::unreadable(path, io::Error::from(error));
        }
        no_array(path, error.line().max(1), &error.to_string())
    })?
}

/// Rows of text whose first one names the columns; an empty cell holds nothing.
fn delimited(path: &Path) -> Result<Vec<Row>> {
    let first_line = |file: &mut BufReader<fs::File>| {
        let mut first = Vec::new();
        file.take(LONGEST as u64)
            .read_until(b'\n', &mut first)
            .map_err(|source| Error::io("read", path, source))?;
        Ok::<_, Error>(first)
    };
    let open = || crate::files::open(path).map(BufReader::new);
    let mut first = first_line(&mut open()?)?;
    if first.starts_with(&[0xff, 0xfe]) || first.starts_with(&[0xfe, 0xff]) {
        return Err(Error::data(path, "text in UTF-16").with_hint("save it as UTF-8"));
    }
    let mut file = open()?;
    let told = told_delimiter(&first);
    if told.is_some() {
        // Another line than that of the names.
        first = first_line(&mut file)?;
    }
    // Of lines that end in CR LF the parser counts the second letter to the next line.
    let before = usize::from(told.is_some()) + usize::from(first.ends_with(b"\r\n"));
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(told.unwrap_or_else(|| delimiter(path, &first)))
        .from_reader(file);
    let header = reader
        .headers()
        .map_err(|error| csv_error(path, error, before))?;
    let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    // Spreadsheets leave empty columns behind.
    let is_twice =
        |&place: &usize| !names[place].is_empty() && names[..place].contains(&names[place]);
    if let Some(twice) = (1..names.len()).find(is_twice) {
        let problem = format!("column `{}` occurs twice", names[twice]);
        return Err(Error::data_line(path, 1, problem));
    }
    let rows = reader.records().map(|record| {
        let record = record.map_err(|error| csv_error(path, error, before))?;
        let line = record.position().map_or(0, csv::Position::line) as usize + before;
        let cells = names.iter().zip(&record).map(|(name, cell)| {
            let value = if cell.is_empty() {
                Value::Null
            } else {
                Value::String(cell.to_owned())
            };
            (name.clone(), value)
        });
        Ok(Row::at(path, line, true, cells.collect::<Map<_, _>>()))
    });
    rows.collect()
}
