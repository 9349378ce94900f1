//! `preftune train`: from a configuration to tuned weights.

use std::path::Path;

use clap::Args;

use crate::cli::configuration::ConfigArgs;
use crate::cli::processes::{self, ProcessArgs};
use crate::cli::progress::Progress;
use crate::cli::shell::{listen, quote, with_command_to_resume};
use crate::cli::subjects::{self, Call, SubjectsArgs};
use crate::config::{Config, ConfigKind};
use crate::error::{Error, Result};
use crate::jobs::interrupt::Interrupt;
use crate::jobs::{self, RunOptions};
use crate::run::manifest::{Record, SubjectRecord};
use crate::run::reward_manifest::RewardManifest;

#[derive(Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Runs on a subject: time each part of a step. This is slower on a GPU. Times go to the manifest and the report.
    #[arg(long)]
    profile: bool,
    /// Continue an interrupted run from its last checkpoint.
    #[arg(long)]
    resume: bool,
    /// No progress, errors only.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    subjects: SubjectsArgs,
    #[command(flatten)]
    processes: ProcessArgs,
}

pub(super) fn run(args: &TrainArgs) -> Result<()> {
    if args.subjects.all_subjects && args.processes.are_several()? {
        return Err(Error::config(
            "`--all-subjects` works in one process: subjects need nothing of each other",
        )
        .with_hint("`--jobs N` works on N subjects at a time, each with a GPU of its own"));
    }
    if let Some(count) = args.processes.to_start()? {
        // A wrong key is said once, and before anything is started.
        args.config.load()?;
        return processes::start(count);
    }
    let interrupt = listen()?;
    let outcome = with_command_to_resume(if args.subjects.all_subjects {
        let call = Call {
            config: &args.config,
            subjects: &args.subjects,
            profile: args.profile,
            quiet: args.quiet,
        };
        subjects::run(&call, &interrupt)
    } else {
        one(args, &interrupt)
    });
    outcome.inspect_err(processes::tell_launcher)
}

fn one(args: &TrainArgs, interrupt: &Interrupt) -> Result<()> {
    let config = args.config.load()?;
    if args.profile && config.kind() != ConfigKind::Subject {
        return Err(Error::config(
            "`--profile` belongs to runs on a subject's photos",
        ));
    }
    let options = RunOptions {
        resume: args.resume,
        profile: args.profile,
        peers: args.processes.join()?,
    };
    // The first process speaks for all of them.
    let speaks = options.peers.is_first();
    let mut display = Progress::new(args.quiet || !speaks);
    match config {
        Config::Subject(config) => {
            let manifest = jobs::subject::train(&config, options, &mut display, interrupt)?;
            if !speaks {
                return Ok(());
            }
            let SubjectRecord { token, class, .. } = &manifest.subject;
            let prompt = format!("--prompt \"a {token} {class} on the beach\" --out out/");
            print_weights(&config.run.output, &manifest.record, Some(&prompt));
        }
        Config::Pairs(config) => {
            let manifest = jobs::pairs::train(&config, options, &mut display, interrupt)?;
            if !speaks {
                return Ok(());
            }
            print_weights(&config.run.output, &manifest.record, Some(TRY_IMAGES));
        }
        Config::Text(config) => {
            let manifest = jobs::text::train(&config, options, &mut display, interrupt)?;
            if !speaks {
                return Ok(());
            }
            print_weights(&config.run.output, &manifest.record, Some(TRY_TEXT));
            if manifest.record.best.is_some() {
                let held_out = manifest.examples.get("held out").copied();
                println!("validated on: {} held out", held_out.unwrap_or_default());
            }
        }
        Config::Reward(config) => {
            let manifest = jobs::reward::train(&config, options, &mut display, interrupt)?;
            if !speaks {
                return Ok(());
            }
            print_head(&config.run.output, &manifest);
        }
        other @ (Config::Rounds(_) | Config::ImageRounds(_) | Config::Pretrain(_)) => {
            return Err(other.refuse(&args.config.config, "one that `train` makes"));
        }
    }
    Ok(())
}

/// The rest of the command that tries a tuned language model.
pub(super) const TRY_TEXT: &str = "--prompt \"...\"";
/// The rest of the command that tries a tuned diffusion model.
const TRY_IMAGES: &str = "--prompt \"...\" --out out/";

/// Where the best weights are, and the command that tries them.
pub(super) fn print_weights(run: &Path, record: &Record, try_them: Option<&str>) {
    match record.best {
        Some((step, reward)) => {
            println!(
                "best weights: {}/best (step {step}, validation {reward:.4})",
                run.display()
            );
        }
        None => println!("weights: {}/best (step {})", run.display(), record.steps),
    }
    if let Some(prompt) = try_them {
        println!(
            "try them:     preftune generate --model {} {prompt}",
            quote(run)
        );
    }
}

fn print_head(run: &Path, manifest: &RewardManifest) {
    let record = &manifest.record;
    let step = record.best.map_or(record.steps, |(step, _)| step);
    println!("best head: {}/best (step {step})", run.display());
    if let Some(factor) = manifest.extrapolated {
        println!("extrapolated by {factor}");
    }
    match manifest.examples {
        (train, 0) => println!("on {train} training examples: none is held out"),
        (_, held_out) => println!("on {held_out} held out"),
    }
    for (name, value) in &manifest.best_metrics {
        println!("{name:<24} {value:.4}");
    }
}
