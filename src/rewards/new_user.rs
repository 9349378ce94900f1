//! The mixture weights of a user that a model has not seen, from a few of its choices, everything else frozen: a
//! problem in as many unknowns as there are prototypes, solved to the maximum by Newton's method on plain numbers.

use tch::Tensor;

use super::harmonic::{exact, numbers};
use super::ideal_point::squared_distances;
use crate::error::{Error, Result};
use crate::ops::cholesky::{Cholesky, dot};
use crate::ops::stable::{ln_sigmoid, sigmoid, unit_rows};

/// Newton steps after which a fit is given up; ten are usual.
const STEPS: usize = 200;
/// Bound on the Newton decrement, half of which estimates how far the objective is from its maximum, by the size of the
/// objective: rounding hides smaller gains.
const TOLERANCE: f64 = 1e-14;
/// How near to the edge of the simplex a step may go: share of the way that is left.
const EDGE: f64 = 0.95;

/// The evidence of a user's choices for each prototype. With `k` prototypes, all lists row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Choices {
    /// By how much the chosen response leads for a user of that prototype alone. `[choices, k]`
    ///
    /// For PAL-A the difference of squared distances from the prototype, which makes the lead for a mixture their
    /// mean; for PAL-B the scale times the product of the prototype (not normalised) and the difference of the two
    /// normalised items.
    pub leads: Vec<f64>,
    /// PAL-B: products of the prototypes with each other, by whose norm a mixture's lead is divided. `[choices, k, k]`
    pub products: Option<Vec<f64>>,
}

/// A user's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct NewUser {
    /// Positive, of sum 1. `[k]`
    pub weights: Vec<f64>,
    /// Sum of `-ln sigmoid(lead)` over the choices.
    pub loss: f64,
    /// Newton steps made.
    pub iterations: usize,
}

/// Finds the weights `w` that maximise `sum ln sigmoid(lead(w)) + sum_k prior_k ln w_k`, which is a Dirichlet prior
/// with parameters `1 + prior`.
///
/// For PAL-A the objective is concave and the maximum is the only one. For PAL-B it is the one that is reached from the
/// weights of the prior; Gauss-Newton steps rise whatever the curvature.
///
/// # Errors
/// Lists that do not fit the number of prototypes, a number that is not finite, a prior that is not positive, or no
/// convergence.
pub fn fit(choices: &Choices, prior: &[f64]) -> Result<NewUser> {
    check(choices, prior)?;
    let total: f64 = prior.iter().sum();
    let mut weights: Vec<f64> = prior.iter().map(|prior| prior / total).collect();
    let mut objective = choices.objective(&weights, prior);
    let mut decrement = f64::INFINITY;
    for iterations in 0..STEPS {
        let (gradient, direction) = choices
            .newton(&weights, prior)
            .ok_or_else(|| not_converged(iterations, decrement))?;
        decrement = dot(&gradient, &direction);
        let least = TOLERANCE * (1.0 + objective.abs());
        let mut length = longest(&weights, &direction);
        loop {
            if length * decrement < least {
                return Ok(NewUser {
                    loss: choices.loss(&weights),
                    weights,
                    iterations,
                });
            }
            let moved: Vec<f64> = weights
                .iter()
                .zip(&direction)
                .map(|(weight, step)| weight + length * step)
                .collect();
            let reached = choices.objective(&moved, prior);
            if reached >= objective + 1e-4 * length * decrement {
                (weights, objective) = (moved, reached);
                break;
            }
            length *= 0.5;
        }
    }
    Err(not_converged(STEPS, decrement))
}

fn not_converged(iterations: usize, residual: f64) -> Error {
    Error::NotConverged {
        what: "the fit of a user's weights".to_owned(),
        iterations,
        residual,
    }
}

fn check(choices: &Choices, prior: &[f64]) -> Result<()> {
    let k = prior.len();
    let count = choices.leads.len().checked_div(k).unwrap_or_default();
    let whole = count * k == choices.leads.len()
        && choices
            .products
            .as_ref()
            .is_none_or(|products| products.len() == count * k * k);
    if k == 0 || !whole {
        return Err(Error::config(format!(
            "{} leads for {k} prototypes: not a row of {k} for each choice",
            choices.leads.len()
        )));
    }
    if prior
        .iter()
        .any(|prior| !(prior.is_finite() && *prior > 0.0))
    {
        return Err(Error::config(
            "the prior of a user's weights must be positive",
        ));
    }
    let products = choices.products.iter().flatten();
    if choices
        .leads
        .iter()
        .chain(products)
        .any(|number| !number.is_finite())
    {
        return Err(Error::config("a user's choices hold NaN or infinity"));
    }
    Ok(())
}

/// The longest step up to 1 that stays inside the simplex.
fn longest(weights: &[f64], direction: &[f64]) -> f64 {
    weights
        .iter()
        .zip(direction)
        .filter(|(_, step)| **step < 0.0)
        .map(|(weight, step)| EDGE * weight / -step)
        .fold(1.0, f64::min)
}

impl Choices {
    /// Choices between items `[n, h]` by nearness to the prototypes `[k, h]` (PAL-A).
    pub fn of_distances(chosen: &Tensor, rejected: &Tensor, prototypes: &Tensor) -> Self {
        let squared = |items: &Tensor| squared_distances(&exact(items), &exact(prototypes));
        let leads = squared(rejected) - squared(chosen); // [n, k]
        Self {
            leads: numbers(&leads.flatten(0, 1)),
            products: None,
        }
    }

    /// Choices between items `[n, h]` by the scaled cosine with prototypes `[n, k, h]` (PAL-B).
    pub fn of_cosines(
        chosen: &Tensor,
        rejected: &Tensor,
        prototypes: &Tensor,
        scale: &Tensor,
    ) -> Self {
        let prototypes = exact(prototypes);
        let difference = unit_rows(&exact(chosen)) - unit_rows(&exact(rejected)); // [n, h]
        let leads = prototypes.matmul(&difference.unsqueeze(-1)) * exact(scale); // [n, k, 1]
        let products = prototypes.matmul(&prototypes.transpose(-2, -1)); // [n, k, k]
        Self {
            leads: numbers(&leads.flatten(0, -1)),
            products: Some(numbers(&products.flatten(0, -1))),
        }
    }

    /// Lead of each chosen response for a mixture, with its gradient in the weights.
    fn leads<'a>(&'a self, weights: &'a [f64]) -> impl Iterator<Item = (f64, Vec<f64>)> + 'a {
        let k = weights.len();
        let rows = self.leads.chunks_exact(k).enumerate();
        rows.map(move |(row, leads)| {
            let lead = dot(leads, weights);
            let Some(products) = &self.products else {
                return (lead, leads.to_vec());
            };
            let products = &products[row * k * k..(row + 1) * k * k];
            let across: Vec<f64> = products
                .chunks_exact(k)
                .map(|row| dot(row, weights))
                .collect();
            // A mixture of opposite prototypes may vanish; then no direction is ideal.
            let norm = dot(&across, weights).max(1e-24).sqrt();
            let gradient = leads.iter().zip(&across);
            let gradient = gradient.map(|(own, across)| own / norm - lead * across / norm.powi(3));
            (lead / norm, gradient.collect())
        })
    }

    fn loss(&self, weights: &[f64]) -> f64 {
        self.leads(weights).map(|(lead, _)| -ln_sigmoid(lead)).sum()
    }

    fn objective(&self, weights: &[f64], prior: &[f64]) -> f64 {
        let belief = weights.iter().zip(prior);
        belief
            .map(|(weight, prior)| prior * weight.ln())
            .sum::<f64>()
            - self.loss(weights)
    }

    /// Gradient of the objective and the Newton step that keeps the sum of the weights; none where the curvature is
    /// lost in rounding.
    fn newton(&self, weights: &[f64], prior: &[f64]) -> Option<(Vec<f64>, Vec<f64>)> {
        let k = weights.len();
        let mut curvature = vec![0.0; k * k];
        let mut gradient = vec![0.0; k];
        for (index, (weight, prior)) in weights.iter().zip(prior).enumerate() {
            gradient[index] = prior / weight;
            curvature[index * k + index] = prior / (weight * weight);
        }
        for (lead, slope) in self.leads(weights) {
            let wrong = sigmoid(-lead);
            let rows = gradient.iter_mut().zip(curvature.chunks_exact_mut(k));
            for ((gradient, row), own) in rows.zip(&slope) {
                *gradient += wrong * own;
                for (entry, other) in row.iter_mut().zip(&slope) {
                    *entry += wrong * (1.0 - wrong) * own * other;
                }
            }
        }
        // Newton's step under `sum = 0`: the gradient less the multiple of ones that the constraint asks for.
        let factor = Cholesky::new(curvature, k)?;
        let (mut free, mut ones) = (gradient.clone(), vec![1.0; k]);
        factor.solve(&mut free);
        factor.solve(&mut ones);
        let multiple = free.iter().sum::<f64>() / ones.iter().sum::<f64>();
        let step: Vec<f64> = free
            .iter()
            .zip(&ones)
            .map(|(free, one)| free - multiple * one)
            .collect();
        step.iter()
            .all(|step| step.is_finite())
            .then_some((gradient, step))
    }
}
