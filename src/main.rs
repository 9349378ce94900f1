//! The program behind the `preftune` command (`launch.rs`): parse, run, print the error with its hint, exit with its code.

use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;
use preftune::cli;
use preftune::error::{hint_of_libtorch, libtorch_in_words, printable};
use preftune::ops::cpu_memory::keep_and_reuse_memory;
use preftune::ops::matrix_products::use_the_faster_library;

fn main() -> ExitCode {
    let arguments = cli::Cli::parse();
    keep_and_reuse_memory();
    // Where that fails all is as fast as libtorch makes it, and as right.
    let _ = use_the_faster_library();
    // A panic is a fault of ours or a refusal of libtorch's (out of memory): the user gets one line, not a trace.
    panic::set_hook(Box::new(|_| {}));
    match panic::catch_unwind(AssertUnwindSafe(|| cli::run(arguments))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            say(&error.describe());
            ExitCode::from(error.exit_code())
        }
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            let words = libtorch_in_words(text);
            say(&match hint_of_libtorch(text) {
                Some(hint) => format!("error: {words}\nhint: {hint}\n"),
                None => format!("error: internal error: {words}\n"),
            });
            ExitCode::FAILURE
        }
    }
}

/// Writes to stderr what a terminal may show; a closed one changes nothing, least of all the exit code.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(printable(text).as_bytes());
}
