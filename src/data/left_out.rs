//! Rows of a file that are not learnt from: counted by reason, with the place of the first of each.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};

/// Share of rows with faults from which on a file is refused: there the reading is wrong, not the rows.
pub const TOO_MANY: f64 = 0.1;
/// Reasons that are told apart; further ones are counted together.
const REASONS: usize = 20;
/// Letters of a value that a message shows.
const SHOWN: usize = 80;

/// How rows with faults can be mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowHint {
    /// In the file, or by `data.columns` of the configuration.
    Columns,
    /// In the file alone.
    Rows,
}

/// Where a row is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its file.
    pub file: PathBuf,
    /// Its line or, of a file without lines, its row, from 1; 0 of a file that is a row by itself.
    pub number: usize,
    /// `true` if `number` is a line.
    pub is_line: bool,
}

impl Place {
    /// A file that is a row by itself.
    pub fn of_file(path: &Path) -> Self {
        Self {
            file: path.to_owned(),
            number: 0,
            is_line: false,
        }
    }

    /// The error that says what is wrong with the row here.
    pub fn error(&self, problem: &str) -> Error {
        if self.number == 0 {
            Error::data(&self.file, problem)
        } else if self.is_line {
            Error::data_line(&self.file, self.number, problem)
        } else {
            Error::data(&self.file, format!("{}: {problem}", self.in_file()))
        }
    }

    fn in_file(&self) -> String {
        let of = if self.is_line { "line" } else { "row" };
        format!("{of} {}", self.number)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "`{}`", self.file.display())?;
        match self.number {
            0 => Ok(()),
            _ => write!(formatter, ", {}", self.in_file()),
        }
    }
}

/// Why some rows are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A sentence without its end, as it is said of the first of them.
    pub reason: String,
    /// How many there are.
    pub rows: usize,
    /// The first of them.
    pub first: Place,
    /// `true` if something is wrong with them; `false` if they are in order and say nothing, as a tie does.
    pub is_fault: bool,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let (rows, reason) = (counted(self.rows, "row"), &self.reason);
        let first = match self.rows {
            1 => "",
            _ => "first: ",
        };
        write!(formatter, "{rows}: {reason} ({first}{})", self.first)
    }
}

/// The rows of one file, or of several, that are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// In the order of their first rows.
    pub reasons: Vec<Reason>,
}

impl LeftOut {
    /// Counts a row with which something is wrong.
    pub fn fault(&mut self, reason: &str, place: Place) {
        self.count(reason, place, true);
    }

    /// Counts a row that is in order and says nothing.
    pub fn says_nothing(&mut self, reason: &str, place: Place) {
        self.count(reason, place, false);
    }

    fn count(&mut self, reason: &str, first: Place, is_fault: bool) {
        let kind = kind(reason);
        let known = self
            .reasons
            .iter_mut()
            .find(|known| known.is_fault == is_fault && self::kind(&known.reason) == kind);
        if let Some(known) = known {
            known.rows += 1;
        } else if self.reasons.len() > REASONS && is_fault {
            // The last one stands for all that are not told apart.
            if let Some(other) = self.reasons.iter_mut().rfind(|other| other.is_fault) {
                "other faults".clone_into(&mut other.reason);
                other.rows += 1;
            }
        } else {
            self.reasons.push(Reason {
                reason: reason.to_owned(),
                rows: 1,
                first,
                is_fault,
            });
        }
    }

    /// Adds those of another file.
    pub fn extend(&mut self, other: &Self) {
        for reason in &other.reasons {
            self.count(&reason.reason, reason.first.clone(), reason.is_fault);
            if let Some(last) = self
                .reasons
                .iter_mut()
                .find(|known| kind(&known.reason) == kind(&reason.reason))
            {
                last.rows += reason.rows - 1;
            }
        }
    }

    /// How many rows have faults.
    pub fn faults(&self) -> usize {
        let faults = self.reasons.iter().filter(|reason| reason.is_fault);
        faults.map(|reason| reason.rows).sum()
    }

    /// How many rows are left out.
    pub fn rows(&self) -> usize {
        self.reasons.iter().map(|reason| reason.rows).sum()
    }

    /// Refuses a file of `rows` rows where [`TOO_MANY`] of them have faults or, where faults are not to be `dropped`, any.
    ///
    /// # Errors
    /// With all reasons and the first row of each.
    pub fn check(&self, path: &Path, rows: usize, dropped: bool, hint: RowHint) -> Result<()> {
        let faults = self.faults();
        if faults == 0 || dropped && (faults as f64) < TOO_MANY * rows as f64 {
            return Ok(());
        }
        let faulty: Vec<&Reason> = self.reasons.iter().filter(|one| one.is_fault).collect();
        let share = if dropped {
            format!(
                "{faults} of {} cannot be used, and a tenth is too many to go on without them",
                counted(rows, "row")
            )
        } else {
            format!("{faults} of {} cannot be used", counted(rows, "row"))
        };
        let error = match faulty.as_slice() {
            [one] if one.rows == 1 && (rows == 1 || !dropped) => one.first.error(&one.reason),
            [one] => one.first.error(&format!("{}; {share}", one.reason)),
            many => {
                let reasons = many.iter().map(|reason| format!("\n  - {reason}"));
                Error::data(path, format!("{share}:{}", reasons.collect::<String>()))
            }
        };
        let of_names =
            |one: &&Reason| one.reason.contains("prompt") || one.reason.contains("column");
        Err(error.with_hint(match hint {
            RowHint::Columns if faulty.iter().any(of_names) => {
                "mend or remove these rows; where columns have other names, say so: `data.columns = { prompt = \"question\" }`"
            }
            RowHint::Columns | RowHint::Rows => "mend or remove these rows",
        }))
    }
}

/// A number of things in words: "1 file", "2 files".
pub(crate) fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// A reason without the values that it names: digits, and what stands in double quotes.
fn kind(reason: &str) -> String {
    let mut kind = String::new();
    let mut quoted = false;
    for letter in reason.chars() {
        quoted ^= letter == '"';
        let of_number = letter.is_ascii_digit() || letter == '.' || letter == '-';
        if !quoted && !of_number {
            kind.push(letter);
        }
    }
    kind
}

/// A value as a message shows it: no more than its beginning, for an image in base64 may be what it holds.
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        None => text,
        Some((at, _)) => format!("{}... ({} bytes)", &text[..at], text.len()),
    }
}
