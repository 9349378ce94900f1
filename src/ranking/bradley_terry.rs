//! The model of Bradley and Terry (1952): `P(i beats j) = sigmoid(theta_i - theta_j)`, by maximum likelihood or with
//! a prior (maximum a posteriori).

use serde::Serialize;

use super::connectivity::components;
use super::counts::Counts;
use super::newton::{self, Problem};
use super::ties::Ties;
use crate::error::{Error, Result};

/// The belief about a strength before any game. It keeps strengths finite where an item won, or lost, all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Prior {
    /// Nothing: maximum likelihood. The sum of the strengths is zero.
    None,
    /// Normal with mean zero.
    Gaussian {
        /// Inverse of the variance, positive.
        precision: f64,
    },
    /// Games against an opponent of strength zero. The sum of the strengths is not zero in general.
    VirtualOpponent {
        /// How many of them were won, and as many lost; positive.
        games: f64,
    },
}

impl Default for Prior {
    fn default() -> Self {
        Self::Gaussian { precision: 0.1 }
    }
}

/// Fitted strengths.
#[derive(Clone, Debug)]
pub struct Fit {
    /// Strength of every item in logits. `[items]`
    pub theta: Vec<f64>,
    /// How ties were treated.
    pub ties: Ties,
    /// `nu` of [`Ties`], where the model has one.
    pub nu: Option<f64>,
    /// The belief before any game.
    pub prior: Prior,
    /// Logarithm of the likelihood of the games, prior left out; a tie that is half a win counts one half for each
    /// side.
    pub log_likelihood: f64,
    /// Newton steps.
    pub iterations: usize,
    /// Largest component of the gradient of the log-posterior before the last step, in games.
    pub gradient: f64,
    model: Ties,
}

/// Fits strengths to counts, from the strengths of another fit if one is given.
///
/// An error if the prior is not positive, if there is nothing but ties and these are no half wins, if there is no prior and the items are not
/// one strongly connected component (the likelihood then has no maximum), or if the gradient does not vanish
/// (below 1e-9 games).
pub fn fit(counts: &Counts, ties: Ties, prior: Prior, start: Option<&Fit>) -> Result<Fit> {
    if let Prior::Gaussian { precision: amount } | Prior::VirtualOpponent { games: amount } = prior
        && !(amount.is_finite() && amount > 0.0)
    {
        return Err(Error::config(format!(
            "prior of {amount}: it must be a positive number"
        )));
    }
    if counts.decided() <= 0.0 && ties != Ties::Half {
        return Err(Error::config(
            "every comparison is a tie: there is nothing to rank by",
        ));
    }
    let used;
    let counts = if ties == Ties::Drop {
        used = counts.without_ties();
        &used
    } else {
        counts
    };
    if prior == Prior::None {
        let parts = components(counts).strong.len();
        if parts > 1 {
            return Err(Error::config(format!(
                "the items fall into {parts} components that are not connected by wins both ways, so strengths by \
                 maximum likelihood do not exist"
            ))
            .with_hint("give a prior, as in `--prior 0.1`, or rank each component by itself"));
        }
    }
    // Without a tie the parameter for ties is zero and the model is the plain one.
    let model = if counts.ties() > 0.0 {
        ties
    } else {
        Ties::Drop
    };
    let (theta, log_nu) = match start {
        Some(start) if start.model == model && start.theta.len() == counts.items() => {
            (start.theta.clone(), start.log_nu())
        }
        _ => (vec![0.0; counts.items()], model.start(counts)),
    };
    let problem = Problem {
        counts,
        ties: model,
        prior,
    };
    let solution = newton::solve(problem, theta, log_nu).map_err(|error| match prior {
        Prior::None => error.with_hint(
            "the likelihood may have no maximum for these comparisons; a prior, as in `--prior 0.1`, gives it one",
        ),
        _ => error,
    })?;
    let nu = match (ties, model) {
        (Ties::Davidson, Ties::Drop) => Some(0.0),
        (Ties::RaoKupper, Ties::Drop) => Some(1.0),
        (ties, _) => ties.has_parameter().then(|| solution.log_nu.exp()),
    };
    Ok(Fit {
        theta: solution.theta,
        ties,
        nu,
        prior,
        log_likelihood: solution.log_likelihood,
        iterations: solution.steps,
        gradient: solution.gradient,
        model,
    })
}

impl Fit {
    /// Probabilities that `first` beats, loses to and ties with `second`.
    pub fn probabilities(&self, first: usize, second: usize) -> [f64; 3] {
        let d = self.theta[first] - self.theta[second];
        self.model.probabilities(d, self.log_nu())
    }

    /// The likelihood in use: plain where there is no tie to fit.
    pub(super) fn model(&self) -> Ties {
        self.model
    }

    pub(super) fn log_nu(&self) -> f64 {
        if self.model.has_parameter() {
            self.nu.map_or(0.0, f64::ln)
        } else {
            0.0
        }
    }
}

/// The scale of Elo: 400 points are odds of ten to one, and strength zero is 1000.
pub fn elo(theta: f64) -> f64 {
    1000.0 + 400.0 / std::f64::consts::LN_10 * theta
}
