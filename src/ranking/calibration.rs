//! Calibration of fitted probabilities on the games they were fitted to: a good fit here is necessary, not
//! sufficient.

use serde::Serialize;

use super::counts::Counts;

const BINS: usize = 5;

/// Predicted and observed results of the stronger item of each pair.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// Probabilities from one half to one, in steps of a tenth; bins without games are left out.
    pub bins: Vec<Bin>,
    /// Mean absolute gap between prediction and observation of the bins, by games.
    pub expected_error: f64,
}

/// Games whose predicted result lies in one interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Lower end of the interval, which is a tenth long.
    pub from: f64,
    /// Games in it.
    pub games: f64,
    /// Their mean predicted score of the stronger item; a tie scores one half.
    pub predicted: f64,
    /// Their mean observed score.
    pub observed: f64,
}

/// Compares counts with `expected(i, j)`, the predicted score of item `i` against `j`.
pub fn calibration(counts: &Counts, expected: impl Fn(usize, usize) -> f64) -> Calibration {
    let mut sums = [(0.0, 0.0, 0.0); BINS];
    for pair in counts.pairs().iter().filter(|pair| pair.games() > 0.0) {
        let score = expected(pair.first as usize, pair.second as usize);
        let games = pair.games();
        let (predicted, observed) = if score >= 0.5 {
            (score, pair.score())
        } else {
            (1.0 - score, games - pair.score())
        };
        let bin = ((predicted - 0.5) * 2.0 * BINS as f64) as usize;
        let sum = &mut sums[bin.min(BINS - 1)];
        sum.0 += games;
        sum.1 += games * predicted;
        sum.2 += observed;
    }
    let bins: Vec<Bin> = sums
        .iter()
        .enumerate()
        .filter(|(_, sum)| sum.0 > 0.0)
        .map(|(bin, &(games, predicted, observed))| Bin {
            from: 0.5 + bin as f64 / (2 * BINS) as f64,
            games,
            predicted: predicted / games,
            observed: observed / games,
        })
        .collect();
    let games: f64 = bins.iter().map(|bin| bin.games).sum();
    let gap = |bin: &Bin| bin.games * (bin.predicted - bin.observed).abs();
    Calibration {
        expected_error: bins.iter().map(gap).sum::<f64>() / games,
        bins,
    }
}
