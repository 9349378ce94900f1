//! Several confidences of the same answers beside each other, with bootstrap intervals over the answers.

use crate::ops::statistics::quantile;
use rayon::prelude::*;
use serde::Serialize;

use super::confidence::{auroc, selective_accuracy, selective_auc};
use super::draws::Draws;
use crate::error::Result;

/// One confidence.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Its name.
    pub name: String,
    /// One number for each answer, the higher the surer.
    pub values: Vec<f64>,
}

/// How well a confidence tells right answers from wrong ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Name of the confidence.
    pub name: String,
    /// Mean accuracy over coverages.
    pub selective_auc: f64,
    /// Its central 95 %.
    pub selective_auc_interval: Option<[f64; 2]>,
    /// Probability that a right answer is the surer one; none where all answers are right or all wrong.
    pub auroc: Option<f64>,
    /// Its central 95 %.
    pub auroc_interval: Option<[f64; 2]>,
    /// Accuracy of the surer half.
    pub accuracy_at_half: f64,
    /// Selective AUC less that of each other confidence, by its name, with the central 95 %.
    pub gains: Vec<Gain>,
}

/// A difference of selective AUCs on the same answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gain {
    /// The confidence that this one is compared with.
    pub over: String,
    /// Difference.
    pub gain: f64,
    /// Its central 95 %, from resampled answers.
    pub interval: Option<[f64; 2]>,
}

/// Measures all scores. `resamples` of the answers, the same for all scores, give the intervals; 0 for none.
///
/// # Errors
/// As in [`selective_accuracy`].
pub fn compare(
    scores: &[Score],
    correct: &[bool],
    resamples: usize,
    seed: u64,
) -> Result<Vec<Row>> {
    let measure = |correct: &[bool], pick: Option<&[usize]>| -> Result<Vec<(f64, Option<f64>)>> {
        let of_score = |score: &Score| {
            let values = match pick {
                Some(pick) => pick.iter().map(|&answer| score.values[answer]).collect(),
                None => score.values.clone(),
            };
            Ok((
                selective_auc(&values, correct)?,
                auroc(&values, correct).ok(),
            ))
        };
        scores.iter().map(of_score).collect()
    };
    let whole = measure(correct, None)?;
    let resampled: Vec<Vec<(f64, Option<f64>)>> = (0..resamples)
        .into_par_iter()
        .map(|resample| {
            let mut draws = Draws::new(seed, resample as u64);
            let pick: Vec<usize> = correct.iter().map(|_| draws.below(correct.len())).collect();
            let drawn: Vec<bool> = pick.iter().map(|&answer| correct[answer]).collect();
            measure(&drawn, Some(&pick))
        })
        .collect::<Result<_>>()?; // [resamples][scores]
    let row = |(index, score): (usize, &Score)| {
        let accuracy = selective_accuracy(&score.values, correct)?;
        let gains = scores
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index);
        Ok(Row {
            name: score.name.clone(),
            selective_auc: whole[index].0,
            selective_auc_interval: central(resampled.iter().map(|all| all[index].0)),
            auroc: whole[index].1,
            auroc_interval: central(resampled.iter().filter_map(|all| all[index].1)),
            accuracy_at_half: accuracy[(accuracy.len() - 1) / 2],
            gains: gains
                .map(|(other, score)| Gain {
                    over: score.name.clone(),
                    gain: whole[index].0 - whole[other].0,
                    interval: central(resampled.iter().map(|all| all[index].0 - all[other].0)),
                })
                .collect(),
        })
    };
    scores.iter().enumerate().map(row).collect()
}

/// Central 95 % of values; none of no values.
fn central(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| [0.025, 0.975].map(|share| quantile(&sorted, share)))
}
