//! How well confidences tell right answers from wrong ones: those from matching questions against each other
//! (arXiv 2502.01126) beside those that were given directly.

use std::collections::HashMap;
use std::path::PathBuf;

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

/// Answers, and the confidences in them that are judged.
#[derive(Clone, Debug)]
pub struct ConfidenceProtocol {
    /// Table of `item`, `correct` and columns of scores, the higher the surer.
    pub answers: PathBuf,
    /// Columns of scores; all numbers where they are not named.
    pub scores: Option<Vec<String>>,
    /// Table of comparisons of the items by confidence.
    pub comparisons: Option<PathBuf>,
    /// Precision of the normal prior on strengths, positive.
    pub prior: f64,
    /// Resamples of the answers, for intervals.
    pub bootstrap: usize,
    /// Seed of the bootstrap and of the orders of Elo.
    pub seed: u64,
}

/// Confidences beside each other.
#[derive(Clone, Debug)]
pub struct ConfidenceJudgement {
    /// The answers.
    pub answers: Answers,
    /// A row for each score: columns of the table, then strengths by the comparisons.
    pub rows: Vec<Row>,
}

/// Judges all scores of a table and, where comparisons are given, the strengths that follow from them.
///
/// # Errors
/// A table that cannot be read, an answer that no comparison is of, no scores at all.
pub fn judge(protocol: &ConfidenceProtocol) -> Result<ConfidenceJudgement> {
    if !(protocol.prior.is_finite() && protocol.prior > 0.0) {
        let problem = format!("`--prior {}`: it must be a positive number", protocol.prior);
        return Err(Error::config(problem));
    }
    let answers = Answers::read(&protocol.answers, protocol.scores.as_deref())?;
    let mut scores: Vec<Score> = answers
        .scores
        .iter()
        .map(|(name, values)| Score {
            name: name.clone(),
            values: values.clone(),
        })
        .collect();
    if let Some(path) = &protocol.comparisons {
        let keep = Keep {
            order: true,
            groups: false,
        };
        let comparisons = read::read(path, &read::Asked::default(), keep)?;
        for (name, method) in [("bradley-terry", Method::BradleyTerry), ("elo", ELO)] {
            scores.push(Score {
                name: name.to_owned(),
                values: relative(protocol, &answers, &comparisons, method)?,
            });
        }
    }
    if scores.is_empty() {
        return Err(Error::data(&protocol.answers, "there are no scores in it")
            .with_hint("name columns with `--scores`, or give `--comparisons`"));
    }
    let rows = compare(&scores, &answers.correct, protocol.bootstrap, protocol.seed)?;
    Ok(ConfidenceJudgement { answers, rows })
}

/// Strength of each answered item among the compared ones.
fn relative(
    protocol: &ConfidenceProtocol,
    answers: &Answers,
    comparisons: &Comparisons,
    method: Method,
) -> Result<Vec<f64>> {
    let options = Options {
        method,
        ties: Ties::Half,
        prior: Prior::Gaussian {
            precision: protocol.prior,
        },
        errors: Errors::None,
        bootstrap: 0,
        seed: protocol.seed,
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
                &protocol.answers,
                format!("`{item}` is in none of the comparisons"),
            )
        })
    };
    answers.items.iter().map(strength).collect()
}
