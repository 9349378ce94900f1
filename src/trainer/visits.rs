//! Which examples a step takes: successive entries of one permutation after the other, so that every example is
//! visited once an epoch and a resumed run takes the same ones.

use std::ops::Range;

use crate::ops::random::{derive_seed, permutation};

/// The examples, of `count`, at these positions of a run.
pub(super) fn epoch_order(
    seed: u64,
    purpose: &str,
    count: usize,
    positions: Range<u64>,
) -> Vec<i64> {
    let mut order: Option<(u64, Vec<usize>)> = None;
    positions
        .map(|position| {
            let epoch = position / count as u64;
            if order.as_ref().is_none_or(|(known, _)| *known != epoch) {
                let seed = derive_seed(seed, purpose, &[epoch]);
                order = Some((epoch, permutation(seed, count)));
            }
            order.as_ref().map_or(0, |(_, order)| {
                order[(position % count as u64) as usize] as i64
            })
        })
        .collect()
}
