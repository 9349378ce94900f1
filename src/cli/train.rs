//! `preftune train`: from a configuration to tuned weights.

use std::path::{Path, PathBuf};

use clap::Args;

use super::interrupt::Interrupt;
use super::train_image::{How, train};
use super::train_pairs;
use super::train_reward;
use super::train_text;
use crate::config::{self, Config};
use crate::data::dreambench::DreamBench;
use crate::error::{Error, Result};
use crate::run::manifest::{Manifest, SubjectManifest};

#[derive(Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent command-line flags"
)]
pub(super) struct TrainArgs {
    /// Configuration file (TOML).
    config: PathBuf,
    /// Override a key, as in `--set train.steps=200`; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Run folder; short for `--set run.output=...`.
    #[arg(long)]
    output: Option<PathBuf>,
    /// The subject's name in DreamBench; short for `--set subject.name=...`.
    #[arg(long)]
    subject: Option<String>,
    /// The class word; short for `--set subject.class=...`.
    #[arg(long)]
    class: Option<String>,
    /// Folder of photos; short for `--set subject.photos=...`.
    #[arg(long)]
    photos: Option<PathBuf>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`; short for `--set run.device=...`.
    #[arg(long)]
    device: Option<String>,
    /// The official code's semantics: sampled labels, independent noise, all steps with the best weights kept.
    #[arg(long)]
    paper: bool,
    /// Time the parts of an image run's steps, which waits for a GPU at each: into the manifest and the report.
    #[arg(long)]
    profile: bool,
    /// Continue an interrupted run from its last checkpoint.
    #[arg(long)]
    resume: bool,
    /// Every DreamBench subject in turn, each in a folder of its own under the run folder; finished ones are skipped.
    #[arg(long, conflicts_with_all = ["subject", "photos", "class"])]
    all_subjects: bool,
    /// No progress, errors only.
    #[arg(long)]
    quiet: bool,
}

pub(super) fn run(args: &TrainArgs) -> Result<()> {
    let mut overrides = args.overrides.clone();
    let mut set = |key: &str, value: Option<String>| {
        overrides.extend(value.map(|value| format!("{key}={}", toml::Value::String(value))));
    };
    let text = |path: &Path| path.to_string_lossy().into_owned();
    set("run.output", args.output.as_deref().map(text));
    set("subject.photos", args.photos.as_deref().map(text));
    set("subject.name", args.subject.clone());
    set("subject.class", args.class.clone());
    set("run.device", args.device.clone());
    let interrupt = Interrupt::install()?;
    if args.all_subjects {
        return all_subjects(args, &overrides, &interrupt);
    }
    match config::load_any(&args.config, &overrides)? {
        Config::Image(mut config) => {
            if args.paper {
                config.apply_paper();
            }
            let manifest = train(&config, &how(args, args.resume), &interrupt)?;
            print_outcome(&config.run.output, &manifest);
            Ok(())
        }
        Config::Text(_) | Config::Reward(_) | Config::Pairs(_) if args.paper || args.profile => {
            let flag = if args.paper { "paper" } else { "profile" };
            Err(Error::config(format!(
                "`--{flag}` belongs to runs on a subject's photos"
            )))
        }
        Config::Pairs(config) => train_pairs::run(&config, args.resume, args.quiet, &interrupt),
        Config::Text(config) => train_text::run(&config, args.resume, args.quiet, &interrupt),
        Config::Reward(config) => train_reward::run(&config, args.resume, args.quiet, &interrupt),
        Config::Iterate(_) => {
            Err(Error::data(&args.config, "describes rounds")
                .with_hint("`preftune iterate` takes it"))
        }
        // Says which verb takes it.
        Config::Pretrain(_) => config::load(&args.config, &overrides).map(drop),
    }
}

fn how(args: &TrainArgs, resume: bool) -> How {
    How {
        resume,
        quiet: args.quiet,
        profile: args.profile,
    }
}

fn print_outcome(run: &Path, manifest: &Manifest) {
    let run = run.display();
    match manifest.record.best {
        Some((step, reward)) => {
            println!("best weights: {run}/best (step {step}, reward {reward:.4})");
        }
        None => println!("weights: {run}/best (step {})", manifest.record.steps),
    }
    let SubjectManifest { token, class, .. } = &manifest.subject;
    println!(
        "try them:     preftune generate --model {run} --prompt \"a {token} {class} on the beach\" --out out/"
    );
}

/// Trains the DreamBench subjects one after the other and prints a row for each.
fn all_subjects(args: &TrainArgs, overrides: &[String], interrupt: &Interrupt) -> Result<()> {
    let placeholder = ["subject.name=\"\"".to_owned()];
    let listing = config::load(&args.config, &[overrides, &placeholder].concat())?;
    let Some(root) = &listing.subject.dreambench else {
        return Err(Error::config(
            "`--all-subjects` needs `subject.dreambench`: the folder of a DreamBench clone",
        ));
    };
    println!(
        "{:<22} {:>8} {:>8} {:>10} {:>10}",
        "subject", "steps", "best at", "reward", "untuned"
    );
    for name in DreamBench::open(root)?.names() {
        let output = listing.run.output.join(name);
        let own = [
            format!("subject.name={name:?}"),
            format!("run.output={:?}", output.to_string_lossy()),
        ];
        let mut config = config::load(&args.config, &[overrides, &own].concat())?;
        if args.paper {
            config.apply_paper();
        }
        let manifest = train(&config, &how(args, true), interrupt)?;
        let (step, reward) = manifest
            .record
            .best
            .unwrap_or((manifest.record.steps, f64::NAN));
        let untuned = manifest.record.untuned_reward.unwrap_or(f64::NAN);
        println!(
            "{name:<22} {:>8} {step:>8} {reward:>10.4} {untuned:>10.4}",
            manifest.record.steps
        );
    }
    Ok(())
}
