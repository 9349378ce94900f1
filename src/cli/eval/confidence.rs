//! `preftune eval confidence`: how well confidences tell right answers from wrong ones, those from matching questions
//! against each other (arXiv 2502.01126) beside those that were given directly.

use std::path::PathBuf;

use clap::Args;

use crate::cli::output::print_json;
use crate::cli::table;
use crate::error::Result;
use crate::jobs::eval::confidence::{ConfidenceJudgement, ConfidenceProtocol, judge};
use crate::ranking::answers::Answers;
use crate::ranking::selective::Row;

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
    let ConfidenceJudgement { answers, rows } = judge(&ConfidenceProtocol {
        answers: args.answers.clone(),
        scores: args.scores.clone(),
        comparisons: args.comparisons.clone(),
        prior: args.prior,
        bootstrap: args.bootstrap,
        seed: args.seed,
    })?;
    if args.json {
        print_json(&rows);
    } else {
        print(&rows, &answers);
    }
    Ok(())
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
