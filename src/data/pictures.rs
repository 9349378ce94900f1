//! Where the images of preferences are, files or cells of Parquet tables, and how they are read: a batch at a time, in
//! parallel.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use parquet::record::{Field, Row};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::photo::{self, Photo};
use super::text::parquet_records;
use crate::error::{Error, Result};

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A cell of a Parquet table that holds an image file's content.
    Cell {
        /// The table.
        table: PathBuf,
        /// Row, from 0.
        row: usize,
        /// Column.
        column: String,
        /// Hash of the content.
        sha256: [u8; 32],
    },
}

impl Source {
    /// The image's name in errors: its path, or that of its table with the place.
    pub fn name(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Cell {
                table, row, column, ..
            } => format!("{}, row {}, {column}", table.display(), row + 1).into(),
        }
    }

    /// Why the image cannot be read, in a form that is counted with its like.
    pub fn broken(&self, error: &Error) -> String {
        let (error, name) = (error.to_string(), self.name().display().to_string());
        let problem = error.strip_prefix(&format!("`{name}`: ")).unwrap_or(&error);
        format!("the image \"{name}\" cannot be read: {problem}")
    }
}

/// The content of a cell of a column of images.
pub(super) enum Cell {
    /// An image file's content, by its hash.
    Content([u8; 32]),
    /// The name of a file.
    File(String),
    /// Nothing.
    Empty,
}

/// The cells of a row that hold images: bytes that are no text, or the hub's `bytes` with `path`.
pub(super) fn cells(row: &Row) -> HashMap<String, Cell> {
    let cell = |field: &Field| match field {
        // Columns of text are bytes too where their writer does not say that they are text.
        Field::Bytes(bytes) if is_text(bytes.data()) => None,
        Field::Bytes(bytes) => Some(of_bytes(bytes.data())),
        Field::Group(image) => {
            let part = |name: &str| {
                let mut parts = image.get_column_iter();
                parts
                    .find(|(known, _)| *known == name)
                    .map(|(_, part)| part)
            };
            match (part("bytes")?, part("path")) {
                (Field::Bytes(bytes), _) => Some(of_bytes(bytes.data())),
                (_, Some(Field::Str(path))) => Some(Cell::File(path.clone())),
                _ => Some(Cell::Empty),
            }
        }
        _ => None,
    };
    let named = row.get_column_iter();
    let found = named.filter_map(|(name, field)| Some((name.clone(), cell(field)?)));
    found.collect()
}

fn is_text(bytes: &[u8]) -> bool {
    !bytes.is_empty() && !photo::is_readable(bytes) && std::str::from_utf8(bytes).is_ok()
}

fn of_bytes(bytes: &[u8]) -> Cell {
    if bytes.is_empty() {
        Cell::Empty
    } else {
        Cell::Content(Sha256::digest(bytes).into())
    }
}

/// The content of an image in a cell: bytes, or the `bytes` of the hub's images.
///
/// # Errors
/// The column is not there, or holds something else.
fn content<'a>(row: &'a Row, column: &str) -> Result<&'a [u8], String> {
    let field = row.get_column_iter().find(|(name, _)| *name == column);
    match field.map(|(_, field)| field) {
        Some(Field::Bytes(bytes)) => Ok(bytes.data()),
        Some(Field::Group(group)) => content(group, "bytes"),
        Some(_) => Err(format!("`{column}` is no image's content")),
        None => Err(format!("`{column}` is missing")),
    }
}

/// Decodes images in their order, `size` at a time; those of one table are in the order of its rows.
///
/// # Errors
/// Each batch: a table that has changed. Each image: it cannot be read (see [`photo::load`]).
pub fn decoded(
    sources: &[Source],
    size: usize,
) -> impl Iterator<Item = Result<Vec<Result<Photo>>>> {
    let mut table = None;
    sources.chunks(size).map(move |batch| {
        let found = batch.iter().map(|source| match source {
            Source::File(_) => Ok(None),
            Source::Cell {
                table: path,
                row,
                column,
                ..
            } => cell(&mut table, path, *row, column).map(Some),
        });
        let found = found.collect::<Result<Vec<Option<Vec<u8>>>>>()?;
        Ok(batch
            .par_iter()
            .zip(found)
            .map(|(source, content)| {
                let path = source.name();
                let image = match content {
                    Some(content) => photo::decode(&content, &path)?,
                    None => photo::load(&path)?,
                };
                Ok(Photo { path, image })
            })
            .collect())
    })
}

/// A table that is being read.
struct Table {
    path: PathBuf,
    rows: Box<dyn Iterator<Item = Result<Row>>>,
    /// The last row that was read.
    row: Option<(usize, Row)>,
}

impl Table {
    fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            rows: Box::new(parquet_records(path)?),
            row: None,
        })
    }
}

/// The content of a cell, which is not before the last one that was asked for of its table.
fn cell(open: &mut Option<Table>, table: &Path, row: usize, column: &str) -> Result<Vec<u8>> {
    let passed =
        |open: &Table| open.path != table || open.row.as_ref().is_some_and(|last| last.0 > row);
    if open.as_ref().is_none_or(passed) {
        *open = Some(Table::open(table)?);
    }
    let changed = || Error::data(table, "has fewer rows than before: it has changed");
    let open = open.as_mut().ok_or_else(changed)?;
    while open.row.as_ref().is_none_or(|last| last.0 < row) {
        let next = open.row.as_ref().map_or(0, |last| last.0 + 1);
        let read = open.rows.next().ok_or_else(changed)??;
        open.row = Some((next, read));
    }
    let (_, found) = open.row.as_ref().ok_or_else(changed)?;
    let content = content(found, column);
    content
        .map(<[u8]>::to_vec)
        .map_err(|problem| Error::data(table, format!("row {}: {problem}", row + 1)))
}
