//! `preftune eval`: tuned models against the protocols of their field.

mod confidence;
mod judge;
mod plan;
mod sample;
mod show;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Subcommand};

use self::judge::{Judged, Judges};
use self::plan::Plan;
use self::sample::Sampling;
use super::device::DeviceArgs;
use super::generate::SamplerArg;
use super::progress::Progress;
use crate::error::{Error, Result};
use crate::eval::bootstrap::Bootstrap;
use crate::files::write_atomically;
use crate::run::evaluation::METRICS_FILE;

#[derive(Args)]
pub(super) struct EvalArgs {
    #[command(subcommand)]
    protocol: Protocol,
}

#[derive(Subcommand)]
enum Protocol {
    /// Judge subject-driven runs: likeness to the photos (DINO, CLIP-I), alignment with the prompts (CLIP-T), reward.
    ///
    /// Images are kept beside the run; interrupted, the same command samples what is missing.
    Dreambench(DreambenchArgs),
    /// Judge confidences in answers: selective-classification AUC and AUROC, with intervals.
    Confidence(confidence::ConfidenceArgs),
}

#[derive(Args)]
struct DreambenchArgs {
    /// Run folders, or folders of runs such as `train --all-subjects` makes.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// CLIP for CLIP-I and CLIP-T; published numbers are openai/clip-vit-base-patch16's.
    #[arg(long, value_name = "FOLDER")]
    clip: PathBuf,
    /// DINO (facebook/dino-vits16); without it there is no DINO column.
    #[arg(long, value_name = "FOLDER")]
    dino: Option<PathBuf>,
    /// Encoder of the lambda-Harmonic reward; each run's own where it is not given.
    #[arg(long, value_name = "FOLDER")]
    reward: Option<PathBuf>,
    /// DreamBench clone for the 25 test prompts; the run's own where it is not given.
    #[arg(long, value_name = "FOLDER")]
    dreambench: Option<PathBuf>,
    /// A file of prompts, one a line with `{token}` and `{class}`, instead of the 25.
    #[arg(long, value_name = "FILE", conflicts_with = "dreambench")]
    prompts: Option<PathBuf>,
    /// Also judge the untuned base model, from the same noise.
    #[arg(long)]
    base: bool,
    /// Images for each prompt.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1000))]
    images_per_prompt: u64,
    /// The sampler; these defaults are the paper's protocol.
    #[arg(long, value_enum, default_value = "ddim")]
    sampler: SamplerArg,
    /// Denoising steps.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    steps: u64,
    /// Classifier-free guidance; 1 is none.
    #[arg(long, default_value_t = 7.5)]
    guidance: f64,
    /// Images denoised together.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: u64,
    /// Side of the images in pixels; the run's training resolution where it is not given, else the model's own.
    #[arg(long, value_name = "PIXELS")]
    size: Option<u32>,
    /// Seed of the images.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder for images and figures; each run's `eval` where it is not given.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Write everything to this file; `-` prints it instead of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No progress.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(super) fn run(args: &EvalArgs) -> Result<()> {
    match &args.protocol {
        Protocol::Dreambench(args) => dreambench(args),
        Protocol::Confidence(args) => confidence::run(args),
    }
}

fn dreambench(args: &DreambenchArgs) -> Result<()> {
    let started = Instant::now();
    if !args.guidance.is_finite() || args.guidance < 1.0 {
        return Err(Error::config("`--guidance` must be 1 or more"));
    }
    if let Some(folder) = args.json.as_deref().and_then(Path::parent)
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        return Err(Error::data(folder, "no such folder for `--json`").with_hint("create it first"));
    }
    // All that can be wrong is found before hours of sampling.
    let (device, kind) = args.device.resolve()?;
    let plans = plan::plans(args)?;
    let mut judges = Judges::open(args, &plans, device)?;
    let mut progress = Progress::new(args.quiet);
    let bases: BTreeSet<&str> = plans
        .iter()
        .map(|plan| plan.manifest.base_unet_sha256.as_str())
        .collect();
    if bases.len() > 1 {
        progress.say(&format!(
            "warning: the runs have {} different base models: means mix them",
            bases.len()
        ));
    }

    let mut sampling = Sampling::new(args, device, kind);
    let mut all: Vec<(Plan, Judged)> = Vec::with_capacity(plans.len());
    let count = plans.len();
    for (number, plan) in plans.into_iter().enumerate() {
        if plan.manifest.status != "finished" {
            let status = &plan.manifest.status;
            progress.say(&format!(
                "warning: the run `{}` is {status}, not finished",
                plan.run.display()
            ));
        }
        if count > 1 {
            progress.say(&format!("{} ({} of {count})", plan.label, number + 1));
        }
        let judged = judges.judge(&plan, args.base, &mut sampling, &mut progress)?;
        let report = show::run_report(args, &plan, &judged, &judges);
        write_json(&plan.folder.join(METRICS_FILE), &report)?;
        all.push((plan, judged));
    }

    let bootstrap = Bootstrap {
        seed: args.seed,
        ..Bootstrap::default()
    };
    let summary = show::Totals::new(&all, &bootstrap);
    let report = show::report(
        args,
        &all,
        &summary,
        &judges,
        &sampling,
        &bootstrap,
        started.elapsed().as_secs_f64(),
    );
    match &args.json {
        Some(path) if path.as_os_str() == "-" => {
            println!(
                "{}",
                serde_json::to_string_pretty(&report).unwrap_or_default()
            );
            return Ok(());
        }
        Some(path) => write_json(path, &report)?,
        None => {}
    }
    print!("{}", show::people(args, &all, &summary, &judges));
    Ok(())
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    write_atomically(path, (text + "\n").as_bytes())
}
