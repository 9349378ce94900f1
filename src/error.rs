//! The error of the whole crate: it names the thing (file, line, key, tensor, shape, step), keeps the cause,
//! may carry a hint on how to mend it, and decides the exit code. It does not print.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Exit code of a run that the user has interrupted: its work is saved.
pub const INTERRUPTED: u8 = 130;

/// Exit code of a run that the system has asked to end: its work is saved, and the same command goes on with `--resume`.
pub const TRY_AGAIN: u8 = 75;

/// Exit code of a process that ends because another one of its run has ended or hangs: the cause is elsewhere.
pub const PEERS_LOST: u8 = 76;

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of an operation of this crate.
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
        /// The fault.
        message: String,
    },
    /// Unusable weights or model folder.
    #[error("`{}`{}: {message}", .path.display(), tensor_suffix(.tensor.as_deref()))]
    Weights {
        /// The file or folder.
        path: PathBuf,
        /// The tensor to blame.
        tensor: Option<String>,
        /// The fault.
        message: String,
    },
    /// The operating system refused a file operation.
    #[error("cannot {action} `{}`", .path.display())]
    Io {
        /// The action that was tried, as a verb: "read", "write", "create".
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
    /// A run or a computation that came to nothing though what it was given could be read.
    #[error("`{}`: {message}", .path.display())]
    Failed {
        /// The file or folder that it was about.
        path: PathBuf,
        /// The fault.
        message: String,
    },
    /// An iteration ended without reaching its tolerance; its result is not given out.
    #[error("{what} did not converge: residual {residual:.1e} after {iterations} iterations")]
    NotConverged {
        /// The quantity that was computed.
        what: String,
        /// Iterations done.
        iterations: usize,
        /// The rest of the value that should vanish.
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
    #[error("{}", libtorch_in_words(&.0.to_string()))]
    Torch(tch::TchError),
    /// Some of several runs failed; the others are done.
    #[error("{0}")]
    RunsFailed(String),
    /// The processes of a run on several have lost one another.
    #[error("{0}")]
    Peers(String),
    /// A process that this one started has failed.
    #[error("{what}")]
    Process {
        /// Its exit code, which this process ends with too.
        code: u8,
        /// Which one it was, and what it said.
        what: String,
    },
    /// Another error with advice attached.
    #[error("{source}")]
    Hinted {
        /// The error itself; shown as if it stood alone.
        source: Box<Error>,
        /// How to mend it, one sentence.
        hint: String,
    },
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        Self::Torch(error)
    }
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

    /// A computation that came to nothing.
    pub fn failed(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Failed {
            path: path.as_ref().to_owned(),
            message: message.into(),
        }
    }

    /// A model whose weights are finite and whose numbers are not.
    pub fn not_finite(model: impl AsRef<Path>, what: impl std::fmt::Display) -> Self {
        Self::failed(model, format!("the model's {what} are not finite")).with_hint(
            "its weights, or the strength of its adapter, overflow; with 16-bit numbers try `--precision fp32`",
        )
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
            Self::Torch(error) => hint_of_libtorch(&error.to_string()),
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

    /// The error, its causes and its hint, as a user reads it: a line each.
    pub fn describe(&self) -> String {
        let mut text = format!("error: {self}");
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            // An error with a hint shows its source's text as its own.
            if inner.to_string() != self.to_string() {
                text = format!("{text}: {inner}");
            }
            cause = inner.source();
        }
        text.push('\n');
        if let Some(hint) = self.hint() {
            text = format!("{text}hint: {hint}\n");
        }
        text
    }

    /// Exit code of the process: 2 wrong input, 76 another process of the run was lost, 130 interrupted ([`TRY_AGAIN`] where it was
    /// by the system), 1 everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. }
            | Self::Data { .. }
            | Self::Weights { .. }
            | Self::Device { .. } => 2,
            Self::Io { source, .. } if names_no_input(source) => 2,
            Self::Io { .. }
            | Self::Failed { .. }
            | Self::Diverged { .. }
            | Self::NotConverged { .. }
            | Self::RunsFailed(_)
            | Self::Torch(_) => 1,
            Self::Peers(_) => PEERS_LOST,
            Self::Process { code, .. } => *code,
            Self::Interrupted { .. } => INTERRUPTED,
            Self::Hinted { source, .. } => source.exit_code(),
        }
    }
}

/// Text of an unknown origin as a terminal may show it: control characters, which could move its cursor, set its title or
/// turn the text around, as `\u001b` and the like. Lines and tabs stay. In JSON these mean the same characters.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().fold(String::new(), |mut escaped, letter| {
        if is_unprintable(letter) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(letter));
        } else {
            escaped.push(letter);
        }
        escaped
    });
    Cow::Owned(escaped)
}

fn is_unprintable(letter: char) -> bool {
    match letter {
        '\n' | '\t' => false,
        // These set the direction of all text up to their end.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        letter => letter.is_control(),
    }
}

/// `true` if a file operation failed because the user named what is not there, not a file, or not text.
fn names_no_input(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound};
    [NotFound, IsADirectory, NotADirectory, InvalidData].contains(&error.kind())
}

/// The text of a libtorch error, without the C++ stack that it appends and the names that its text went through; memory that ran out
/// in a sentence of ours. `text` is an error's or a panic's, which has line breaks as two characters.
pub fn libtorch_in_words(text: &str) -> String {
    let text = text.replace("\\n", "\n").replace("\\\"", "\"");
    let inner = ["Err` value: Torch(\"", "Internal torch error: "]
        .iter()
        .find_map(|mark| Some(text.split_once(mark)?.1));
    let message = inner.unwrap_or(&text).lines().take_while(|line| {
        !["Exception raised from", "frame #", "C++ CapturedTraceback"]
            .iter()
            .any(|mark| line.starts_with(mark))
    });
    let message = message.collect::<Vec<_>>().join("\n");
    let message = message.trim_end().trim_end_matches("\")").trim_end();
    if !is_out_of_memory(message) {
        return if inner.is_some() {
            format!("libtorch: {message}")
        } else {
            message.to_owned()
        };
    }
    let number = |after: &str| {
        let digits = message.split_once(after)?.1.trim_start();
        let end = digits.find(|letter: char| !letter.is_ascii_digit());
        digits[..end.unwrap_or(digits.len())].parse::<u64>().ok()
    };
    if let Some(bytes) = number("CPU out of memory:").or_else(|| number("you tried to allocate")) {
        return format!("out of memory: a tensor of {}", size(bytes));
    }
    match message.split_once("Tried to allocate ") {
        // CUDA's: `... Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1.00 GiB is free. ...`.
        Some((_, more)) => {
            let until = |text: &str, end: &str| text.split(end).next().unwrap_or(text).to_owned();
            let amount = until(more, ". ");
            let there = more
                .split_once("a total capacity of ")
                .and_then(|(_, more)| {
                    let (total, more) = more.split_once(" of which ")?;
                    Some(format!(", {} of {total} are free", until(more, " is free")))
                });
            let there = there.unwrap_or_default();
            format!("out of memory on the GPU: a tensor of {amount}{there}")
        }
        None => "out of memory".to_owned(),
    }
}

/// How to mend what libtorch says, where that is known.
pub fn hint_of_libtorch(text: &str) -> Option<&'static str> {
    is_out_of_memory(text).then_some(
        "use a smaller batch or resolution, or set `train.checkpoint_activations = true`",
    )
}

/// `true` if this text of libtorch, or of a panic with it, says that memory ran out.
pub fn is_out_of_memory(text: &str) -> bool {
    ["out of memory", "can't allocate memory", "std::bad_alloc"]
        .iter()
        .any(|words| text.contains(words))
}

/// Bytes for people: of 1024 a step, whole numbers of MB, tenths of GB.
fn size(bytes: u64) -> String {
    if bytes < 1 << 30 {
        format!("{} MB", bytes.div_ceil(1 << 20))
    } else {
        format!("{:.1} GB", bytes as f64 / f64::from(1 << 30))
    }
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
