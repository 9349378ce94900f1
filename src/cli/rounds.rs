//! `preftune rounds`: rounds of sampling, scoring and training on a model's own answers or images.

use clap::Args;

use super::table;
use crate::cli::configuration::ConfigArgs;
use crate::cli::processes::require_one;
use crate::cli::progress::Progress;
use crate::cli::shell::{listen, quote, with_command_to_resume};
use crate::config::{Config, ImageRoundsConfig, RoundsConfig};
use crate::error::Result;
use crate::jobs::rounds::PolicyFigures;
use crate::jobs::{self, RunOptions};
use crate::run::rounds::policy;

#[derive(Args)]
pub(super) struct RoundsArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Continue interrupted rounds where they were.
    #[arg(long)]
    resume: bool,
    /// No progress, errors only.
    #[arg(long)]
    quiet: bool,
}

pub(super) fn run(args: &RoundsArgs) -> Result<()> {
    require_one("rounds")?;
    let config = args.config.load()?;
    let interrupt = listen()?;
    let options = RunOptions {
        resume: args.resume,
        ..RunOptions::default()
    };
    let mut display = Progress::new(args.quiet);
    match config {
        Config::Rounds(config) => {
            let made = jobs::rounds::train(&config, options, &mut display, &interrupt);
            show(&config, &with_command_to_resume(made)?);
        }
        Config::ImageRounds(config) => {
            let made = jobs::rounds::images::train(&config, options, &mut display, &interrupt);
            show_images(&config, &with_command_to_resume(made)?);
        }
        other => return Err(other.refuse(&args.config.config, "one in rounds")),
    }
    Ok(())
}

fn show_images(config: &ImageRoundsConfig, measured: &[PolicyFigures]) {
    print_table(
        measured,
        &[
            "reward",
            "image_similarity",
            "text_similarity",
            "class_kept",
            "best_step",
            "pairs",
        ],
    );
    let run = &config.run.output;
    println!("rewards of the held-out prompts, at the best step of each round");
    println!("best weights: {}", run.join("best").display());
    println!(
        "try it:       preftune generate --model {} --prompt \"...\" --out out/",
        quote(run)
    );
}

fn show(config: &RoundsConfig, measured: &[PolicyFigures]) {
    print_table(measured, &["reward", "win_rate", "kl", "length", "records"]);
    println!("win rate against the first policy; intervals by drawing prompts anew");
    let run = &config.run.output;
    let last = policy(config, run, config.rounds.count);
    println!("last policy: {}", last.display());
    println!(
        "try it:      preftune generate --model {} --prompt \"...\"",
        quote(run)
    );
}

/// Prints a row for each policy, with those of the columns that any of them has.
fn print_table(measured: &[PolicyFigures], columns: &[&'static str]) {
    let known = |name: &&&str| measured.iter().any(|of| of.metrics.contains_key(**name));
    let columns: Vec<&str> = columns.iter().filter(known).copied().collect();
    let header: Vec<String> = ["round"]
        .into_iter()
        .chain(columns.iter().copied())
        .map(str::to_owned)
        .collect();
    let cell = |measured: &PolicyFigures, name: &str| {
        let Some(value) = measured.metrics.get(name) else {
            return String::new();
        };
        match measured.intervals.get(name) {
            Some((low, high)) => format!("{value:.3} [{low:.3}, {high:.3}]"),
            None if value.fract() == 0.0 => format!("{value}"),
            None => format!("{value:.3}"),
        }
    };
    let rows: Vec<Vec<String>> = measured
        .iter()
        .enumerate()
        .map(|(round, measured)| {
            let cells = columns.iter().map(|name| cell(measured, name));
            [round.to_string()].into_iter().chain(cells).collect()
        })
        .collect();
    print!("{}", table::render(&header, &rows));
}
