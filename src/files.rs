//! Files and folders that are whole or not there: written beside their place, synced, renamed; paths that stay valid, and
//! those that a file may name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::path::{Component, Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};

/// Lets `write` fill a temporary file beside `path`, syncs it and renames it over `path`: a reader sees the old
/// file or the new one, never a part.
///
/// # Errors
/// Whatever `write` returns, or the system's refusal; the temporary file is removed and the old file stays.
pub fn replace_file(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let partial = beside(path, "partial");
    // In a folder from elsewhere it may be a link, which would be written through.
    if fs::symlink_metadata(&partial).is_ok_and(|file| !file.is_dir()) {
        fs::remove_file(&partial).map_err(|source| Error::io("remove", &partial, source))?;
    }
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

/// Writes a value as JSON for people and programs, as [`replace_file`] does.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    write_atomically(path, (text + "\n").as_bytes())
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

/// As [`replace_folder`], for a folder that the user names: what is written lies in hidden folders of our own name
/// meanwhile, so that nothing of the user's that stands beside it (`NAME.old`, `NAME.partial`) is in the way.
///
/// # Errors
/// As [`replace_folder`].
pub fn place_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|source| Error::io("create", parent, source))?;
    let partial = new_folder_beside(path)?;
    if let Err(error) = fill(&partial) {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    let failed = |source| Error::io("write", path, source);
    let old = if path.exists() {
        let old = new_folder_beside(path)?;
        // A rename goes over an empty folder.
        fs::rename(path, &old).map_err(failed)?;
        Some(old)
    } else {
        None
    };
    match (fs::rename(&partial, path).map_err(failed), old) {
        (Err(error), Some(old)) => {
            let _ = fs::rename(&old, path);
            Err(error)
        }
        (Ok(()), Some(old)) => {
            fs::remove_dir_all(&old).map_err(|source| Error::io("remove", &old, source))
        }
        (placed, None) => placed,
    }
}

/// An empty folder that was not there before.
fn new_folder_beside(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let process = std::process::id();
    let mut number = 0;
    loop {
        let folder = path.with_file_name(format!(".{name}.preftune-{process}-{number}"));
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(source) => return Err(Error::io("create", &folder, source)),
        }
    }
}

/// Copies the file `from` to `to`, where nothing may be yet. Never a link: a copy may be edited without a change to the
/// original. File systems that share blocks between copies (btrfs, XFS) do so here too.
///
/// # Errors
/// Either cannot be opened, something is at `to`, or the disk is full.
pub fn copy_new(from: &Path, to: &Path) -> Result<()> {
    let mut reader = open(from)?;
    // Not `fs::copy`: a read-only original would give a copy that cannot be edited either.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(to)
        .and_then(|mut writer| io::copy(&mut reader, &mut writer))
        .map(drop)
        .map_err(|source| Error::io("write", to, source))
}

/// Opens a file, which may come from anywhere, to read it from its beginning. A pipe would be waited for and a device read
/// without end; the pipes that a shell hands over by a name of its own (`<(...)`) are meant.
///
/// # Errors
/// There is none, it is a folder, a pipe, a device or a socket, or it is a git-lfs pointer.
pub fn open(path: &Path) -> Result<File> {
    let failed = |source| Error::io("read", path, source);
    let kind = fs::metadata(path).map_err(failed)?.file_type();
    if !kind.is_file() {
        let handed_over = ["/dev/fd", "/dev/stdin", "/proc/self/fd"];
        let handed_over = handed_over.iter().any(|place| path.starts_with(place));
        if kind.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        if handed_over {
            return File::open(path).map_err(failed);
        }
        let message = "is a pipe, a device or a socket, where a file is needed";
        return Err(Error::data(path, message));
    }
    let mut file = File::open(path).map_err(failed)?;
    let mut head = Vec::new();
    let read = (&mut file)
        .take(POINTER.len() as u64)
        .read_to_end(&mut head);
    read.and_then(|_| file.rewind()).map_err(failed)?;
    refuse_pointer(path, &head)?;
    Ok(file)
}

/// The content of a file as [`open`] opens it.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?
        .read_to_end(&mut bytes)
        .map_err(|source| Error::io("read", path, source))?;
    Ok(bytes)
}

/// The text in a file as [`open`] opens it.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = read(path)?;
    refuse_parquet(path, &bytes, "text")?;
    String::from_utf8(bytes).map_err(|_| {
        let source = io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8");
        Error::io("read", path, source)
    })
}

/// As [`read_text`]; `None` where there is no such file.
pub fn read_text_if_there(path: &Path) -> Result<Option<String>> {
    match fs::metadata(path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        _ => read_text(path).map(Some),
    }
}

/// `true` of a name that stands in a file if it is that of something directly in a folder: one part, neither `.` nor `..`, and
/// the same on every system.
pub fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
    one && !name.contains(['/', '\\', '\0'])
}

/// Refuses a link below `root` that leads out of it, whose content would otherwise be taken along with a copy. The hub's
/// cache keeps the files of all its models apart from their folders: links into it are its own.
///
/// # Errors
/// The link leads elsewhere, to a folder, or to nothing.
pub fn refuse_link_out(root: &Path, path: &Path) -> Result<()> {
    let failed = |source| Error::io("read", path, source);
    if !fs::symlink_metadata(path).map_err(failed)?.is_symlink() {
        return Ok(());
    }
    let target = fs::canonicalize(path).map_err(failed)?;
    let own = fs::canonicalize(root).map_err(|source| Error::io("read", root, source))?;
    let problem = if target.is_dir() {
        "is a link to a folder"
    } else if target.starts_with(own) || is_in_cache(&target) {
        return Ok(());
    } else {
        "is a link to a file outside the model's folder"
    };
    Err(Error::data(path, format!("{problem}, `{}`", target.display())).with_hint(
        "nothing outside the model's folder is copied: put what the link leads to in its place if it belongs there",
    ))
}

/// `true` of a file of the hub's cache, which keeps the files of all models and data sets apart from their folders.
fn is_in_cache(target: &Path) -> bool {
    let mut above = target.ancestors().skip(1).map(|folder| {
        let name = folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    });
    above.next().is_some_and(|name| name == "blobs")
        && above
            .next()
            .is_some_and(|name| name.starts_with("models--") || name.starts_with("datasets--"))
}

/// `true` if what is at `path` lies elsewhere than below `root` once links are followed; links into the hub's cache are its
/// own.
pub fn is_link_out(root: &Path, path: &Path) -> bool {
    let root = if root.as_os_str().is_empty() {
        Path::new(".")
    } else {
        root
    };
    match (fs::canonicalize(root), fs::canonicalize(path)) {
        (Ok(root), Ok(target)) => !target.starts_with(root) && !is_in_cache(&target),
        _ => true,
    }
}

/// The path that `name`, which stands in a file, has below `folder`; `None` where it leads out of it.
pub fn inside(folder: &Path, name: &str) -> Option<PathBuf> {
    let path = folder.join(name);
    let is_inside = without_dots(&absolute(&path)).starts_with(without_dots(&absolute(folder)));
    is_inside.then_some(path)
}

/// The path with `..` taken back, as it is written: links are not looked at.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

/// A path that stays valid where another process starts from another folder.
pub fn absolute(path: &Path) -> PathBuf {
    let here = Path::new(".");
    let path = if path.as_os_str().is_empty() {
        here
    } else {
        path
    };
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// `path` as a file in `folder` names it: from there on where it lies below, else absolute.
pub fn below(path: &Path, folder: &Path) -> PathBuf {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let path = absolute(path);
    match path.strip_prefix(absolute(folder)) {
        Ok(below) => below.to_owned(),
        Err(_) => path,
    }
}

/// A path as text, for what can hold nothing else.
///
/// # Errors
/// It is not valid UTF-8.
pub fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::data(path, "the path is not valid UTF-8")
            .with_hint("rename it, or reach it through a symbolic link")
    })
}

/// Words for a git-lfs pointer, which stands for a file that was not downloaded
/// (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>).
pub const POINTER: &str = "a git-lfs pointer, which only names the file that belongs here";
/// Advice to its owner.
pub const POINTER_ADVICE: &str =
    "run `git lfs pull` in its repository, or download the file itself";

/// `true` of a file that begins with `head` and is a git-lfs pointer.
pub fn is_pointer(head: &[u8]) -> bool {
    head.starts_with(b"version https://git-lfs")
}

/// Refuses a file that begins with `head` where that is Parquet, of which the reader wants `what`.
///
/// # Errors
/// It is Parquet.
pub fn refuse_parquet(path: &Path, head: &[u8], what: &str) -> Result<()> {
    if !head.starts_with(b"PAR1") {
        return Ok(());
    }
    let problem = format!("a Parquet file, where {what} is needed");
    Err(Error::data(path, problem).with_hint(
        "write its rows as JSON lines: in pandas `read_parquet(FILE).to_json(OUT, orient=\"records\", lines=True)`",
    ))
}

/// Refuses a file that begins with `head` where that is a git-lfs pointer.
///
/// # Errors
/// It is one.
pub fn refuse_pointer(path: &Path, head: &[u8]) -> Result<()> {
    if is_pointer(head) {
        return Err(Error::data(path, POINTER).with_hint(POINTER_ADVICE));
    }
    Ok(())
}
