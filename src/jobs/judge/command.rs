//! An external judge: a command that reads one JSON object a line and answers each with one, which of two items is better
//! or what one item is worth. Answers are bounded in length and time, and checked.

use std::env;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::ops::RangeInclusive;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::installed::{LIBRARY_PATH, LIBRARY_PATH_BEFORE, LIBTORCH_CHOSEN};
use crate::jobs::interrupt::Interrupt;
use crate::ranking::Outcome;
use crate::ranking::judgements::outcome;

/// Longest answer, in bytes.
const LONGEST: u64 = 1 << 20;
/// How long a judge may take to end after its input has.
const GRACE: Duration = Duration::from_secs(5);
/// How often a judge that is silent is left to see whether the user wants to stop.
const LOOK: Duration = Duration::from_millis(50);
/// How much of a wrong answer is shown.
const SHOWN: usize = 200;

/// Takes back what the launcher has set for libtorch's sake: a judge in Python may bring its own.
fn give_back_environment(command: &mut Command) {
    if env::var_os(LIBTORCH_CHOSEN).is_none() {
        return;
    }
    match env::var_os(LIBRARY_PATH_BEFORE) {
        Some(before) => command.env(LIBRARY_PATH, before),
        None => command.env_remove(LIBRARY_PATH),
    };
}

/// A running judge.
pub(crate) struct Judge {
    command: String,
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<io::Result<Vec<u8>>>,
    patience: Duration,
    interrupt: Interrupt,
    failed: bool,
}

impl Judge {
    /// Starts `command` in a shell. It answers each question within `patience`.
    pub(crate) fn start(command: &str, patience: Duration) -> Result<Self> {
        let cannot = |source| Error::io("run", command, source);
        let mut shell = Command::new("sh");
        give_back_environment(&mut shell);
        let mut child = shell
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // In a group of its own, Ctrl-C reaches us alone, and the question that is open is still answered.
            .process_group(0)
            .spawn()
            .map_err(cannot)?;
        let closed = || cannot(io::Error::other("it has no input or output"));
        let stdin = child.stdin.take().ok_or_else(closed)?;
        let stdout = child.stdout.take().ok_or_else(closed)?;
        let (sender, answers) = sync_channel(1);
        thread::spawn(move || read_lines(stdout, &sender));
        Ok(Self {
            command: command.to_owned(),
            child,
            stdin: Some(stdin),
            answers,
            patience,
            interrupt: Interrupt::never(),
            failed: false,
        })
    }

    /// The same judge, for whom nobody waits once `interrupt` is requested.
    pub(crate) fn until(mut self, interrupt: &Interrupt) -> Self {
        self.interrupt = interrupt.clone();
        self
    }

    /// Asks which of two items is better.
    ///
    /// # Errors
    /// The judge ends, is silent for too long, or answers something else than an object with `winner`.
    pub(crate) fn ask(&mut self, id: u64, question: &Value) -> Result<Outcome> {
        self.exchange(id, question, Expected::Winner, |object| {
            match object.get("winner") {
                Some(Value::String(word)) => outcome(word, ["first", "second"]),
                Some(other) => Err(format!("`winner` is {other}")),
                None => Err("`winner` is missing".to_owned()),
            }
        })
    }

    /// Asks what an item is worth.
    ///
    /// # Errors
    /// As [`Self::ask`], the answer being an object with `reward`.
    pub(crate) fn reward(&mut self, id: u64, question: &Value) -> Result<f64> {
        self.exchange(id, question, Expected::Reward, |object| {
            number(object, "reward", f64::NEG_INFINITY..=f64::INFINITY)
        })
    }

    /// Asks how probably the first of two items is better.
    ///
    /// # Errors
    /// As [`Self::ask`], the answer being an object with `probability` or `winner`.
    pub(crate) fn preference(&mut self, id: u64, question: &Value) -> Result<f64> {
        self.exchange(id, question, Expected::Probability, |object| {
            let Some(Value::String(word)) = object.get("winner") else {
                return number(object, "probability", 0.0..=1.0);
            };
            Ok(match outcome(word, ["first", "second"])? {
                Outcome::Left => 1.0,
                Outcome::Tie => 0.5,
                Outcome::Right => 0.0,
            })
        })
    }

    fn exchange<T>(
        &mut self,
        id: u64,
        question: &Value,
        expected: Expected,
        read: impl FnOnce(&Map<String, Value>) -> Result<T, String>,
    ) -> Result<T> {
        let answer = self.answer(question);
        let read = answer.and_then(|answer| {
            let object = object(id, &answer).and_then(|object| read(&object));
            object.map_err(|problem| self.wrong(&problem, &answer, expected))
        });
        self.failed |= read.is_err();
        read
    }

    fn answer(&mut self, question: &Value) -> Result<Vec<u8>> {
        let line = question.to_string() + "\n";
        let written = self.stdin.as_mut().map(|stdin| {
            let written = stdin.write_all(line.as_bytes());
            written.and_then(|()| stdin.flush())
        });
        match written {
            Some(Ok(())) => match self.wait()? {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(source)) => return Err(self.failure(source)),
                None => {}
            },
            Some(Err(source)) if source.kind() != io::ErrorKind::BrokenPipe => {
                return Err(self.failure(source));
            }
            _ => {}
        }
        // Its output is closed. One that lives on all the same is not waited for.
        let until = Instant::now() + GRACE;
        let ended = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status.to_string(),
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(10)),
                _ => break "it closed its output".to_owned(),
            }
        };
        Err(self.failure(io::Error::other(format!(
            "it ended without an answer: {ended}"
        ))))
    }

    /// Its next line; none where its output has ended.
    ///
    /// # Errors
    /// It is silent for too long, or the user asks to stop: where the work lies is for the caller to say.
    fn wait(&self) -> Result<Option<io::Result<Vec<u8>>>> {
        let until = Instant::now() + self.patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left.min(LOOK)) {
                Ok(answer) => return Ok(Some(answer)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if self.interrupt.requested() => {
                    return Err(Error::Interrupted {
                        step: 0,
                        checkpoint: PathBuf::new(),
                    });
                }
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    let silent = format!("no answer within {} seconds", self.patience.as_secs());
                    return Err(self.failure(io::Error::other(silent)));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn failure(&self, source: io::Error) -> Error {
        Error::io("use the judge", &self.command, source)
    }

    fn wrong(&self, problem: &str, answer: &[u8], expected: Expected) -> Error {
        let text = String::from_utf8_lossy(answer);
        let shown: String = text.trim().chars().take(SHOWN).collect();
        let form = match expected {
            Expected::Winner => "{\"winner\": \"first\"}, \"second\" or \"tie\"",
            Expected::Reward => "{\"reward\": 1.5}",
            Expected::Probability => "{\"probability\": 0.7} or {\"winner\": \"first\"}",
        };
        Error::data(&self.command, format!("{problem}; it answered: {shown}")).with_hint(format!(
            "a judge answers each line with one line, as {form}"
        ))
    }
}

/// The value that an answer should have held.
#[derive(Clone, Copy)]
enum Expected {
    Winner,
    Reward,
    Probability,
}

fn object(id: u64, answer: &[u8]) -> Result<Map<String, Value>, String> {
    let object: Map<String, Value> =
        serde_json::from_slice(answer).map_err(|error| format!("not a JSON object: {error}"))?;
    match object.get("id").filter(|other| other.as_u64() != Some(id)) {
        Some(other) => Err(format!("answers question {other}, not {id}")),
        None => Ok(object),
    }
}

fn number(
    object: &Map<String, Value>,
    key: &str,
    range: RangeInclusive<f64>,
) -> Result<f64, String> {
    let value = object
        .get(key)
        .ok_or_else(|| format!("`{key}` is missing"))?;
    let number = value.as_f64().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("`{key}` is {value}"))
}

impl Drop for Judge {
    /// Ends the judge: by the end of its input where all went well, else at once.
    fn drop(&mut self) {
        self.stdin = None;
        let until = Instant::now() + GRACE;
        while !self.failed && Instant::now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // It may have ended by itself in the meantime.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends line by line until the output ends, nobody listens, or a line is too long.
fn read_lines(stdout: ChildStdout, sender: &SyncSender<io::Result<Vec<u8>>>) {
    let mut reader = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let read = reader
            .by_ref()
            .take(LONGEST + 1)
            .read_until(b'\n', &mut line);
        let answer = match read {
            Ok(0) => return,
            Ok(length) if length as u64 > LONGEST => Err(io::Error::other(format!(
                "an answer of more than {LONGEST} bytes"
            ))),
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) => Ok(line),
            Err(source) => Err(source),
        };
        let last = answer.is_err();
        if sender.send(answer).is_err() || last {
            return;
        }
    }
}
