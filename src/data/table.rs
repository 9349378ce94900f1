//! Small tables with named columns, read as a whole, as text.

use std::path::Path;

use super::cells::{Place, Rows, visit};
use crate::error::{Error, Result};

/// A table as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns, in the order of the file.
    pub columns: Vec<String>,
    /// Cells by column; none where JSON holds something else than text, a number, true or false.
    pub rows: Vec<Row>,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Line in the file, or place of a row in a file without lines, from 1.
    pub line: usize,
    /// `[columns]`
    pub cells: Vec<Option<String>>,
}

impl Table {
    /// Reads a table of any kind that [`visit`] knows.
    ///
    /// # Errors
    /// As [`visit`]; a row that is none.
    pub fn read(path: &Path) -> Result<Self> {
        let mut whole = Whole {
            path,
            table: Self {
                columns: Vec::new(),
                rows: Vec::new(),
            },
        };
        visit(path, &mut whole)?;
        Ok(whole.table)
    }

    /// Where a column is.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn column(&self, path: &Path, name: &str) -> Result<usize> {
        let place = self.columns.iter().position(|column| column == name);
        place.ok_or_else(|| {
            Error::data(
                path,
                format!("no column `{name}` among {}", self.columns.join(", ")),
            )
        })
    }
}

/// Keeps every cell.
struct Whole<'a> {
    path: &'a Path,
    table: Table,
}

impl Rows for Whole<'_> {
    fn choose(&mut self, names: &[String]) -> Result<Vec<usize>> {
        self.table.columns = names.to_vec();
        Ok((0..names.len()).collect())
    }

    fn row(&mut self, place: Place, cells: Result<&[Option<&str>], String>) -> Result<()> {
        let (Place::Line(line) | Place::Row(line)) = place;
        let cells = cells.map_err(|problem| Error::data_line(self.path, line, problem))?;
        self.table.rows.push(Row {
            line,
            cells: cells.iter().map(|cell| cell.map(str::to_owned)).collect(),
        });
        Ok(())
    }
}

/// The error that the reader of delimited text found, with its line; the reader was not shown the `before` lines above.
pub fn csv_error(path: &Path, error: csv::Error, before: usize) -> Error {
    let line = error
        .position()
        .map(|position| position.line() as usize + before);
    let message = match error.into_kind() {
        csv::ErrorKind::Io(error) => return Error::io("read", path, error),
        csv::ErrorKind::Utf8 { err, .. } => {
            format!("field {} is not UTF-8 text", err.field() + 1)
        }
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => format!("{len} fields in a table of {expected_len} columns"),
        kind => format!("not a table: {kind:?}"),
    };
    Error::Data {
        path: path.to_owned(),
        line,
        message,
    }
}
