//! Tunes the embedded world to the dog of its photos, from Rust: `cargo run --release --example tune -- runs/from-rust`.
//! More arguments are keys of the configuration, as in `train.steps=40`.

use std::path::Path;

use preftune::Result;
use preftune::config;
use preftune::jobs::interrupt::Interrupt;
use preftune::jobs::{self, Display, RunOptions};
use preftune::trainer::event::Event;

/// Shows validations and messages as lines.
struct Lines;

#[expect(clippy::print_stdout, reason = "an example of a program's own display")]
impl Display for Lines {
    fn show(&mut self, event: &Event) {
        if let Event::Validated {
            step, validation, ..
        } = event
        {
            println!("step {step}: reward {:.4}", validation.reward);
        }
    }

    fn say(&mut self, line: &str) {
        println!("{line}");
    }

    fn advance(&mut self, _phase: &'static str, _done: u64, _total: u64) {}
}

fn main() -> Result<()> {
    let mut keys: Vec<String> = std::env::args().skip(1).collect();
    if let Some(output) = keys.first_mut().filter(|first| !first.contains('=')) {
        *output = format!("run.output={output}");
    }
    let config = config::load(Path::new("configs/image/quickstart.toml"), &keys)?;
    let interrupt = Interrupt::install(|| {})?;
    let manifest = jobs::subject::train(&config, RunOptions::default(), &mut Lines, &interrupt)?;
    Lines.say(&format!("best weights: {:?}", manifest.record.best));
    Ok(())
}
