//! What a session keeps: a line for every key, in a file that only grows. Taking back is a line too.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::run::rows::Rows;

/// The file in a session's folder.
pub const FILE: &str = "keys.jsonl";

/// What somebody says of two items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The left one is better.
    Left,
    /// The right one is better.
    Right,
    /// Neither is better.
    Tie,
    /// Neither is better, and neither is good.
    BothBad,
    /// Nothing: the pair is not to be asked again.
    Skip,
}

/// A line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Record {
    /// The beginning of a session.
    Session {
        /// Version of the program.
        preftune: String,
        /// Seed of the sides and of the order.
        seed: u64,
    },
    /// A key.
    Choice(Chosen),
    /// A key taken back.
    Undo {
        /// Its number.
        undoes: u64,
        /// Who took it back.
        judge: String,
        /// Seconds since 1970.
        time: u64,
    },
}

/// What was shown and what was said of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Chosen {
    /// Counted over all keys of a session, from 0.
    pub(super) number: u64,
    /// The item that was shown on the left, by its hash.
    pub(super) left: String,
    /// The item that was shown on the right.
    pub(super) right: String,
    /// What was said.
    pub(super) choice: Choice,
    /// Seconds from the moment when both were seen to the key.
    pub(super) seconds: f64,
    /// Who said it.
    pub(super) judge: String,
    /// `true` if the pair came again, with sides exchanged.
    pub(super) repeat: bool,
    /// Seconds since 1970.
    pub(super) time: u64,
    /// Files of the two, for people who read the record.
    pub(super) files: [String; 2],
}

/// Opens the file in `folder` and reads it; a last line that a kill has cut off goes.
///
/// # Errors
/// A line is no record, or the file cannot be written.
pub(super) fn open(folder: &Path) -> Result<(Rows, Vec<Record>)> {
    Rows::open_all(&folder.join(FILE)).map_err(|error| match error {
        error @ Error::Data { .. } => error.with_hint(
            "mend or remove this line; every other line is a key that somebody has pressed",
        ),
        error => error,
    })
}
