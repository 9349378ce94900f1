//! Bootstrap of a ranking, on all cores: what it would have been with other questions asked.
//!
//! Judgements of one question hang together, so whole groups are drawn with replacement where there are groups
//! (multinomial weights). Without groups every row is drawn by itself, with Poisson weights: equal rows need one draw
//! between them, and the number of games, which strengths do not depend on, is all that varies more.

use crate::ops::statistics::quantile;
use rayon::prelude::*;

use super::comparisons::Comparisons;
use super::counts::Counts;
use super::draws::Draws;
use crate::error::{Error, Result};

/// Strengths under resampled comparisons.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Resamples asked for.
    pub resamples: usize,
    /// Of these, how many had no fit (no maximum of the likelihood, say) and are left out of everything else.
    pub failed: usize,
    /// Strengths of every resample that has a fit. `[resamples - failed][items]`
    pub strengths: Vec<Vec<f64>>,
}

/// Refits resampled counts `resamples` times. `counts` are those of `comparisons`; `fit` gives strengths for counts
/// of the same pairs; `done` is called after each resample.
///
/// An error if more than half of the resamples have no fit.
pub fn bootstrap(
    comparisons: &Comparisons,
    counts: &Counts,
    resamples: usize,
    seed: u64,
    fit: impl Fn(&Counts) -> Result<Vec<f64>> + Sync,
    done: impl Fn() + Sync,
) -> Result<Bootstrap> {
    let positions: Vec<usize> = comparisons
        .games
        .iter()
        .filter_map(|game| counts.position(game.left, game.right))
        .collect();
    let fits: Vec<Result<Vec<f64>>> = (0..resamples)
        .into_par_iter()
        .map(|resample| {
            let mut draws = Draws::new(seed, resample as u64);
            let strengths = fit(&resampled(comparisons, counts, &positions, &mut draws));
            done();
            strengths
        })
        .collect();
    let (fitted, failures): (Vec<_>, Vec<_>) = fits.into_iter().partition(Result::is_ok);
    let failed = failures.len();
    if let Some(Err(error)) = failures.into_iter().next()
        && 2 * failed > resamples
    {
        let problem = format!("{failed} of {resamples} resamples cannot be ranked: {error}");
        return Err(Error::config(problem)
            .with_hint("give a prior, as in `--prior 0.1`, or leave `--bootstrap` out"));
    }
    Ok(Bootstrap {
        resamples,
        failed,
        strengths: fitted.into_iter().filter_map(Result::ok).collect(),
    })
}

fn resampled(
    comparisons: &Comparisons,
    counts: &Counts,
    positions: &[usize],
    draws: &mut Draws,
) -> Counts {
    let groups = comparisons.groups;
    let mut weights = vec![0.0; groups];
    for _ in 0..groups {
        weights[draws.below(groups)] += 1.0;
    }
    counts.refilled(|pairs| {
        for (game, &position) in comparisons.games.iter().zip(positions) {
            let times = game.times as f64;
            let times = match weights.get(game.group as usize) {
                Some(weight) => weight * times,
                None => draws.poisson(times),
            };
            if times > 0.0 {
                let pair = &mut pairs[position];
                let outcome = if game.left == pair.first {
                    game.outcome
                } else {
                    game.outcome.flipped()
                };
                pair.add(outcome, game.weight * times);
            }
        }
    })
}

impl Bootstrap {
    /// The central 95 % of an item's strength, between order statistics by linear interpolation.
    pub fn interval(&self, item: usize) -> [f64; 2] {
        let mut values: Vec<f64> = self.strengths.iter().map(|fit| fit[item]).collect();
        values.sort_unstable_by(f64::total_cmp);
        [0.025, 0.975].map(|share| quantile(&values, share))
    }

    /// The share of resamples in which `first` is stronger than `second`.
    pub fn above(&self, first: usize, second: usize) -> f64 {
        let above = self.strengths.iter().filter(|fit| fit[first] > fit[second]);
        above.count() as f64 / self.strengths.len() as f64
    }

    /// Ranks of every resample. `[resamples - failed][items]`, 1 is the best.
    pub fn ranks(&self) -> Ranks {
        Ranks(self.strengths.par_iter().map(|fit| ranks(fit)).collect())
    }
}

/// Ranks of items under resampled comparisons.
pub struct Ranks(Vec<Vec<usize>>);

impl Ranks {
    /// The central 95 % of an item's rank, rounded outwards.
    pub fn interval(&self, item: usize) -> [usize; 2] {
        let mut values: Vec<usize> = self.0.iter().map(|ranks| ranks[item]).collect();
        values.sort_unstable();
        let last = (values.len().max(1) - 1) as f64;
        let at = |place: f64| values.get(place as usize).copied().unwrap_or_default();
        [at((0.025 * last).floor()), at((0.975 * last).ceil())]
    }

    /// The share of resamples in which the item is first; firsts that are equally strong share one.
    pub fn best(&self, item: usize) -> f64 {
        let share = |ranks: &Vec<usize>| {
            let first = ranks.iter().filter(|rank| **rank == 1).count();
            if ranks[item] == 1 {
                1.0 / first as f64
            } else {
                0.0
            }
        };
        self.0.iter().map(share).sum::<f64>() / self.0.len() as f64
    }
}

/// Rank of every item: one more than the number of stronger ones. `[items]`
pub fn ranks(strengths: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..strengths.len()).collect();
    order.sort_by(|&one, &other| strengths[other].total_cmp(&strengths[one]));
    let mut ranks = vec![1; strengths.len()];
    for place in 1..order.len() {
        let (before, item) = (order[place - 1], order[place]);
        ranks[item] = if strengths[item] < strengths[before] {
            place + 1
        } else {
            ranks[before]
        };
    }
    ranks
}
