//! What `println!` and `eprintln!` mean in the command line. A reader that has gone (`| head`, a closed terminal)
//! ends the output, not the work, and is no fault; a full disk under a redirected result is one, and is reported
//! when the verb is done. The macros of the standard library panic in both cases.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write as _};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// Why a result could not be written.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Text on stdout.
pub(super) fn result(text: Arguments) {
    note_failure(io::stdout().lock().write_fmt(text));
}

/// Text on stderr. What cannot be said there cannot be said at all.
pub(super) fn message(text: Arguments) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// Whether all results were written.
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
