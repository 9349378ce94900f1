//! Files and folders that are whole or not there: written beside their place, synced, renamed; paths that stay valid.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Lets `write` fill a temporary file beside `path`, syncs it and renames it over `path`: a reader sees the old
/// file or the new one, never a part.
///
/// # Errors
/// Whatever `write` returns, or the system's refusal; the temporary file is removed and the old file stays.
pub fn replace_file(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let partial = beside(path, "partial");
    let replaced = write(&partial).and_then(|()| {
        let sync = File::open(&partial).and_then(|file| file.sync_all());
        sync.and_then(|()| fs::rename(&partial, path))
            .map_err(|source| Error::io("write", path, source))
    });
    if replaced.is_err() {
        // The error to report is the first one.
        let _ = fs::remove_file(&partial);
    }
    replaced
}

/// Writes a whole file as [`replace_file`] does.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_file(path, |partial| {
        fs::write(partial, bytes).map_err(|source| Error::io("write", path, source))
    })
}

/// Lets `fill` write into an empty folder beside `path` and then puts it in the place of `path`.
///
/// The swap is two renames; [`recover_folder`] mends a kill between them.
///
/// # Errors
/// Whatever `fill` returns, or the system's refusal; the old folder stays.
pub fn replace_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let partial = beside(path, "partial");
    let old = beside(path, "old");
    let remove = |folder: &Path| match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", folder, source))
        }
        _ => Ok(()),
    };
    remove(&partial)?;
    fs::create_dir_all(&partial).map_err(|source| Error::io("create", &partial, source))?;
    if let Err(error) = fill(&partial) {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    remove(&old)?;
    if path.exists() {
        fs::rename(path, &old).map_err(|source| Error::io("write", path, source))?;
    }
    fs::rename(&partial, path).map_err(|source| Error::io("write", path, source))?;
    remove(&old)
}

/// Puts the old folder back where a kill fell between the two renames of [`replace_folder`], and removes it where
/// the kill came after both.
pub fn recover_folder(path: &Path) -> Result<()> {
    let old = beside(path, "old");
    if !old.exists() {
        return Ok(());
    }
    if path.exists() {
        fs::remove_dir_all(&old).map_err(|source| Error::io("remove", &old, source))
    } else {
        fs::rename(&old, path).map_err(|source| Error::io("write", path, source))
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    path.with_file_name(name)
}

/// Files from this size on are linked rather than copied.
const LARGE: u64 = 1 << 20;

/// Puts the file `from` at `to`: a hard link if it is large and on the same file system, else a copy. Small files
/// are always copied, because they are what people edit in place.
pub fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    // A link to a symbolic link (the hub cache is made of them) would dangle.
    let real = fs::canonicalize(from).map_err(|source| Error::io("read", from, source))?;
    let size = fs::metadata(&real).map_err(|source| Error::io("read", from, source))?;
    if size.len() >= LARGE && fs::hard_link(&real, to).is_ok() {
        return Ok(());
    }
    // Not `fs::copy`: a read-only original would give a copy that cannot be edited either.
    let mut reader = File::open(&real).map_err(|source| Error::io("read", from, source))?;
    let copied = File::create(to).and_then(|mut writer| io::copy(&mut reader, &mut writer));
    copied
        .map(drop)
        .map_err(|source| Error::io("write", to, source))
}

/// A path that stays valid where another process starts from another folder.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
