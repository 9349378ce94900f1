//! `preftune eval`: tuned models against the protocols of their field.

mod confidence;
mod dreambench;
mod judges;
mod perplexity;
mod plan;
mod sample;
mod subject;
mod text;
mod text_answers;
mod world;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::Value;

use self::dreambench::DreambenchArgs;
use self::plan::Plan;
use self::subject::SubjectArgs;
use self::text::TextArgs;
use self::world::WorldArgs;
use super::device::DeviceArgs;
use super::progress::Progress;
use crate::error::{Error, Result};
use crate::files::write_atomically;

#[derive(Args)]
pub(super) struct EvalArgs {
    #[command(subcommand)]
    protocol: Protocol,
}

#[derive(Subcommand)]
enum Protocol {
    /// Judge a tuned model on held-out prompts beside its untuned base: likeness, alignment, reward, with intervals.
    ///
    /// By the encoder that gave the reward and by others that did not. Images are kept beside the run; interrupted,
    /// the same command samples what is missing.
    Subject(SubjectArgs),
    /// Judge subject-driven runs: likeness to the photos (DINO, CLIP-I), alignment with the prompts (CLIP-T), reward.
    ///
    /// Images are kept beside the run; interrupted, the same command samples what is missing.
    Dreambench(DreambenchArgs),
    /// Judge a model of the emoji world: whether an encoder recognises in its images what the captions ask for.
    World(WorldArgs),
    /// Judge a tuned language model on pairs beside its base: which answers it prefers, by how much, how far it went.
    Text(TextArgs),
    /// Judge a language model on texts: how well it predicts each next token.
    Perplexity(perplexity::PerplexityArgs),
    /// Judge confidences in answers: selective-classification AUC and AUROC, with intervals.
    Confidence(confidence::ConfidenceArgs),
}

/// What every protocol asks for.
#[derive(Args)]
struct CommonArgs {
    /// Run folders, or folders of runs such as `train --all-subjects` makes.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Encoder of the lambda-Harmonic reward; each run's own where it is not given.
    #[arg(long, value_name = "FOLDER")]
    reward: Option<PathBuf>,
    /// DINO (facebook/dino-vits16); without it there is no DINO column.
    #[arg(long, value_name = "FOLDER")]
    dino: Option<PathBuf>,
    /// Images for each prompt.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1000))]
    images_per_prompt: u64,
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
        Protocol::Subject(args) => subject::run(args),
        Protocol::Dreambench(args) => dreambench::run(args),
        Protocol::World(args) => world::run(args),
        Protocol::Text(args) => text::run(args),
        Protocol::Perplexity(args) => perplexity::run(args),
        Protocol::Confidence(args) => confidence::run(args),
    }
}

impl CommonArgs {
    /// Refuses a file for the figures that could not be written after hours of sampling.
    fn check_json(&self) -> Result<()> {
        if let Some(folder) = self.json.as_deref().and_then(Path::parent)
            && !folder.as_os_str().is_empty()
            && !folder.is_dir()
        {
            return Err(
                Error::data(folder, "no such folder for `--json`").with_hint("create it first")
            );
        }
        Ok(())
    }

    /// The report where it was asked for, and the table unless the report is printed.
    fn show(&self, report: &Value, table: &str) -> Result<()> {
        match &self.json {
            Some(path) if path.as_os_str() == "-" => {
                let text = serde_json::to_string_pretty(report).unwrap_or_default();
                println!("{text}");
                return Ok(());
            }
            Some(path) => write_json(path, report)?,
            None => {}
        }
        print!("{table}");
        Ok(())
    }
}

fn check_guidance(guidance: f64) -> Result<()> {
    if guidance.is_finite() && guidance >= 1.0 {
        Ok(())
    } else {
        Err(Error::config("`--guidance` must be 1 or more"))
    }
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    write_atomically(path, (text + "\n").as_bytes())
}

/// Says what makes means over these runs mean less.
fn warn(plans: &[Plan], progress: &Progress) {
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
    for plan in plans {
        let status = &plan.manifest.record.status;
        if status != crate::run::manifest::FINISHED {
            progress.say(&format!(
                "warning: the run `{}` is {status}, not finished",
                plan.run.display()
            ));
        }
    }
}
