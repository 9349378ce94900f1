//! The numbers that a row may have beside its texts.

use serde_json::Value;

use crate::data::columns::Columns;
use crate::data::left_out::shown;

/// The values of a row's columns of numbers.
pub(in crate::data) struct Numbers {
    pub(in crate::data) weight: f64,
    pub(in crate::data) wins: Option<[f64; 2]>,
    pub(in crate::data) scores: Option<[f64; 2]>,
    pub(in crate::data) margin: Option<f64>,
    pub(in crate::data) proposal: Vec<f64>,
    pub(in crate::data) reference: Option<[f64; 2]>,
}

/// Names of the two numbers of a pair.
const WINS: [&str; 2] = ["chosen_probs_win", "chosen_probs_lose"];
/// Name of the log-probs of all answers.
const PROPOSAL: &str = "proposal_logps";
const REFERENCE: [&str; 2] = ["ref_chosen_logps", "ref_rejected_logps"];
const SCORES: [[&str; 2]; 5] = [
    ["chosen_score", "rejected_score"],
    ["score_chosen", "score_rejected"],
    ["chosen_rating", "rejected_rating"],
    ["chosen-rating", "rejected-rating"],
    ["chosen_avg_rating", "rejected_avg_rating"],
];

/// The columns that [`Numbers::read`] looks for, but for `weight`.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let both = SCORES.into_iter().chain([WINS, REFERENCE]).flatten();
    both.chain(["margin", "chosen_prob", PROPOSAL])
}

impl Numbers {
    /// Reads `weight`, `chosen_prob` (or SPPO's pair of them), `chosen_score` with `rejected_score`, `margin`,
    /// `ref_chosen_logps` with `ref_rejected_logps` and, of each of `answers` answers, `proposal_logps`.
    pub(in crate::data) fn read(columns: &Columns, answers: usize) -> Result<Self, String> {
        let weight = number(columns, "weight")?.unwrap_or(1.0);
        if weight < 0.0 {
            return Err(format!("`weight` is {weight}, but must be at least 0"));
        }
        let margin = number(columns, "margin")?;
        let wins = match number(columns, "chosen_prob")? {
            Some(chosen) => Some([chosen, 1.0 - chosen]),
            None => both(columns, WINS)?,
        };
        if let Some(wins) = wins.filter(|wins| wins.iter().any(|win| !(0.0..=1.0).contains(win))) {
            return Err(format!(
                "the probabilities to win are {wins:?}, but must be 0 to 1"
            ));
        }
        let mut scores = None;
        for names in SCORES {
            if scores.is_none() {
                scores = both(columns, names)?;
            }
        }
        let reference = both(columns, REFERENCE)?;
        if let Some(logp) = reference.iter().flatten().find(|logp| **logp > 0.0) {
            return Err(format!(
                "`{}` or `{}` is {logp}, which is no log-prob",
                REFERENCE[0], REFERENCE[1]
            ));
        }
        Ok(Self {
            weight,
            margin,
            wins,
            scores,
            proposal: proposal(columns, answers)?,
            reference,
        })
    }
}

/// Log-probs of a prompt's answers by what they were sampled from; empty where they are not given.
fn proposal(columns: &Columns, answers: usize) -> Result<Vec<f64>, String> {
    let values = match columns.get(PROPOSAL) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(other) => return Err(format!("`{PROPOSAL}` is no list: {}", shown(other))),
    };
    if values.len() != answers {
        let count = values.len();
        return Err(format!(
            "`{PROPOSAL}` has {count} numbers for {answers} answers"
        ));
    }
    let logp = |value: &Value| {
        let logp = value
            .as_f64()
            .filter(|logp| *logp <= 0.0 && logp.is_finite());
        logp.ok_or_else(|| format!("`{PROPOSAL}` has {}, which is no log-prob", shown(value)))
    };
    values.iter().map(logp).collect()
}

fn both(columns: &Columns, names: [&str; 2]) -> Result<Option<[f64; 2]>, String> {
    match (number(columns, names[0])?, number(columns, names[1])?) {
        (Some(first), Some(second)) => Ok(Some([first, second])),
        (None, None) => Ok(None),
        (first, _) => {
            let (there, lacks) = if first.is_some() { (0, 1) } else { (1, 0) };
            Err(format!(
                "there is `{}`, but no `{}`",
                names[there], names[lacks]
            ))
        }
    }
}

/// The number of a column, also one in words, as tables of text have them.
pub(in crate::data) fn number(columns: &Columns, name: &str) -> Result<Option<f64>, String> {
    let Some(value) = columns.filled(name) else {
        return Ok(None);
    };
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        value => value.as_f64(),
    };
    let number = number.filter(|number: &f64| number.is_finite());
    let number =
        number.ok_or_else(|| format!("`{name}` is {}, not a finite number", shown(value)))?;
    Ok(Some(number))
}
