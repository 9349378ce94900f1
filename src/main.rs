//! The program behind the `preftune` command (`launch.rs`): parse, run, print the error with its hint, exit with its code.

use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;
use preftune::cli;
use preftune::error::{
    Error, INTERRUPTED, TRY_AGAIN, is_out_of_memory, libtorch_in_words, printable,
};
use preftune::jobs::interrupt::was_terminated;
use preftune::ops::cpu_memory::keep_and_reuse_memory;
use preftune::ops::matrix_products::use_the_faster_library;

fn main() -> ExitCode {
    let arguments = cli::Cli::parse();
    let memory_hint = arguments.memory_hint();
    keep_and_reuse_memory();
    // Where that fails all is as fast as libtorch makes it, and as right.
    let _ = use_the_faster_library();
    // A panic is a fault of ours or a refusal of libtorch's (out of memory): the user gets one line, not a trace.
    panic::set_hook(Box::new(|_| {}));
    match panic::catch_unwind(AssertUnwindSafe(|| cli::run(arguments))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            let full =
                matches!(&error, Error::Torch(inner) if is_out_of_memory(&inner.to_string()));
            let error = if full {
                error.with_hint(memory_hint)
            } else {
                error
            };
            say(&error.describe());
            let code = match error.exit_code() {
                INTERRUPTED if was_terminated() => TRY_AGAIN,
                code => code,
            };
            ExitCode::from(code)
        }
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            let words = libtorch_in_words(text);
            say(&if is_out_of_memory(text) {
                format!("error: {words}\nhint: {memory_hint}\n")
            } else {
                format!("error: internal error: {words}\n")
            });
            ExitCode::FAILURE
        }
    }
}

/// Writes to stderr what a terminal may show; a closed one changes nothing, least of all the exit code.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(printable(text).as_bytes());
}
