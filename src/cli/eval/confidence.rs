//! `preftune eval confidence`: how well confidences tell right answers from wrong ones, those from matching questions
//! against each other (arXiv 2502.01126) beside those that were given directly.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Args;

use crate::cli::table;
use crate::error::{Error, Result};
use crate::ranking::answers::Answers;
use crate::ranking::comparisons::Keep;
use crate::ranking::selective::{Row, Score, compare};
use crate::ranking::standings::{Errors, Method, Options, rank};
use crate::ranking::{Comparisons, Prior, Ties, read};

/// How far one game moves an Elo rating, and over how many orders ratings are averaged.
const ELO: Method = Method::Elo {
    k: 32.0,
    orders: 100,
};

#[derive(Args)]
pub(super) struct ConfidenceArgs {
    /// Answers, .csv, .tsv or .jsonl: `item`, `correct` (true, false, 1, 0) and columns of scores, the higher the surer.
    #[arg(long, value_name = "FILE")]
    answers: PathBuf,
    /// Columns of scores, such as a direct confidence or the agreement of samples [default: all numbers].
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    scores: Option<Vec<String>>,
    /// Comparisons of the items by confidence, such as `rank --pairs` keeps.
    #[arg(long, value_name = "FILE")]
    comparisons: Option<PathBuf>,
    /// Precision of the normal prior on strengths.
    #[arg(long, value_name = "PRECISION", default_value_t = 0.1)]
    prior: f64,
    /// Resamples of the answers, for intervals.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    bootstrap: usize,
    /// Seed of the bootstrap and of the orders of Elo.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ConfidenceArgs) -> Result<()> {
    if !(args.prior.is_finite() && args.prior > 0.0) {
        let problem = format!("`--prior {}`: it must be a positive number", args.prior);
        return Err(Error::config(problem));
    }
    let answers = Answers::read(&args.answers, args.scores.as_deref())?;
    let mut scores: Vec<Score> = answers
        .scores
        .iter()
        .map(|(name, values)| Score {
            name: name.clone(),
            values: values.clone(),
        })
        .collect();
    if let Some(path) = &args.comparisons {
        let keep = Keep {
            order: true,
            groups: false,
        };
        let comparisons = read::read(path, &read::Asked::default(), keep)?;
        for (name, method) in [("bradley-terry", Method::BradleyTerry), ("elo", ELO)] {
            scores.push(Score {
                name: name.to_owned(),
                values: relative(args, &answers, &comparisons, method)?,
            });
        }
    }
    if scores.is_empty() {
        return Err(Error::data(&args.answers, "there are no scores in it")
            .with_hint("name columns with `--scores`, or give `--comparisons`"));
    }
    let rows = compare(&scores, &answers.correct, args.bootstrap, args.seed)?;
    if args.json {
        let text = serde_json::to_string_pretty(&rows);
        println!(
            "{}",
            text.map_err(|error| Error::config(error.to_string()))?
        );
    } else {
        print(&rows, &answers);
    }
    Ok(())
}

/// Strength of each answered item among the compared ones.
fn relative(
    args: &ConfidenceArgs,
    answers: &Answers,
    comparisons: &Comparisons,
    method: Method,
) -> Result<Vec<f64>> {
    let options = Options {
        method,
        ties: Ties::Half,
        prior: Prior::Gaussian {
            precision: args.prior,
        },
        errors: Errors::None,
        bootstrap: 0,
        seed: args.seed,
        anchor: None,
    };
    let ranking = rank(comparisons, &options, || {})?;
    let standings = ranking.standings.iter();
    let strengths: HashMap<&str, f64> = standings
        .map(|row| (row.item.as_str(), row.strength))
        .collect();
    let strength = |item: &String| {
        strengths.get(item.as_str()).copied().ok_or_else(|| {
            Error::data(
                &args.answers,
                format!("`{item}` is in none of the comparisons"),
            )
        })
    };
    answers.items.iter().map(strength).collect()
}

fn print(rows: &[Row], answers: &Answers) {
    let interval = |interval: Option<[f64; 2]>| {
        interval.map_or_else(String::new, |[low, high]| format!("{low:.3} .. {high:.3}"))
    };
    let header = [
        "score",
        "selective AUC",
        "95%",
        "AUROC",
        "95%",
        "accuracy of surer half",
    ];
    let cells = |row: &Row| {
        vec![
            row.name.clone(),
            format!("{:.4}", row.selective_auc),
            interval(row.selective_auc_interval),
            row.auroc
                .map_or_else(|| "-".to_owned(), |auroc| format!("{auroc:.4}")),
            interval(row.auroc_interval),
            format!("{:.4}", row.accuracy_at_half),
        ]
    };
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    print!("{}", table::render(&header.map(str::to_owned), &cells));
    println!();
    if let Some(last) = rows.last().filter(|row| !row.gains.is_empty()) {
        let best = rows
            .iter()
            .find(|row| row.name == "bradley-terry")
            .unwrap_or(last);
        for gain in &best.gains {
            println!(
                "selective AUC of {} less that of {}: {:+.4}  {}",
                best.name,
                gain.over,
                gain.gain,
                interval(gain.interval)
            );
        }
    }
    let right = answers.correct.iter().filter(|correct| **correct).count();
    println!(
        "{} answers, {:.1} % right",
        answers.items.len(),
        100.0 * right as f64 / answers.items.len() as f64
    );
}
