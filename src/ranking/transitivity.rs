//! Cycles among majorities (rock, paper, scissors): what no ranking can express.

use rayon::prelude::*;
use serde::Serialize;

use super::counts::Counts;

/// Up to here a table with a bit for every two items is small (64 MiB) and fastest.
const TABLE_ITEMS: usize = 16_384;

/// Triads of items in which every pair has a majority (Kendall and Babington Smith 1940).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Triads {
    /// Triads in which each pair met and one of the two won more games.
    pub decided: u64,
    /// Of these, those that go round in a circle.
    pub cyclic: u64,
}

impl Triads {
    /// Share of cyclic triads: 0 for a perfect order, one quarter for coin tosses; none without decided triads.
    pub fn intransitivity(&self) -> Option<f64> {
        (self.decided > 0).then(|| self.cyclic as f64 / self.decided as f64)
    }
}

/// Counts triads on all cores.
pub fn triads(counts: &Counts) -> Triads {
    let majorities: Vec<(usize, usize)> = counts
        .pairs()
        .iter()
        .filter(|pair| (pair.wins - pair.losses).abs() > 0.0)
        .map(|pair| {
            let (first, second) = (pair.first as usize, pair.second as usize);
            if pair.wins > pair.losses {
                (first, second)
            } else {
                (second, first)
            }
        })
        .collect();
    if counts.items() <= TABLE_ITEMS {
        by_table(counts.items(), &majorities)
    } else {
        by_lists(counts.items(), &majorities)
    }
}

/// Every majority looks up the thirds of its triads, 64 at a time; each triad is found from its three sides.
fn by_table(items: usize, majorities: &[(usize, usize)]) -> Triads {
    let words = items.div_ceil(64);
    let mut beats = vec![0_u64; items * words]; // [items, words]
    let mut beaten = beats.clone(); // [items, words]
    for &(winner, loser) in majorities {
        beats[winner * words + loser / 64] |= 1 << (loser % 64);
        beaten[loser * words + winner / 64] |= 1 << (winner % 64);
    }
    let row = |item: usize| item * words..(item + 1) * words;
    let sides = majorities
        .par_iter()
        .with_min_len(256)
        .map(|&(winner, loser)| {
            let over = beats[row(winner)].iter().zip(&beaten[row(winner)]);
            let under = beats[row(loser)].iter().zip(&beaten[row(loser)]);
            let mut found = (0, 0);
            for ((above, below), (loser_beats, loser_beaten)) in over.zip(under) {
                let met = (above | below) & (loser_beats | loser_beaten);
                found.0 += u64::from(met.count_ones());
                found.1 += u64::from((below & loser_beats).count_ones());
            }
            found
        });
    let (decided, cyclic) = sides.reduce(|| (0, 0), add);
    Triads {
        decided: decided / 3,
        cyclic: cyclic / 3,
    }
}

/// Every item looks at its neighbours with more opponents only, which bounds the work by `majorities^1.5`.
fn by_lists(items: usize, majorities: &[(usize, usize)]) -> Triads {
    let mut degree = vec![0_u32; items];
    for &(winner, loser) in majorities {
        degree[winner] += 1;
        degree[loser] += 1;
    }
    // Neighbours that come later, each with whether the item beats it.
    let mut later: Vec<Vec<(usize, bool)>> = vec![Vec::new(); items];
    for &(winner, loser) in majorities {
        if (degree[winner], winner) < (degree[loser], loser) {
            later[winner].push((loser, true));
        } else {
            later[loser].push((winner, false));
        }
    }
    let (decided, cyclic) = (0..items)
        .into_par_iter()
        .with_min_len(256)
        .map_init(
            || vec![None; items],
            |beats, item| {
                for &(other, won) in &later[item] {
                    beats[other] = Some(won);
                }
                let mut found = (0, 0);
                for &(second, won_first) in &later[item] {
                    for &(third, won_second) in &later[second] {
                        if let Some(won_third) = beats[third] {
                            found.0 += 1;
                            found.1 += u64::from(won_first == won_second && won_third != won_first);
                        }
                    }
                }
                for &(other, _) in &later[item] {
                    beats[other] = None;
                }
                found
            },
        )
        .reduce(|| (0, 0), add);
    Triads { decided, cyclic }
}

fn add(one: (u64, u64), other: (u64, u64)) -> (u64, u64) {
    (one.0 + other.0, one.1 + other.1)
}
