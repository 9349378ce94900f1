//! Data that several kinds of run read: objectives, hashes, and what is held out.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::config::{PreferenceSection, StopRule};
use crate::data::text::files_of_rows;
use crate::error::{Error, Result};
use crate::models::weights::hex;
use crate::ops::random::{derive_seed, uniform};
use crate::trainer::objective::Objective;

/// The objective of a configuration.
///
/// # Errors
/// An objective or one of its numbers that does not exist.
pub(crate) fn objective(section: &PreferenceSection) -> Result<Objective> {
    Objective::new(section).map_err(|problems| Error::Config { problems })
}

/// SHA-256 of a file, or of the files of rows in a folder one after the other.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    files_sha256(&files_of_rows(path)?)
}

/// SHA-256 of files one after the other.
pub(crate) fn files_sha256(paths: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    for path in paths {
        let mut file = File::open(path).map_err(|source| Error::io("read", path, source))?;
        io::copy(&mut file, &mut hash).map_err(|source| Error::io("read", path, source))?;
    }
    Ok(hex(&hash.finalize()))
}

/// Training and held-out examples: as the data say, else a share drawn by the seed.
pub(crate) fn split<T>(
    all: Vec<T>,
    says: impl Fn(&T) -> Option<bool>,
    seed: u64,
    share: f64,
) -> (Vec<T>, Vec<T>) {
    let mut place = 0;
    all.into_iter().partition(|example| {
        place += 1;
        !says(example).unwrap_or_else(|| uniform(derive_seed(seed, "held out", &[place])) < share)
    })
}

/// Refuses validations where nothing is held out. `section` is the configuration's section of the data.
///
/// # Errors
/// There is nothing to validate on, and validations are asked for.
pub(crate) fn check_held_out(
    held_out: bool,
    validation: &impl StopRule,
    section: &str,
) -> Result<()> {
    if held_out || validation.every() == 0 {
        return Ok(());
    }
    Err(
        Error::config("nothing is held out for the validations").with_hint(format!(
            "set `{section}.validation_share = 0.1` or `{section}.validation`, or `validation.every = 0` and \
             `validation.patience = 0`"
        )),
    )
}
