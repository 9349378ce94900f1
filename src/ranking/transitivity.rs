//! Cycles among majorities (rock, paper, scissors): what no ranking can express.

use rayon::prelude::*;
use serde::Serialize;

use super::counts::Counts;

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

/// Counts triads on all cores. Each item looks only at neighbours with more opponents, which bounds the work by
/// `pairs^1.5` for every graph.
pub fn triads(counts: &Counts) -> Triads {
    let n = counts.items();
    let mut degree = vec![0_u32; n];
    let decided = || {
        let pairs = counts.pairs().iter();
        pairs.filter(|pair| (pair.wins - pair.losses).abs() > 0.0)
    };
    for pair in decided() {
        degree[pair.first as usize] += 1;
        degree[pair.second as usize] += 1;
    }
    // Neighbours that come later, each with whether the item beats it.
    let mut later: Vec<Vec<(u32, bool)>> = vec![Vec::new(); n];
    for pair in decided() {
        let (first, second) = (pair.first, pair.second);
        let first_wins = pair.wins > pair.losses;
        if (degree[first as usize], first) < (degree[second as usize], second) {
            later[first as usize].push((second, first_wins));
        } else {
            later[second as usize].push((first, !first_wins));
        }
    }
    let (decided, cyclic) = (0..n)
        .into_par_iter()
        .map_init(
            || vec![0_u8; n],
            |marks, item| {
                for &(other, beaten) in &later[item] {
                    marks[other as usize] = 1 + u8::from(beaten);
                }
                let mut found = (0, 0);
                for &(second, first_beats_second) in &later[item] {
                    for &(third, second_beats_third) in &later[second as usize] {
                        let mark = marks[third as usize];
                        let first_beats_third = mark == 2;
                        let circle = first_beats_second == second_beats_third
                            && first_beats_third != first_beats_second;
                        found.0 += u64::from(mark != 0);
                        found.1 += u64::from(mark != 0 && circle);
                    }
                }
                for &(other, _) in &later[item] {
                    marks[other as usize] = 0;
                }
                found
            },
        )
        .reduce(|| (0, 0), |one, other| (one.0 + other.0, one.1 + other.1));
    Triads { decided, cyclic }
}
