//! `preftune eval text`: a tuned language model on pairs of answers, beside the model that it was tuned from; and by answers
//! of both, where a scorer is given.

use std::path::PathBuf;

use clap::Args;

use super::common::JsonArgs;
use crate::cli::device::DeviceArgs;
use crate::cli::model::named;
use crate::cli::progress::Progress;
use crate::cli::table;
use crate::error::Result;
use crate::jobs::eval::text::figure::{Figure, TUNED};
use crate::jobs::eval::text::{
    AnswersProtocol, PairsProtocol, TextJudgement, judge_answers, judge_pairs,
};

#[derive(Args)]
pub(super) struct TextArgs {
    /// Folder of a text run.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Pairs to judge on; what the run held out where it is not given.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Judge the model's own answers by the section `[scorer]` of this configuration (`[generate]` says how they are
    /// sampled), instead of its preferences among pairs: win rate and reward.
    #[arg(
        long,
        value_name = "CONFIG",
        requires = "prompts",
        conflicts_with = "data"
    )]
    scorer: Option<PathBuf>,
    /// With `--scorer`: records with the prompts.
    #[arg(
        long,
        value_name = "FILE",
        requires = "scorer",
        conflicts_with = "data"
    )]
    prompts: Option<PathBuf>,
    /// With `--scorer`: the model that it plays against; the one that it was tuned from where it is not given.
    #[arg(
        long,
        value_name = "MODEL",
        requires = "scorer",
        conflicts_with = "data"
    )]
    #[arg(value_parser = named())]
    against: Option<PathBuf>,
    /// With `--scorer`: override a key, as in `--set generate.validation_samples=4`; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", requires = "scorer")]
    #[arg(conflicts_with = "data")]
    overrides: Vec<String>,
    /// With `--scorer`: seed of the answers.
    #[arg(
        long,
        default_value_t = 0,
        requires = "scorer",
        conflicts_with = "data"
    )]
    seed: u64,
    /// Without `--scorer`: answers in a forward pass.
    #[arg(long, default_value_t = 8, conflicts_with = "scorer", value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: u64,
    #[command(flatten)]
    json: JsonArgs,
    /// No progress.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(super) fn run(args: &TextArgs) -> Result<()> {
    let (device, kind) = args.device.resolve()?;
    let mut progress = Progress::new(args.quiet);
    if let (Some(scorer), Some(prompts)) = (&args.scorer, &args.prompts) {
        let protocol = AnswersProtocol {
            run: args.run.clone(),
            against: args.against.clone(),
            prompts: prompts.clone(),
            scorer: scorer.clone(),
            overrides: args.overrides.clone(),
            seed: args.seed,
            device,
            kind,
        };
        let judgement = judge_answers(&protocol, &mut progress)?;
        let closing = format!(
            "{} prompts; intervals by drawing prompts anew",
            judgement.count
        );
        let flips = judgement
            .flips
            .map(|flips| format!("; {}", flips.in_words()));
        return show(args, &judgement, &(closing + &flips.unwrap_or_default()));
    }
    let protocol = PairsProtocol {
        run: args.run.clone(),
        data: args.data.clone(),
        batch: args.batch as usize,
        device,
        kind,
    };
    let judgement = judge_pairs(&protocol, &mut progress)?;
    let closing = format!("{} pairs; intervals by drawing pairs anew", judgement.count);
    show(args, &judgement, &closing)
}

/// The report where it was asked for, and the table unless the report is printed.
fn show(args: &TextArgs, judgement: &TextJudgement, closing: &str) -> Result<()> {
    if !args.json.write(&judgement.report)? {
        return Ok(());
    }
    let header = ["figure", "value", "95 % interval"].map(str::to_owned);
    let rows: Vec<Vec<String>> = judgement.figures.iter().map(row).collect();
    print!("{}", table::render(&header, &rows));
    println!("{closing}");
    Ok(())
}

/// A figure as tables have it.
fn row(figure: &Figure) -> Vec<String> {
    let interval = figure
        .interval
        .map(|(low, high)| format!("{low:.4} to {high:.4}"));
    let of = if figure.model == TUNED {
        String::new()
    } else {
        format!(", {}", figure.model)
    };
    vec![
        format!("{}{of}", figure.name),
        format!("{:.4}", figure.value),
        interval.unwrap_or_default(),
    ]
}
