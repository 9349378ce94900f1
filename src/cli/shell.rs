//! Commands for the user to paste, and how a run is stopped from a terminal.

use std::path::Path;

use crate::error::{Error, Result};
use crate::jobs::interrupt::Interrupt;

/// A path or text as one word of a shell's command.
pub(super) fn quote(text: impl AsRef<Path>) -> String {
    let text = text.as_ref().to_string_lossy();
    // Only a NUL cannot be quoted, which no argument has.
    shlex::try_quote(&text).map_or_else(|_| text.to_string(), Into::into)
}

/// Listens to Ctrl-C, SIGTERM and SIGHUP, and answers the first one at once.
///
/// # Errors
/// As [`Interrupt::install`].
pub(super) fn listen() -> Result<Interrupt> {
    Interrupt::install(|| eprintln!("stopping: what is done is saved; once more ends at once"))
}

/// The outcome of a run, an interrupted one with the command that continues it.
pub(super) fn with_command_to_resume<T>(outcome: Result<T>) -> Result<T> {
    outcome.map_err(|error| match error {
        Error::Interrupted { .. } => {
            let command = command_to_resume(std::env::args());
            error.with_hint(format!("continue with `{command}`"))
        }
        error => error,
    })
}

/// The command of these arguments, asking to continue.
fn command_to_resume(arguments: impl Iterator<Item = String>) -> String {
    const RESUME: &str = "--resume";
    let arguments = arguments.skip(1);
    let mut words: Vec<String> = ["preftune".to_owned()]
        .into_iter()
        .chain(arguments.map(quote))
        .collect();
    if !words.iter().any(|word| word == RESUME) {
        words.push(RESUME.to_owned());
    }
    words.join(" ")
}
