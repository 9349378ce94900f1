//! The interval of a win rate that somebody watches: it holds whenever they stop, be it because it looks settled.
//!
//! An interval for a number of games that was fixed before would be wrong then: whoever looks after every game and stops at
//! the first one that excludes one half is misled far more often than in 5 % of cases.

/// Shares of what could be bet that the bets are spread over, so that no rate must be guessed before.
const BETS: [f64; 9] = [0.01, 0.02, 0.04, 0.08, 0.16, 0.3, 0.5, 0.7, 0.9];
/// Halvings of the place of an end: to a millionth.
const HALVINGS: usize = 20;

/// Lower and upper end of an interval for the mean of values of 0 to 1, which holds the true one with a probability of `level`
/// at least, at all numbers of values at once (betting, after Waudby-Smith and Ramdas 2024, section 4).
///
/// For each possible mean somebody bets that it is too low, or too high, at odds that are fair if it is right: who gains much
/// has shown it to be wrong. 0 and 1 without values.
pub fn interval(values: &[f64], level: f64) -> [f64; 2] {
    let mirrored: Vec<f64> = values.iter().map(|value| 1.0 - value).collect();
    let enough = (2.0 / (1.0 - level)).ln();
    [
        lower_end(values, enough),
        1.0 - lower_end(&mirrored, enough),
    ]
}

/// The lowest mean against which the bets that it is too low have not gained this much, as a logarithm.
fn lower_end(values: &[f64], enough: f64) -> f64 {
    // The same value occurs often: 0, one half, 1.
    let mut counted: Vec<(f64, f64)> = Vec::new();
    for &value in values {
        match counted
            .iter_mut()
            .find(|(known, _)| known.total_cmp(&value).is_eq())
        {
            Some((_, count)) => *count += 1.0,
            None => counted.push((value, 1.0)),
        }
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if gained(&counted, middle) >= enough {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The logarithm of what is left of 1 after bets on every value that the mean is above `mean`, which is above 0.
fn gained(counted: &[(f64, f64)], mean: f64) -> f64 {
    let logs = BETS.map(|bet| {
        let gains = counted
            .iter()
            .map(|(value, count)| count * (bet * (value / mean - 1.0)).ln_1p());
        gains.sum::<f64>()
    });
    let largest = logs.into_iter().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logs.iter().map(|log| (log - largest).exp()).sum();
    largest + (sum / BETS.len() as f64).ln()
}
