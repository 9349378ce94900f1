//! Files that are whole or not there: written beside their place, synced, renamed.

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};

/// Lets `write` fill a temporary file beside `path`, syncs it and renames it over `path`: a reader sees the old
/// file or the new one, never a part.
///
/// # Errors
/// Whatever `write` returns, or the system's refusal; the temporary file is removed and the old file stays.
pub fn replace_file(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let replaced = write(&partial).and_then(|()| {
        let sync = File::open(&partial).and_then(|file| file.sync_all());
        sync.and_then(|()| std::fs::rename(&partial, path))
            .map_err(|source| Error::io("write", path, source))
    });
    if replaced.is_err() {
        // The error to report is the first one.
        let _ = std::fs::remove_file(&partial);
    }
    replaced
}

/// Writes a whole file as [`replace_file`] does.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_file(path, |partial| {
        std::fs::write(partial, bytes).map_err(|source| Error::io("write", path, source))
    })
}
