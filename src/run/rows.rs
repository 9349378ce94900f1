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
    /// Bytes of the whole rows.
    length: u64,
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
        let opened = Self::open_keeping(path, |whole| {
            if whole >= total {
                total
            } else {
                whole / batch * batch
            }
        });
        opened.map_err(|error| match error {
            error @ Error::Data { .. } => {
                error.with_hint("remove the file: its rows will be made again")
            }
            error => error,
        })
    }

    /// As [`Self::open`], of rows that nobody can make again: of all lines that are whole every one must be a row.
    ///
    /// # Errors
    /// As there.
    pub fn open_all<T: DeserializeOwned>(path: &Path) -> Result<(Self, Vec<T>)> {
        Self::open_keeping(path, |whole| whole)
    }

    /// Keeps as many of the whole lines as `keep` says.
    fn open_keeping<T: DeserializeOwned>(
        path: &Path,
        keep: impl Fn(usize) -> usize,
    ) -> Result<(Self, Vec<T>)> {
        let text = match std::fs::read(path) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            text => text.map_err(|source| Error::io("read", path, source))?,
        };
        let whole: Vec<&[u8]> = text
            .split_inclusive(|byte| *byte == b'\n')
            .filter(|line| line.ends_with(b"\n"))
            .collect();
        let kept = &whole[..keep(whole.len())];
        let rows = kept.iter().enumerate().map(|(place, line)| {
            serde_json::from_slice(line).map_err(|error| {
                Error::data_line(path, place + 1, format!("not a row of this run: {error}"))
            })
        });
        let rows = rows.collect::<Result<_>>()?;
        let length = kept.iter().map(|line| line.len() as u64).sum();
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file
            .and_then(|file| file.set_len(length).map(|()| file))
            .map_err(|source| Error::io("write", path, source))?;
        let path = path.to_owned();
        Ok((Self { path, file, length }, rows))
    }

    /// Adds rows. Where that fails none of them stays, so that a later row does not follow half of one.
    pub fn add(&mut self, rows: &[impl Serialize]) -> Result<()> {
        let text: String = rows
            .iter()
            .map(|row| serde_json::to_string(row).unwrap_or_default() + "\n")
            .collect();
        let written = self.file.write_all(text.as_bytes());
        self.settle(written, text.len() as u64)
    }

    /// As [`Self::add`], and returns once the disk has the row.
    pub fn add_durably(&mut self, row: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(row).unwrap_or_default() + "\n";
        let written = self.file.write_all(text.as_bytes());
        let written = written.and_then(|()| self.file.sync_data());
        self.settle(written, text.len() as u64)
    }

    fn settle(&mut self, written: io::Result<()>, bytes: u64) -> Result<()> {
        if let Err(source) = written {
            // The first error is the one to report.
            let _ = self.file.set_len(self.length);
            return Err(Error::io("write", &self.path, source));
        }
        self.length += bytes;
        Ok(())
    }
}
