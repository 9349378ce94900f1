//! The binary in a temporary folder, and what it did.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// What a command did.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub fn done(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }

    /// Refused as wrong input with this message, and not by a panic.
    #[track_caller]
    pub fn refused(&self, message: &str) {
        assert_eq!(self.code, 2, "{}", self.stderr);
        assert!(self.stderr.contains(message), "{message}: {}", self.stderr);
        assert!(!self.stderr.contains("internal"), "{}", self.stderr);
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// A temporary folder in which `preftune` is run.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_preftune"));
        command.current_dir(self.0.path()).args(arguments);
        command
    }

    pub fn binary(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// A verb on a configuration, with flags and values to set.
    pub fn configured(&self, verb: &str, config: &str, more: &[&str]) -> Ran {
        self.set(vec![verb, config, "--quiet"], more)
    }

    /// As [`Self::configured`], with what it says.
    pub fn aloud(&self, verb: &str, config: &str, more: &[&str]) -> Ran {
        self.set(vec![verb, config], more)
    }

    fn set<'a>(&self, mut arguments: Vec<&'a str>, more: &[&'a str]) -> Ran {
        for one in more {
            if one.contains('=') {
                arguments.push("--set");
            }
            arguments.push(one);
        }
        self.binary(&arguments)
    }

    /// Writes JSON lines.
    pub fn lines(&self, name: &str, rows: &[Value]) {
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        fs::write(self.path(name), lines.join("\n") + "\n").unwrap();
    }

    /// Reads JSON lines.
    pub fn rows(&self, file: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(file)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The logged training steps of a run.
    pub fn steps(&self, run: &str) -> Vec<Value> {
        let rows = self.rows(&format!("{run}/metrics.jsonl")).into_iter();
        rows.filter(|row| row["kind"] == "train").collect()
    }

    #[track_caller]
    pub fn manifest(&self, run: &str) -> Value {
        let text = fs::read_to_string(self.path(run).join("manifest.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

/// A path as TOML writes it.
pub fn quoted(path: &Path) -> String {
    toml::Value::from(path.to_str().unwrap()).to_string()
}

/// A file's own `Folder`, to which it adds what its tests ask for.
macro_rules! own_folder {
    () => {
        pub struct Folder(crate::command::Folder);

        impl std::ops::Deref for Folder {
            type Target = crate::command::Folder;

            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }
    };
}
pub(crate) use own_folder;
