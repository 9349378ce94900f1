//! Files of JSON lines that grow as work is done, so that what a kill has not reached is not done again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// A growing file.
pub struct Rows {
    path: PathBuf,
    file: File,
}

impl Rows {
    /// Opens a file and reads its rows, of which those that do not make a whole batch of `batch` are dropped, as is a last
    /// line that was cut off; `total` rows are always whole.
    ///
    /// # Errors
    /// It cannot be read or written, or a row is not one.
    pub fn open<T: DeserializeOwned>(
        path: &Path,
        batch: usize,
        total: usize,
    ) -> Result<(Self, Vec<T>)> {
        let text = match std::fs::read(path) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            text => text.map_err(|source| Error::io("read", path, source))?,
        };
        let whole: Vec<&[u8]> = text
            .split_inclusive(|byte| *byte == b'\n')
            .filter(|line| line.ends_with(b"\n"))
            .collect();
        let count = if whole.len() >= total {
            total
        } else {
            whole.len() / batch * batch
        };
        let rows = whole[..count].iter().enumerate().map(|(place, line)| {
            serde_json::from_slice(line).map_err(|error| {
                Error::data_line(path, place + 1, format!("not a row of this run: {error}"))
                    .with_hint("remove the file: its rows will be made again")
            })
        });
        let rows = rows.collect::<Result<_>>()?;
        let length: usize = whole[..count].iter().map(|line| line.len()).sum();
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file
            .and_then(|file| file.set_len(length as u64).map(|()| file))
            .map_err(|source| Error::io("write", path, source))?;
        let path = path.to_owned();
        Ok((Self { path, file }, rows))
    }

    /// Adds rows.
    pub fn add(&mut self, rows: &[impl Serialize]) -> Result<()> {
        let text: String = rows
            .iter()
            .map(|row| serde_json::to_string(row).unwrap_or_default() + "\n")
            .collect();
        self.file
            .write_all(text.as_bytes())
            .map_err(|source| Error::io("write", &self.path, source))
    }
}
