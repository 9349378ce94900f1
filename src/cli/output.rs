//! `println!` and `eprintln!` of the command line. A reader that has gone (`| head`, a closed terminal)
//! ends the output, not the work, and is no fault; a full disk under a redirected result is one, and is reported
//! when the verb is done. The macros of the standard library panic in both cases. What a terminal would obey and not show
//! is escaped: names, texts and messages come from files of any origin.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::reading;
use crate::error::{Error, Result, printable};

/// Why a result could not be written.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Text on stdout.
pub(super) fn result(text: Arguments) {
    reading::clear();
    note_failure(io::stdout().lock().write_all(shown(text).as_bytes()));
}

/// Text on stderr. What cannot be said there cannot be said at all.
pub(super) fn message(text: Arguments) {
    reading::clear();
    let _ = io::stderr().lock().write_all(shown(text).as_bytes());
}

fn shown(text: Arguments) -> String {
    let text = text.to_string();
    match printable(&text) {
        Cow::Owned(escaped) => escaped,
        Cow::Borrowed(_) => text,
    }
}

/// A result for programs: JSON on stdout.
pub(super) fn print_json(value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    result(format_args!("{text}\n"));
}

/// Success if all results were written.
///
/// # Errors
/// The system's first refusal, a closed pipe left out.
pub(super) fn finish() -> Result<()> {
    note_failure(io::stdout().flush());
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    match failed.take() {
        Some(source) => Err(Error::io("write", "standard output", source)),
        None => Ok(()),
    }
}

fn note_failure(written: io::Result<()>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert(error);
    }
}

/// Refuses a file of `flag` whose folder is not there, before work that it could not keep.
///
/// # Errors
/// There is no such folder.
pub(super) fn check_folder_of(file: &Path, flag: &str) -> Result<()> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(Error::data(folder, format!("no such folder for `{flag}`"))
                .with_hint("create it first"))
        }
        _ => Ok(()),
    }
}
