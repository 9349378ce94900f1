//! `preftune eval text`: a tuned language model on pairs of answers, beside the model that it was tuned from; and by answers
//! of both, where a scorer is given.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::common::{JsonArgs, write_json};
use super::figure::{BASE, Figure, TUNED};
use super::text_answers::{Contest, Contested};
use crate::cli::device::DeviceArgs;
use crate::cli::progress::{Progress, warn};
use crate::cli::table;
use crate::config;
use crate::data::text::{self, Shape};
use crate::error::{Error, Result};
use crate::eval::bootstrap::Bootstrap;
use crate::eval::calibration::expected_calibration_error;
use crate::files::write_atomically;
use crate::jobs;
use crate::jobs::Display as _;
use crate::jobs::open::text::{Loaded, open};
use crate::jobs::text::data::HELD_OUT;
use crate::models::lm::LanguageModel;
use crate::ops::stable::sigmoid;
use crate::run::data_manifest::DataManifest;
use crate::run::evaluation::{ANSWERS_FILE, METRICS_FILE};
use crate::run::manifest;
use crate::trainer::text::{Compared, Examples, compare};

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
    #[arg(long, value_name = "FILE", requires = "scorer")]
    prompts: Option<PathBuf>,
    /// With `--scorer`: the model that it plays against; the one that it was tuned from where it is not given.
    #[arg(long, value_name = "MODEL", requires = "scorer")]
    against: Option<PathBuf>,
    /// With `--scorer`: override a key, as in `--set generate.validation_samples=4`; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", requires = "scorer")]
    overrides: Vec<String>,
    /// With `--scorer`: seed of the answers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Answers in a forward pass.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=4096))]
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
    let manifest: DataManifest = manifest::read(&args.run)?;
    if let (Some(scorer), Some(prompts)) = (&args.scorer, &args.prompts) {
        let contest = Contest {
            model: &args.run,
            other: args.against.as_deref().unwrap_or(&manifest.base_model),
            role: if args.against.is_some() {
                "other"
            } else {
                BASE
            },
            prompts,
            scoring: &config::load_scoring(scorer, &args.overrides)?,
            seed: args.seed,
            device: (device, kind),
        };
        let Contested {
            figures,
            prompts: count,
            answers,
            flips,
        } = contest.figures(&mut Progress::new(args.quiet))?;
        let report = json!({
            "run": args.run,
            "protocol": {
                "prompts": count, "against": contest.other, "scorer": scorer,
                "samples": contest.scoring.generate.validation_samples, "seed": args.seed,
            },
            "bootstrap": describe_bootstrap("prompts"),
            "figures": figures.iter().map(Figure::json).collect::<Vec<_>>(),
            "both_orders": flips,
        });
        write(&args.run, "answers", &report)?;
        let file = args.run.join("eval/answers").join(ANSWERS_FILE);
        write_atomically(&file, answers.as_bytes())?;
        let mut closing = format!("{count} prompts; intervals by drawing prompts anew");
        if let Some(flips) = flips {
            closing = format!("{closing}; {}", flips.in_words());
        }
        return show(args, &report, &figures, &closing);
    }
    let config = config::load_text(&args.run.join("config.toml"), &[])?;
    let Loaded {
        model, tokenizer, ..
    } = open(&args.run, device, kind)?;
    warn(&tokenizer);
    let examples = if let Some(path) = &args.data {
        let records = text::read(path, Shape::Pairs)?;
        Examples::encode(&records, &tokenizer, &config.data)?
    } else {
        let inputs = jobs::text::data::read(&config)?;
        if inputs.objective.shape() != Shape::Pairs {
            let problem = format!(
                "the run's data for `{}` are no pairs",
                inputs.objective.name()
            );
            return Err(Error::config(problem).with_hint("give pairs by `--data FILE`"));
        }
        // Others may have been learnt from.
        if inputs.hashes.get(HELD_OUT) != manifest.record.inputs.get(HELD_OUT) {
            let problem =
                "the run's data no longer hold out the records that the run was not trained on";
            return Err(Error::config(problem).with_hint(
                "the data or the version of preftune have changed: give pairs by `--data FILE`",
            ));
        }
        inputs.held_out
    };
    if examples.examples.is_empty() {
        return Err(Error::config("there are no pairs to judge on")
            .with_hint("the run held nothing out: give pairs by `--data FILE`"));
    }
    let base = LanguageModel::open(&manifest.base_model, device, kind, kind)?;
    let mut progress = Progress::new(args.quiet);
    let mut advance = |done, total| {
        progress.advance("compare", done, total);
        Ok(())
    };
    let compared = compare(
        &model,
        &base,
        &examples.examples,
        args.batch as usize,
        &mut advance,
    )?;
    let mut figures = figures(&compared);
    figures.extend(calibration(&compared, &manifest));
    let report = json!({
        "run": args.run,
        "protocol": {
            "pairs": examples.examples.len(), "left_out": examples.dropped.len(),
            "data": args.data.as_deref().map_or("held out".into(), Path::to_string_lossy), "base": manifest.base_model,
        },
        "bootstrap": describe_bootstrap("pairs"),
        "figures": figures.iter().map(Figure::json).collect::<Vec<_>>(),
    });
    write(&args.run, "pairs", &report)?;
    let pairs = examples.examples.len();
    let closing = format!("{pairs} pairs; intervals by drawing pairs anew");
    show(args, &report, &figures, &closing)
}

/// Keeps what was found with the run, for its page.
fn write(run: &Path, name: &str, report: &Value) -> Result<()> {
    let folder = run.join("eval").join(name);
    std::fs::create_dir_all(&folder).map_err(|source| Error::io("create", &folder, source))?;
    write_json(&folder.join(METRICS_FILE), report)
}

/// The record of how intervals are made.
fn describe_bootstrap(over: &str) -> Value {
    let bootstrap = Bootstrap::default();
    json!({"over": over, "level": bootstrap.level, "resamples": bootstrap.resamples, "seed": bootstrap.seed})
}

/// The report where it was asked for, and the table unless the report is printed.
fn show(args: &TextArgs, report: &Value, figures: &[Figure], closing: &str) -> Result<()> {
    if !args.json.write(report)? {
        return Ok(());
    }
    let header = ["figure", "value", "95 % interval"].map(str::to_owned);
    let rows: Vec<Vec<String>> = figures.iter().map(Figure::row).collect();
    print!("{}", table::render(&header, &rows));
    println!("{closing}");
    Ok(())
}

/// How well `sigmoid(beta h)`, the model's own probability that the chosen answer is the better one, comes true; of
/// objectives with a `beta` and a reference.
fn calibration(compared: &[Compared], manifest: &DataManifest) -> Option<Figure> {
    let beta = manifest
        .numbers
        .get("beta")
        .filter(|_| manifest.reference != "none")?;
    let ratio = |one: &Compared| one.tuned - one.base;
    let pairs = compared.chunks_exact(2);
    let probabilities: Vec<f64> = pairs
        .map(|pair| sigmoid(beta * (ratio(&pair[0]) - ratio(&pair[1]))))
        .collect();
    Some(Figure {
        name: "calibration error",
        model: TUNED,
        value: expected_calibration_error(&probabilities),
        interval: None,
    })
}

/// Figures of pairs whose chosen and rejected answers follow each other.
fn figures(compared: &[Compared]) -> Vec<Figure> {
    let pairs = || compared.chunks_exact(2).map(|pair| (pair[0], pair[1]));
    let ratio = |one: Compared| one.tuned - one.base;
    let ahead = |lead: f64| f64::from(u8::from(lead > 0.0));
    vec![
        Figure::new(
            "accuracy",
            pairs().map(|(chosen, rejected)| ahead(ratio(chosen) - ratio(rejected))),
        ),
        Figure::new(
            "margin (nats)",
            pairs().map(|(chosen, rejected)| ratio(chosen) - ratio(rejected)),
        ),
        Figure::new(
            "chosen more likely",
            pairs().map(|(chosen, rejected)| ahead(chosen.tuned - rejected.tuned)),
        ),
        Figure::new(
            "chosen more likely",
            pairs().map(|(chosen, rejected)| ahead(chosen.base - rejected.base)),
        )
        .of_model(BASE),
        Figure::new(
            "log-ratio of chosen",
            pairs().map(|(chosen, _)| ratio(chosen)),
        ),
        Figure::new(
            "log-ratio of rejected",
            pairs().map(|(_, rejected)| ratio(rejected)),
        ),
        Figure::new(
            "KL a token, chosen",
            pairs().map(|(chosen, _)| chosen.kl / chosen.length),
        ),
        Figure::new(
            "KL a token, rejected",
            pairs().map(|(_, rejected)| rejected.kl / rejected.length),
        ),
    ]
}
