//! How much a text repeats itself.

use std::collections::HashSet;
use std::hash::Hash;

/// Tokens of a run that counts.
const RUN: usize = 4;

/// Share of the runs of four tokens that have come before: seq-rep-4 of Welleck et al. 2020 (arXiv 1908.04319, section 6.1). A
/// text without such a run has none.
pub fn repetition<T: Eq + Hash>(tokens: &[T]) -> f64 {
    let runs = tokens.windows(RUN);
    let count = runs.len();
    if count == 0 {
        return 0.0;
    }
    let distinct: HashSet<&[T]> = runs.collect();
    1.0 - distinct.len() as f64 / count as f64
}
