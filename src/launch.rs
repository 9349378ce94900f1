//! The command `preftune`: answers what needs no libtorch (help, version, wrong flags), hands everything else to
//! `preftune-torch` beside it, for which it finds libtorch. Loading libtorch takes a quarter of a second, too long to wait for
//! a page of help.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use preftune::cli::{self, Alone};
use preftune::installed::{
    Candidate, LIBRARY_PATH, LIBRARY_PATH_BEFORE, LIBTORCH_CHOSEN, libtorch_candidates,
    without_libtorch,
};

/// libtorch's switch for transparent huge pages.
const LARGE_PAGES: &str = "THP_MEM_ALLOC_ENABLE";

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let candidates = libtorch_candidates();
    let libtorch = candidates.iter().find(|one| one.fault.is_none());
    match cli.run_alone(libtorch.is_some()) {
        Alone::No => {}
        Alone::Done(code) => return ExitCode::from(code),
    }
    let Some(libtorch) = libtorch else {
        say(&without_libtorch(&candidates));
        return ExitCode::FAILURE;
    };
    let program = match std::env::current_exe() {
        Ok(own) => own.with_file_name(format!("preftune-torch{}", std::env::consts::EXE_SUFFIX)),
        Err(_) => PathBuf::from("preftune-torch"),
    };
    let mut command = Command::new(&program);
    command.args(std::env::args_os().skip(1));
    show_libtorch(&mut command, libtorch);
    // libtorch then asks the system for large pages for its large tensors: fewer faults, fewer misses of the page table.
    if std::env::var_os(LARGE_PAGES).is_none() {
        command.env(LARGE_PAGES, "1");
    }
    let (code, problem) = hand_over(&mut command);
    if let Some(problem) = problem {
        say(&describe(&program, &problem));
    }
    code
}

/// Text on stderr. A closed one changes nothing, least of all the exit code.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Has the system's loader find this libtorch before any other.
fn show_libtorch(command: &mut Command, Candidate { lib, .. }: &Candidate) {
    command.env(LIBTORCH_CHOSEN, lib);
    let mut value = lib.clone().into_os_string();
    match std::env::var_os(LIBRARY_PATH) {
        Some(before) => {
            if !before.is_empty() {
                value.push(":");
                value.push(&before);
            }
            command.env(LIBRARY_PATH_BEFORE, before);
        }
        None => {
            command.env_remove(LIBRARY_PATH_BEFORE);
        }
    }
    command.env(LIBRARY_PATH, value);
}

/// Becomes the other program, so that signals and exit codes are its own; returns only where that fails.
#[cfg(unix)]
fn hand_over(command: &mut Command) -> (ExitCode, Option<std::io::Error>) {
    use std::os::unix::process::CommandExt as _;

    command.arg0("preftune");
    (ExitCode::FAILURE, Some(command.exec()))
}

/// Runs the other program and ends as it does.
#[cfg(not(unix))]
fn hand_over(command: &mut Command) -> (ExitCode, Option<std::io::Error>) {
    match command.status() {
        Ok(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            (code.map_or(ExitCode::FAILURE, ExitCode::from), None)
        }
        Err(error) => (ExitCode::FAILURE, Some(error)),
    }
}

fn describe(program: &Path, problem: &std::io::Error) -> String {
    let name = program
        .file_name()
        .unwrap_or(OsStr::new(""))
        .to_string_lossy();
    format!(
        "error: cannot start `{}`: {problem}\nhint: `preftune` and `{name}` belong into one folder: build both (`cargo build \
         --release`), copy both\n",
        program.display()
    )
}
