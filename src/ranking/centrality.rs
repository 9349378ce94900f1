//! Rank centrality (Negahban, Oh and Shah 2017): a walk from each item to those that beat it stays longest where
//! the best items are; under the Bradley-Terry model its stationary share estimates `e^theta`.

use super::connectivity::components;
use super::counts::Counts;
use crate::error::{Error, Result};

/// Up to here the stationary distribution is found by elimination, beyond by iteration.
const DENSE_ITEMS: usize = 1000;
const MAX_STEPS: usize = 200_000;

/// Stationary distribution of the chain that goes from `i` to an opponent `j` with probability (share of their games
/// that `j` won, a tie being half) / (largest number of opponents), and else stays. `[items]`, sums to one.
///
/// An error if the items are not one strongly connected component, or, beyond a thousand items, if the iteration does
/// not settle.
pub fn rank_centrality(counts: &Counts) -> Result<Vec<f64>> {
    let parts = components(counts).strong.len();
    if parts > 1 {
        return Err(Error::config(format!(
            "the items fall into {parts} components that are not connected by wins both ways, so rank centrality is \
             not defined"
        ))
        .with_hint("use `--method bradley-terry` with a prior, or rank each component by itself"));
    }
    if counts.items() <= DENSE_ITEMS {
        Ok(by_elimination(counts))
    } else {
        by_iteration(counts)
    }
}

/// Rates from first to second item of every pair that met, and back.
fn rates(counts: &Counts) -> impl Iterator<Item = (usize, usize, f64, f64)> {
    let met = counts.pairs().iter().filter(|pair| pair.games() > 0.0);
    met.map(|pair| {
        let share = pair.score() / pair.games();
        (
            pair.first as usize,
            pair.second as usize,
            1.0 - share,
            share,
        )
    })
}

/// Grassmann, Taksar and Heyman (1985): elimination without subtraction, exact to rounding for every chain.
fn by_elimination(counts: &Counts) -> Vec<f64> {
    let n = counts.items();
    let mut rate = vec![0.0; n * n]; // [n, n]
    for (i, j, forth, back) in rates(counts) {
        rate[i * n + j] = forth;
        rate[j * n + i] = back;
    }
    for last in (1..n).rev() {
        let (above, rest) = rate.split_at_mut(last * n);
        let out = &rest[..last];
        let leaving: f64 = out.iter().sum();
        for row in above.chunks_mut(n) {
            row[last] /= leaving;
            let into = row[last];
            if into > 0.0 {
                for (entry, out) in row[..last].iter_mut().zip(out) {
                    *entry += into * out;
                }
            }
        }
    }
    let mut share = vec![1.0; n];
    for item in 1..n {
        share[item] = (0..item)
            .map(|from| share[from] * rate[from * n + item])
            .sum();
    }
    let sum: f64 = share.iter().sum();
    share.into_iter().map(|share| share / sum).collect()
}

fn by_iteration(counts: &Counts) -> Result<Vec<f64>> {
    let n = counts.items();
    let mut opponents = vec![0_usize; n];
    for (i, j, ..) in rates(counts) {
        opponents[i] += 1;
        opponents[j] += 1;
    }
    let most = opponents.into_iter().max().unwrap_or_default().max(1) as f64;
    let mut share = vec![1.0 / n as f64; n];
    let mut change = f64::INFINITY;
    for _ in 0..MAX_STEPS {
        let mut next = share.clone();
        for (i, j, forth, back) in rates(counts) {
            let flow = (share[i] * forth - share[j] * back) / most;
            next[i] -= flow;
            next[j] += flow;
        }
        // Relative to each share: the smallest are as much a result as the largest.
        change = share
            .iter()
            .zip(&next)
            .map(|(old, new)| ((new - old) / old).abs())
            .fold(0.0, f64::max);
        share = next;
        if change < 1e-13 {
            return Ok(share);
        }
    }
    Err(Error::NotConverged {
        what: "rank centrality".to_owned(),
        iterations: MAX_STEPS,
        residual: change,
    })
}
