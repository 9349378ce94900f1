//! The folder that an export goes to: what is in the way stays, unless it is an earlier export and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tch::Kind;

use crate::error::{Error, Result};
use crate::files::{place_folder, read_text, write_atomically};
use crate::hub::repository_and_commit;

/// Marks a folder as an export, says where it comes from and which files it has.
const RECORD: &str = "export.json";

/// Where an export goes, and in which number type.
#[derive(Clone, Debug)]
pub struct Target {
    /// The folder to create.
    pub folder: PathBuf,
    /// Number type of the weights; `None` takes the usual one: f16 in kohya and single files, else as they are stored.
    pub kind: Option<Kind>,
    /// `true` if an earlier export in `folder` may be replaced.
    pub force: bool,
}

impl Target {
    /// Refuses a folder that holds anything but an earlier export that may be replaced.
    ///
    /// # Errors
    /// There are other files, be it beside those of an export.
    pub fn refuse_occupied(&self) -> Result<()> {
        let out = &self.folder;
        let occupied = match fs::read_dir(out) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::io("read", out, error)),
        };
        if !occupied {
            return Ok(());
        }
        let other = |message: String| {
            Err(Error::data(out, message).with_hint(
                "choose another folder; `--force` replaces only what `preftune export` made",
            ))
        };
        let Some(own) = recorded(out) else {
            return other("exists and holds other files than an export".to_owned());
        };
        if let Some(file) = files(out, out)?
            .into_iter()
            .find(|file| !own.contains(file))
        {
            return other(format!("holds `{file}`, which is not of the export"));
        }
        if !self.force {
            return Err(Error::data(out, "holds an export already")
                .with_hint("choose another folder, or replace it with `--force`"));
        }
        Ok(())
    }

    /// Lets `fill` write the export of `source` and its record beside the folder and puts them in place.
    ///
    /// # Errors
    /// The folder is in the way, or lies where it must not; whatever `fill` returns.
    pub(super) fn fill(
        &self,
        source: &Path,
        base: &Path,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let out = &self.folder;
        refuse_overlap(out, source, base)?;
        self.refuse_occupied()?;
        place_folder(&real(out), |folder| {
            fill(folder)?;
            let record = json!({
                "preftune": env!("CARGO_PKG_VERSION"),
                "source": source,
                "base_model": base,
                "files": files(folder, folder)?,
            });
            write_atomically(&folder.join(RECORD), format!("{record:#}\n").as_bytes())
        })
    }
}

/// The files of the export in a folder, by its record; `None` where there is none of ours.
fn recorded(folder: &Path) -> Option<BTreeSet<String>> {
    let text = read_text(&folder.join(RECORD)).ok()?;
    let record: Value = serde_json::from_str(&text).ok()?;
    let is_text = |key: &str| record[key].is_string();
    if !["preftune", "source", "base_model"]
        .into_iter()
        .all(is_text)
    {
        return None;
    }
    let listed = record["files"].as_array()?.iter();
    let listed: Option<BTreeSet<String>> =
        listed.map(|file| Some(file.as_str()?.to_owned())).collect();
    let mut files = listed?;
    files.insert(RECORD.to_owned());
    Some(files)
}

/// Files below a folder, links not followed, by the paths below `root`.
fn files(root: &Path, folder: &Path) -> Result<BTreeSet<String>> {
    let failed = |source| Error::io("read", folder, source);
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if entry.file_type().map_err(failed)?.is_dir() {
            found.extend(files(root, &path)?);
        } else {
            let name = path.strip_prefix(root).unwrap_or(&path);
            found.insert(name.to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

/// The base model must never be written to, and nothing that is read may lie in a folder that is replaced.
fn refuse_overlap(out: &Path, source: &Path, base: &Path) -> Result<()> {
    let out_real = real(out);
    let message = if out_real.starts_with(real(base)) {
        "lies in the base model's folder"
    } else if [base, source]
        .iter()
        .any(|path| real(path).starts_with(&out_real))
    {
        "holds what is to be exported"
    } else {
        return Ok(());
    };
    Err(Error::data(out, message).with_hint("choose another folder with `--out`"))
}

/// The path without symbolic links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (
        fs::canonicalize(&absolute),
        absolute.parent(),
        absolute.file_name(),
    ) {
        (Ok(real), _, _) => real,
        (Err(_), Some(parent), Some(name)) => real(parent).join(name),
        _ => absolute,
    }
}

/// The last part of a folder's path, as a name for people.
pub fn name_of(folder: &Path) -> String {
    let in_cache = repository_and_commit(folder);
    let folder = in_cache.map_or_else(|| real(folder), |(repository, _)| PathBuf::from(repository));
    let name = folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "model".to_owned())
}
