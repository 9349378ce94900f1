//! The error of the whole crate: it names the thing (file, line, key, tensor, shape, step), keeps the cause,
//! may carry a hint on how to mend it, and decides the exit code. It does not print.

use std::path::{Path, PathBuf};

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Wrong configuration or flags; every violation found is listed, one a line.
    #[error("{}", list("invalid configuration", .problems))]
    Config {
        /// One sentence a violation, each naming its key.
        problems: Vec<String>,
    },
    /// Unusable input data: an image, a prompt list, a record.
    #[error("`{}`{}: {message}", .path.display(), line_suffix(*.line))]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// Line in the file, counted from 1, where one is to blame.
        line: Option<usize>,
        /// What is wrong with it.
        message: String,
    },
    /// Unusable weights or model folder.
    #[error("`{}`{}: {message}", .path.display(), tensor_suffix(.tensor.as_deref()))]
    Weights {
        /// The file or folder.
        path: PathBuf,
        /// The tensor to blame.
        tensor: Option<String>,
        /// What is wrong with it.
        message: String,
    },
    /// The operating system refused a file operation.
    #[error("cannot {action} `{}`", .path.display())]
    Io {
        /// What was tried, as a verb: "read", "write", "create".
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A device that was asked for is not to be had.
    #[error("device `{device}` is not available: {message}")]
    Device {
        /// The device as the user spelled it.
        device: String,
        /// Why it cannot be used.
        message: String,
    },
    /// Training produced a value that is not finite, or left the bounds that mean divergence.
    #[error("training diverged at step {step}: {what}")]
    Diverged {
        /// Optimiser step.
        step: u64,
        /// Which quantity, and its value.
        what: String,
    },
    /// An iteration ended without reaching its tolerance; its result is not given out.
    #[error("{what} did not converge: residual {residual:.1e} after {iterations} iterations")]
    NotConverged {
        /// What was computed.
        what: String,
        /// Iterations done.
        iterations: usize,
        /// What was left of what should vanish.
        residual: f64,
    },
    /// The user interrupted the run; its state is on disk.
    #[error("interrupted at step {step}; resume from `{}`", .checkpoint.display())]
    Interrupted {
        /// Last finished optimiser step.
        step: u64,
        /// The checkpoint that `--resume` continues from.
        checkpoint: PathBuf,
    },
    /// libtorch refused an operation (out of memory, an internal shape error).
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// Another error with advice attached.
    #[error("{source}")]
    Hinted {
        /// The error itself; shown as if it stood alone.
        source: Box<Error>,
        /// How to mend it, one sentence.
        hint: String,
    },
}

impl Error {
    /// A single violation of the configuration.
    pub fn config(problem: impl Into<String>) -> Self {
        Self::Config {
            problems: vec![problem.into()],
        }
    }

    /// Unusable data in `path`.
    pub fn data(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Data {
            path: path.as_ref().to_owned(),
            line: None,
            message: message.into(),
        }
    }

    /// Unusable data in line `line` (from 1) of `path`.
    pub fn data_line(path: impl AsRef<Path>, line: usize, message: impl Into<String>) -> Self {
        Self::Data {
            path: path.as_ref().to_owned(),
            line: Some(line),
            message: message.into(),
        }
    }

    /// An unusable weights file or model folder.
    pub fn weights(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Weights {
            path: path.as_ref().to_owned(),
            tensor: None,
            message: message.into(),
        }
    }

    /// An unusable tensor in a weights file.
    pub fn tensor(
        path: impl AsRef<Path>,
        tensor: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::Weights {
            path: path.as_ref().to_owned(),
            tensor: Some(tensor.into()),
            message: message.into(),
        }
    }

    /// A failed file operation; `action` is a verb.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.as_ref().to_owned(),
            source,
        }
    }

    /// The same error with advice.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self::Hinted {
            source: Box::new(self),
            hint: hint.into(),
        }
    }

    /// The advice, where there is some.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Hinted { hint, .. } => Some(hint),
            _ => None,
        }
    }

    /// The optimiser step at which a run ended, where one did.
    pub fn step(&self) -> Option<u64> {
        match self {
            Self::Diverged { step, .. } | Self::Interrupted { step, .. } => Some(*step),
            Self::Hinted { source, .. } => source.step(),
            _ => None,
        }
    }

    /// Exit code of the process: 2 wrong input, 130 interrupted, 1 everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. }
            | Self::Data { .. }
            | Self::Weights { .. }
            | Self::Device { .. } => 2,
            Self::Io { source, .. } if names_no_input(source) => 2,
            Self::Io { .. }
            | Self::Diverged { .. }
            | Self::NotConverged { .. }
            | Self::Torch(_) => 1,
            Self::Interrupted { .. } => 130,
            Self::Hinted { source, .. } => source.exit_code(),
        }
    }
}

/// Whether a file operation failed because the user named what is not there, not a file, or not text.
fn names_no_input(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound};
    [NotFound, IsADirectory, NotADirectory, InvalidData].contains(&error.kind())
}

fn list(title: &str, problems: &[String]) -> String {
    match problems {
        [one] => one.clone(),
        many => many.iter().fold(format!("{title}:"), |text, problem| {
            text + "\n  - " + problem
        }),
    }
}

fn line_suffix(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line}"))
        .unwrap_or_default()
}

fn tensor_suffix(tensor: Option<&str>) -> String {
    tensor
        .map(|name| format!(", tensor `{name}`"))
        .unwrap_or_default()
}
