//! Standard errors of fitted strengths, in the gauge where their mean is zero.

use rayon::prelude::*;

use super::bradley_terry::Fit;
use super::counts::Counts;
use super::newton::Problem;
use super::ties::Ties;
use crate::error::{Error, Result};
use crate::ops::stable::sigmoid;

/// From the curvature of the log-posterior at the fit (Wald). It takes the model at its word, and games as
/// independent. `[items]`
pub fn wald(counts: &Counts, fit: &Fit) -> Result<Vec<f64>> {
    let n = counts.items();
    let covariance = covariance(counts, fit)?;
    Ok((0..n).map(|i| covariance[i * n + i].sqrt()).collect())
}

/// From curvature and the spread of the scores of single games (sandwich, Huber 1967), which does not need the
/// model to be right. Weights count as games. `[items]`
///
/// Only for ties that are half a win or left out.
pub fn sandwich(counts: &Counts, fit: &Fit) -> Result<Vec<f64>> {
    if fit.ties.has_parameter() {
        return Err(Error::config(
            "sandwich standard errors are for ties that are half a win or dropped: use `--ties half`, or `--bootstrap`",
        ));
    }
    let n = counts.items();
    let covariance = covariance(counts, fit)?;
    let spreads: Vec<(usize, usize, f64)> = counts
        .pairs()
        .iter()
        .map(|pair| {
            let (i, j) = (pair.first as usize, pair.second as usize);
            let d = fit.theta[i] - fit.theta[j];
            let (p, q) = (sigmoid(d), sigmoid(-d));
            let ties = if fit.ties == Ties::Drop {
                0.0
            } else {
                pair.ties
            };
            (
                i,
                j,
                pair.wins * q * q + pair.losses * p * p + ties * (0.5 - p).powi(2),
            )
        })
        .collect();
    Ok(covariance
        .par_chunks(n)
        .map(|row| {
            let variance =
                |&(i, j, spread): &(usize, usize, f64)| spread * (row[i] - row[j]).powi(2);
            spreads.iter().map(variance).sum::<f64>().sqrt()
        })
        .collect())
}

fn covariance(counts: &Counts, fit: &Fit) -> Result<Vec<f64>> {
    let problem = Problem {
        counts,
        ties: fit.model(),
        prior: fit.prior,
    };
    problem.covariance(&fit.theta, fit.log_nu()).ok_or_else(|| {
        Error::config("the curvature of the likelihood is singular: there are no standard errors")
            .with_hint("give a stronger prior, as in `--prior 0.1`")
    })
}
