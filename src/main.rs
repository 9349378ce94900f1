//! The `preftune` command: parse, run, print the error with its hint, exit with its code.
#![allow(clippy::print_stderr, reason = "errors go to stderr")]

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;
use preftune::{Error, cli};

fn main() -> ExitCode {
    let arguments = cli::Cli::parse();
    // A panic is a fault of ours or a refusal of libtorch's (out of memory): the user gets one line, not a trace.
    panic::set_hook(Box::new(|_| {}));
    match panic::catch_unwind(AssertUnwindSafe(|| cli::run(arguments))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            report(&error);
            ExitCode::from(error.exit_code())
        }
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            eprintln!("error: internal error: {}", first_lines(text));
            if text.contains("out of memory") {
                eprintln!(
                    "hint: use a smaller batch or resolution, or set `train.checkpoint_activations = true`"
                );
            }
            ExitCode::FAILURE
        }
    }
}

fn report(error: &Error) {
    eprint!("error: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        // An error with a hint shows its source's text as its own.
        if inner.to_string() != error.to_string() {
            eprint!(": {inner}");
        }
        cause = inner.source();
    }
    eprintln!();
    if let Some(hint) = error.hint() {
        eprintln!("hint: {hint}");
    }
}

/// libtorch appends a C++ stack to its messages; the first lines say what happened.
fn first_lines(text: &str) -> String {
    text.lines()
        .take_while(|line| !line.starts_with("Exception raised from"))
        .collect::<Vec<_>>()
        .join("\n")
}
