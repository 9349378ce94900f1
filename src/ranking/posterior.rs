//! Intervals of strengths after few games, by sampling from the posterior. The curvature at its peak, which
//! [`super::standard_errors::wald`] goes by, is too sure there: who has won every game may be much stronger than the peak says,
//! and hardly weaker.

use super::bradley_terry::{Fit, Prior};
use super::counts::Counts;
use super::information::variances;
use super::ties::softplus;
use crate::error::{Error, Result};
use crate::ops::random::{derive_seed, split_mix};
use crate::ops::statistics::quantile;

/// Sweeps over all items before the first one that counts.
const BEFORE: usize = 300;
/// Sweeps that count.
const SWEEPS: usize = 3000;
/// Half of the width of a proposal, in standard deviations of an item among the others: about half of them are taken.
const WIDTH: f64 = 2.5;

/// Lower and upper ends between which each strength lies with a probability of `level`, a tie being half a win for each side; the
/// mean of all strengths is zero. By Metropolis' walk, always the same one. `[items]`
///
/// # Errors
/// The fit has no normal prior: without one strengths that won all have no upper end.
pub fn intervals(counts: &Counts, fit: &Fit, level: f64) -> Result<Vec<[f64; 2]>> {
    let Prior::Gaussian { precision } = fit.prior else {
        return Err(Error::config("intervals by sampling need a normal prior"));
    };
    let items = counts.items();
    // Of each item its opponents, with the points that it made against them and those that it lost.
    let mut met: Vec<Vec<(usize, f64, f64)>> = vec![Vec::new(); items];
    for pair in counts.pairs() {
        let (won, lost) = (pair.score(), pair.games() - pair.score());
        met[pair.first as usize].push((pair.second as usize, won, lost));
        met[pair.second as usize].push((pair.first as usize, lost, won));
    }
    let widths: Vec<f64> = variances(counts, fit)
        .iter()
        .map(|variance| WIDTH * variance.sqrt())
        .collect();
    let mut state = derive_seed(0, "posterior", &[items as u64]) as u64;
    let mut draw = || (split_mix(&mut state) >> 11) as f64 / (1_u64 << 53) as f64;
    let mut strengths = fit.theta.clone();
    let mut samples = vec![Vec::with_capacity(SWEEPS); items];
    for sweep in 0..BEFORE + SWEEPS {
        for item in 0..items {
            let (old, new) = (
                strengths[item],
                strengths[item] + widths[item] * (2.0 * draw() - 1.0),
            );
            let cost = |strength: f64| {
                let games = met[item].iter().map(|&(other, won, lost)| {
                    let difference = strength - strengths[other];
                    won * softplus(-difference) + lost * softplus(difference)
                });
                0.5 * precision * strength * strength + games.sum::<f64>()
            };
            if draw().ln() < cost(old) - cost(new) {
                strengths[item] = new;
            }
        }
        if sweep >= BEFORE {
            let mean = strengths.iter().sum::<f64>() / items as f64;
            for (samples, strength) in samples.iter_mut().zip(&strengths) {
                samples.push(strength - mean);
            }
        }
    }
    let tail = 0.5 * (1.0 - level);
    let ends = |mut samples: Vec<f64>| {
        samples.sort_by(f64::total_cmp);
        [quantile(&samples, tail), quantile(&samples, 1.0 - tail)]
    };
    Ok(samples.into_iter().map(ends).collect())
}
