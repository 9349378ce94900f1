//! Which comparison to ask for next: the one whose answer is expected to say most about the strengths.

use super::bradley_terry::{self, Fit, Prior};
use super::counts::Counts;
use super::newton::Problem;
use super::ties::Ties;
use crate::error::Result;
use crate::ops::stable::sigmoid;

/// Up to here covariances of all pairs are computed, which takes time in proportion to the cube of the number of items.
const WITH_COVARIANCES: usize = 128;

/// What is believed of strengths after some comparisons: the posterior of Bradley and Terry's model, taken as normal around
/// its peak.
#[derive(Clone, Debug)]
pub struct Belief {
    fit: Fit,
    spread: Spread,
}

#[derive(Clone, Debug)]
enum Spread {
    /// Covariances. `[items, items]`
    All(Vec<f64>),
    /// Variances, as if strengths did not depend on each other. `[items]`
    Own(Vec<f64>),
}

impl Belief {
    /// The belief after these games, a tie being half a win for each side.
    ///
    /// # Errors
    /// The fit does not converge.
    pub fn after(counts: &Counts) -> Result<Self> {
        let prior = Prior::default();
        let fit = bradley_terry::fit(counts, Ties::Half, prior, None)?;
        let problem = Problem {
            counts,
            ties: fit.model(),
            prior,
        };
        let all = (counts.items() <= WITH_COVARIANCES)
            .then(|| problem.covariance(&fit.theta, fit.log_nu()))
            .flatten();
        let spread = match all {
            Some(covariances) => Spread::All(covariances),
            None => Spread::Own(variances(counts, &fit)),
        };
        Ok(Self { fit, spread })
    }

    /// Strength of every item in logits. `[items]`
    pub fn strengths(&self) -> &[f64] {
        &self.fit.theta
    }

    /// Nats that the outcome of a game of two items is expected to say about their difference: half the logarithm of how
    /// many times more precisely it is known after the game than before, by the curvature that a game adds.
    pub fn gain(&self, one: usize, other: usize) -> f64 {
        let difference = self.fit.theta[one] - self.fit.theta[other];
        let items = self.fit.theta.len();
        let variance = match &self.spread {
            Spread::All(covariances) => {
                let at = |row: usize, column: usize| covariances[row * items + column];
                at(one, one) + at(other, other) - 2.0 * at(one, other)
            }
            Spread::Own(variances) => variances[one] + variances[other],
        };
        let curvature = sigmoid(difference) * sigmoid(-difference);
        0.5 * (curvature * variance.max(0.0)).ln_1p()
    }
}

/// Variance of each strength as if the others were known.
pub(super) fn variances(counts: &Counts, fit: &Fit) -> Vec<f64> {
    let Prior::Gaussian { precision } = fit.prior else {
        return vec![f64::INFINITY; counts.items()];
    };
    let mut precisions = vec![precision; counts.items()];
    for pair in counts.pairs() {
        let (first, second) = (pair.first as usize, pair.second as usize);
        let difference = fit.theta[first] - fit.theta[second];
        let curvature = pair.games() * sigmoid(difference) * sigmoid(-difference);
        precisions[first] += curvature;
        precisions[second] += curvature;
    }
    precisions
        .iter()
        .map(|precision| precision.recip())
        .collect()
}
