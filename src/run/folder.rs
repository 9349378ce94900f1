//! The folder itself: creation, the check that it belongs to this configuration, whole-folder replacement.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::{Table, Value};

use crate::config::{self, Config, ImageRoundsConfig, SubjectConfig};
use crate::error::{Error, Result};
use crate::files::{read_text, write_atomically};

/// Keys that may change between the parts of a resumed run: they do not change what is computed, or only how much.
const FREE_KEYS: &[&str] = &[
    "run.output",
    "run.device",
    "checkpoint.every",
    "checkpoint.keep",
    "rounds.count",
];
/// Keys that may be raised when a run is resumed, also one that is finished: it goes on from where it ended.
const RAISED_KEYS: &[&str] = &["train.steps", "validation.patience"];
/// The files that a start leaves if it got no further than reading its inputs; the next start may be with another
/// configuration.
const UNBEGUN: &[&str] = &[LOCK, "config.toml", "config.toml.partial"];
const LOCK: &str = ".lock";

/// An opened run folder. The lock keeps a second process out until it is dropped. A folder in which the run never began is
/// then removed again.
pub struct RunFolder {
    path: PathBuf,
    /// `true` if this start made the folder, or an earlier one that did not get beyond reading its inputs either.
    own: bool,
    _lock: File,
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if self.own && !holds_files(&self.path) {
            for name in UNBEGUN {
                let _ = fs::remove_file(self.path.join(name));
            }
            // Only an empty folder goes.
            let _ = fs::remove_dir(&self.path);
        }
    }
}

impl RunFolder {
    /// Creates the folder `path` of a run with this configuration, or opens it for resuming.
    ///
    /// # Errors
    /// The folder holds another configuration, a run that `resume` does not ask to continue, or files that are not
    /// a run's; another process works in it; or it cannot be written.
    pub fn create(path: &Path, config: &impl Serialize, resume: bool) -> Result<Self> {
        let path = path.to_owned();
        if path.exists() && !path.is_dir() {
            return Err(
                Error::data(&path, "a file, where the run's folder is to be")
                    .with_hint("choose another `run.output`"),
            );
        }
        let config_file = path.join("config.toml");
        let begun = holds_files(&path);
        if begun && !config_file.exists() {
            return Err(Error::data(&path, "exists and is not a run folder")
                .with_hint("choose another `run.output`"));
        }
        let own = !path.exists() || path.join(LOCK).exists();
        fs::create_dir_all(&path).map_err(|source| Error::io("create", &path, source))?;
        let folder = Self {
            own,
            _lock: lock(&path)?,
            path,
        };
        let table = config::to_table(config)?;
        if begun {
            folder.check(&config_file, &table, resume)?;
        }
        write_atomically(&config_file, table.to_string().as_bytes())?;
        Ok(folder)
    }

    /// Checks that the run in the folder is that of `config` and may be worked on.
    fn check(&self, config_file: &Path, config: &Table, resume: bool) -> Result<()> {
        let there: Table = read_text(config_file)?
            .parse()
            .map_err(|error: toml::de::Error| Error::data(config_file, error.message()))?;
        let differences = differences(&there, config);
        if !differences.is_empty() {
            let message = format!(
                "holds a run with another configuration: {}",
                differences.join("; ")
            );
            let advice = moved(&there, config).unwrap_or_else(|| {
                "choose another `run.output`, or delete the folder if the run is not needed"
                    .to_owned()
            });
            return Err(Error::data(&self.path, message).with_hint(advice));
        }
        if !resume && self.path.join("metrics.jsonl").exists() {
            return Err(
                Error::data(&self.path, "holds a run of this configuration already")
                    .with_hint("continue it with `--resume`, or choose another `run.output`"),
            );
        }
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Refuses to go on where a run's folder is not there any more: what creates folders as it needs them would make a new one,
/// without configuration and lock.
///
/// # Errors
/// The folder, or the lock in it, is gone.
pub fn require(run: &Path) -> Result<()> {
    if run.join(LOCK).exists() {
        return Ok(());
    }
    let message = "is not there any more: it was removed or renamed while the run worked in it";
    Err(Error::failed(run, message))
}

/// The outcome of a run in `run`, or where its folder has gone that, which is why a file in it could not be written.
///
/// # Errors
/// That of the outcome, or as [`require`].
pub fn explain_loss<T>(outcome: Result<T>, run: &Path) -> Result<T> {
    let lost = |error: &Error| match error {
        Error::Io {
            action: "write" | "create",
            path,
            source,
        } => source.kind() == std::io::ErrorKind::NotFound && path.starts_with(run),
        _ => false,
    };
    match outcome {
        Err(error) if lost(&error) => Err(require(run).err().unwrap_or(error)),
        outcome => outcome,
    }
}

/// `true` if there is more in a folder than the start of a run leaves that had not begun.
fn holds_files(path: &Path) -> bool {
    // Without the lock, what is there is not ours, be it named as it may.
    let ours = if path.join(LOCK).exists() {
        UNBEGUN
    } else {
        &[]
    };
    fs::read_dir(path).is_ok_and(|entries| {
        entries
            .filter_map(std::result::Result::ok)
            .any(|entry| !ours.iter().any(|name| entry.file_name() == *name))
    })
}

/// Locks a folder by a file in it, until what is returned is dropped.
///
/// # Errors
/// Another process has it locked, or it cannot be written.
pub fn lock(path: &Path) -> Result<File> {
    let name = path.join(LOCK);
    // Not emptied: in a folder from elsewhere it may be a link to anything.
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name)
        .map_err(|source| Error::io("create", &name, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::data(
            path,
            "another process is working in this folder",
        )),
        Err(TryLockError::Error(source)) => Err(Error::io("lock", &name, source)),
    }
}

/// The configuration that a subject's run was made with, and of rounds their own too.
///
/// # Errors
/// Not a run folder, one of another kind of run, or its configuration cannot be read.
pub fn read_config(run: &Path) -> Result<(SubjectConfig, Option<ImageRoundsConfig>)> {
    let file = run.join("config.toml");
    if !file.exists() {
        return Err(Error::data(run, "not a run folder: no `config.toml` in it"));
    }
    match config::load_any(&file, &[])? {
        Config::ImageRounds(config) if config.has_subject() => {
            Ok((config.as_subject(), Some(*config)))
        }
        Config::Subject(config) => Ok((*config, None)),
        other => Err(other.refuse(&file, "one on a subject's photos")),
    }
}

/// `key: there, here` for every value that differs.
fn differences(there: &Table, here: &Table) -> Vec<String> {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    flatten(there, "", &mut old);
    flatten(here, "", &mut new);
    let find = |values: &[(String, String)], key: &str| {
        values
            .iter()
            .find(|(name, _)| name == key)
            .map_or_else(|| "nothing".to_owned(), |(_, value)| value.clone())
    };
    let mut keys: Vec<&String> = old.iter().chain(&new).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    let number = |values: &[(String, String)], key: &str| find(values, key).parse::<u64>().ok();
    let raised = |key: &str| {
        let (old, new) = (number(&old, key), number(&new, key));
        RAISED_KEYS.contains(&key)
            && (new > old || (key == "validation.patience" && new == Some(0)))
    };
    keys.into_iter()
        .filter(|key| !FREE_KEYS.contains(&key.as_str()) && find(&old, key) != find(&new, key))
        .filter(|key| !raised(key))
        .map(|key| {
            format!(
                "`{key}` is {} there and {} here",
                find(&old, key),
                find(&new, key)
            )
        })
        .collect()
}

/// All values of a table with their keys' paths.
fn flatten(table: &Table, prefix: &str, into: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            Value::Table(inner) => flatten(inner, &path, into),
            value => into.push((path, value.to_string())),
        }
    }
}

/// Advice where a name on the hub leads to another commit than when the run began.
fn moved(there: &Table, here: &Table) -> Option<String> {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    flatten(there, "", &mut old);
    flatten(here, "", &mut new);
    old.iter().find_map(|(key, before)| {
        let (_, now) = new.iter().find(|(name, _)| name == key)?;
        let before = before.trim_matches('"');
        let (name, commit) = before.split_once('@')?;
        let (other, other_commit) = now.trim_matches('"').split_once('@')?;
        (name == other && commit != other_commit).then(|| {
            format!(
                "`{name}` has been fetched anew since the run began, and leads to another commit now; `--set {key}={before}` \
                 goes on with the earlier one"
            )
        })
    })
}
