//! Claims on reward heads, preference models and rankings in miniature, each with intervals over seeds.
//!
//!     cargo bench --bench claims_heads [-- NAME...]     # cycles users losses transform ranking confidence
//!
//! A few minutes on one core. Tables go to stdout and to `benches/results/claims_heads.md`. Exit code 1: a claim does
//! not hold, and the table says which.
//!
//! The criteria, written down before the seeds of `common::seeds` were first run; intervals are central 95 % bootstrap
//! intervals of the mean over 20 seeds, of differences by seed where two are compared:
//!
//! - cycles of 3 and of 5: the general model gets every held-out pair right with every seed; Bradley-Terry's interval
//!   lies within 0.05 of chance.
//! - transitive data: the general model equals Bradley-Terry, with linear heads and with a hidden layer: the interval of
//!   the difference of accuracies lies within 0.02 of 0, on both sides.
//! - users: PAL is better on seen users, and on unseen ones from 5, 10 and 20 choices (interval above 0); the planted
//!   groups are found with an adjusted Rand index of at least 0.9 (lower end).
//! - losses: scaled Bradley-Terry is better than plain, than with a margin, and than regression (interval above 0).
//! - transform, ranking, confidence: the gain's interval lies above 0.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a bench may stop at a fault, and shows its figures"
)]

mod common;
mod cycles;
mod losses;
mod ranking;
mod transform;
mod users;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use common::Report;

/// A claim's name and what makes its table.
type Claim = (&'static str, fn() -> Report);

fn main() -> ExitCode {
    let all: [Claim; 6] = [
        ("cycles", cycles::run),
        ("users", users::run),
        ("losses", losses::run),
        ("transform", transform::run),
        ("ranking", ranking::systems),
        ("confidence", ranking::confidence),
    ];
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|name| !name.starts_with('-'))
        .collect();
    let chosen = all
        .iter()
        .filter(|(name, _)| asked.is_empty() || asked.iter().any(|a| a == name));
    let mut text = "# Claims on heads and rankings, in miniature\n\nIntervals are central 95 % bootstrap intervals over seeds.\n".to_owned();
    let mut holds = true;
    for (name, run) in chosen {
        let started = Instant::now();
        let report = run();
        let section = format!("\n## {name}\n\n{}", report.text());
        println!("{section}({:.1} s)", started.elapsed().as_secs_f64());
        let _ = write!(text, "{section}");
        holds &= report.holds();
    }
    if asked.is_empty() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results/claims_heads.md");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
