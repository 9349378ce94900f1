//! Damped Newton steps on the counts: strengths and, for some treatments of ties, one parameter more.
//!
//! The likelihood depends on strengths through the differences of pairs only, so its matrix of second derivatives is
//! a weighted Laplacian of the graph of pairs, plus the prior's diagonal, plus one border row for the tie parameter,
//! which a Schur complement takes out. A few hundred items are solved by Cholesky; for more, products with the graph
//! (conjugate gradients) are cheaper than filling a matrix.

use super::bradley_terry::Prior;
use super::conjugate_gradient;
use super::counts::Counts;
use super::ties::{Ties, softplus};
use crate::error::{Error, Result};
use crate::ops::cholesky::{Cholesky, dot};
use crate::ops::stable::sigmoid;

/// Up to here a dense factor costs less than conjugate gradients on a full graph.
const DENSE_ITEMS: usize = 200;
const MAX_STEPS: usize = 200;
/// Largest component of the gradient, in games, at a fit that counts as converged.
const GRADIENT: f64 = 1e-9;
/// Largest component of the last step. A likelihood without a maximum has a vanishing gradient far out, but its steps
/// stay near one.
const STEP: f64 = 1e-6;

/// The counts to fit to, with the model's choices.
#[derive(Clone, Copy)]
pub(super) struct Problem<'a> {
    pub(super) counts: &'a Counts,
    pub(super) ties: Ties,
    pub(super) prior: Prior,
}

/// The best strengths and how they were reached.
pub(super) struct Solution {
    pub(super) theta: Vec<f64>,
    pub(super) log_nu: f64,
    pub(super) log_likelihood: f64,
    pub(super) steps: usize,
    pub(super) gradient: f64,
}

/// Objective and derivatives at one point.
struct Local {
    /// Minus the log-likelihood.
    data: f64,
    /// Minus the log-likelihood and the log-prior.
    value: f64,
    gradient: Vec<f64>,
    gradient_nu: f64,
    /// Second derivative of each pair by its difference.
    curvature: Vec<f64>,
    prior_curvature: Vec<f64>,
    border: Vec<f64>,
    corner: f64,
}

/// Minimises minus the log-posterior from `theta` and `log_nu`.
pub(super) fn solve(problem: Problem, mut theta: Vec<f64>, mut log_nu: f64) -> Result<Solution> {
    // Sums of many games carry rounding errors in proportion to them.
    let most = problem.counts.games().into_iter().fold(0.0, f64::max);
    let tolerance = GRADIENT.max(1e-14 * most);
    let mut local = problem.evaluate(&theta, log_nu);
    for steps in 0..MAX_STEPS {
        let failed = |local: &Local| Error::NotConverged {
            what: format!("the {} fit", problem.name()),
            iterations: steps,
            residual: local.steepest(),
        };
        let (step, step_nu) = problem.step(&local).ok_or_else(|| failed(&local))?;
        let longest = largest(&step).max(step_nu.abs());
        if !longest.is_finite() {
            return Err(failed(&local));
        }
        let moved = |length: f64| -> (Vec<f64>, f64) {
            let theta = theta.iter().zip(&step).map(|(x, s)| x + length * s);
            (theta.collect(), log_nu + length * step_nu)
        };
        if local.steepest() < tolerance && longest < STEP {
            // The step is at hand and squares what error is left.
            let (theta, log_nu) = moved(1.0);
            return Ok(Solution {
                theta,
                log_nu,
                log_likelihood: -local.data,
                steps,
                gradient: local.steepest(),
            });
        }
        let slack = 1e-12 * (1.0 + local.value.abs());
        let mut length = 1.0;
        let (next, next_theta, next_nu) = loop {
            let (theta, log_nu) = moved(length);
            let next = problem.evaluate(&theta, log_nu);
            if next.value <= local.value + slack {
                break (next, theta, log_nu);
            }
            length *= 0.5;
            if length < 1e-15 {
                return Err(failed(&local));
            }
        };
        (local, theta, log_nu) = (next, next_theta, next_nu);
    }
    Err(Error::NotConverged {
        what: format!("the {} fit", problem.name()),
        iterations: MAX_STEPS,
        residual: local.steepest(),
    })
}

impl Problem<'_> {
    fn name(&self) -> &'static str {
        match self.ties {
            Ties::Half | Ties::Drop => "Bradley-Terry",
            Ties::Davidson => "Davidson",
            Ties::RaoKupper => "Rao-Kupper",
        }
    }

    fn evaluate(&self, theta: &[f64], log_nu: f64) -> Local {
        let n = theta.len();
        let mut local = Local {
            data: 0.0,
            value: 0.0,
            gradient: vec![0.0; n],
            gradient_nu: 0.0,
            curvature: Vec::with_capacity(self.counts.pairs().len()),
            prior_curvature: vec![0.0; n],
            border: vec![0.0; n],
            corner: 0.0,
        };
        for pair in self.counts.pairs() {
            let (i, j) = (pair.first as usize, pair.second as usize);
            let terms = self.ties.terms(pair, theta[i] - theta[j], log_nu);
            local.data += terms.value;
            local.gradient[i] += terms.d;
            local.gradient[j] -= terms.d;
            local.gradient_nu += terms.a;
            local.curvature.push(terms.dd);
            local.border[i] += terms.da;
            local.border[j] -= terms.da;
            local.corner += terms.aa;
        }
        local.value = local.data;
        for (i, &x) in theta.iter().enumerate() {
            let (value, slope, curvature) = match self.prior {
                Prior::None => (0.0, 0.0, 0.0),
                Prior::Gaussian { precision } => {
                    (0.5 * precision * x * x, precision * x, precision)
                }
                Prior::VirtualOpponent { games } => (
                    games * (softplus(x) + softplus(-x)),
                    games * (sigmoid(x) - sigmoid(-x)),
                    2.0 * games * sigmoid(x) * sigmoid(-x),
                ),
            };
            local.value += value;
            local.gradient[i] += slope;
            local.prior_curvature[i] = curvature;
        }
        local
    }

    /// The Newton step for strengths and tie parameter; none if the matrix cannot be factorised.
    fn step(&self, local: &Local) -> Option<(Vec<f64>, f64)> {
        let downhill: Vec<f64> = local.gradient.iter().map(|g| -g).collect();
        let n = downhill.len();
        let (mut step, along_border) = if n <= DENSE_ITEMS {
            let factor = Cholesky::new(self.dense(local), n)?;
            let solve = |b: &[f64]| {
                let mut x = b.to_vec();
                factor.solve(&mut x);
                x
            };
            (solve(&downhill), self.with_border(|| solve(&local.border)))
        } else {
            let diagonal = self.diagonal(local);
            let gauge = self.gauge(&diagonal);
            let solve = |b: &[f64]| {
                let multiply = |x: &[f64], y: &mut [f64]| self.multiply(local, gauge, x, y);
                conjugate_gradient::solve(multiply, &diagonal, b, 1e-4)
            };
            (solve(&downhill), self.with_border(|| solve(&local.border)))
        };
        let mut step_nu = 0.0;
        if let Some(along_border) = along_border {
            let pivot = local.corner - dot(&local.border, &along_border);
            if pivot.is_nan() || pivot <= 0.0 {
                return None;
            }
            step_nu = (-local.gradient_nu - dot(&local.border, &step)) / pivot;
            for (step, along) in step.iter_mut().zip(along_border) {
                *step -= step_nu * along;
            }
        }
        if matches!(self.prior, Prior::None) {
            let mean = step.iter().sum::<f64>() / n as f64;
            for step in &mut step {
                *step -= mean;
            }
        }
        Some((step, step_nu))
    }

    fn with_border(&self, solve: impl FnOnce() -> Vec<f64>) -> Option<Vec<f64>> {
        self.ties.has_parameter().then(solve)
    }

    /// Without a prior the direction that moves all strengths is free: this constant, added to every second
    /// derivative, pins it and changes nothing else. (Left free, it would gather rounding errors for ever.)
    fn gauge(&self, diagonal: &[f64]) -> f64 {
        match self.prior {
            Prior::None => diagonal.iter().sum::<f64>() / (diagonal.len() * diagonal.len()) as f64,
            _ => 0.0,
        }
    }

    /// The second derivatives by the strengths. `[n, n]`
    fn dense(&self, local: &Local) -> Vec<f64> {
        let n = self.counts.items();
        let gauge = self.gauge(&self.diagonal(local));
        let mut matrix = vec![gauge; n * n]; // [n, n]
        for (pair, curvature) in self.counts.pairs().iter().zip(&local.curvature) {
            let (i, j) = (pair.first as usize, pair.second as usize);
            matrix[i * n + i] += curvature;
            matrix[j * n + j] += curvature;
            matrix[i * n + j] -= curvature;
            matrix[j * n + i] -= curvature;
        }
        for (i, curvature) in local.prior_curvature.iter().enumerate() {
            matrix[i * n + i] += curvature;
        }
        matrix
    }

    fn diagonal(&self, local: &Local) -> Vec<f64> {
        let mut diagonal = local.prior_curvature.clone();
        for (pair, curvature) in self.counts.pairs().iter().zip(&local.curvature) {
            diagonal[pair.first as usize] += curvature;
            diagonal[pair.second as usize] += curvature;
        }
        diagonal
    }

    fn multiply(&self, local: &Local, gauge: f64, x: &[f64], y: &mut [f64]) {
        let everywhere = gauge * x.iter().sum::<f64>();
        for ((y, x), curvature) in y.iter_mut().zip(x).zip(&local.prior_curvature) {
            *y = everywhere + curvature * x;
        }
        for (pair, curvature) in self.counts.pairs().iter().zip(&local.curvature) {
            let (i, j) = (pair.first as usize, pair.second as usize);
            let flow = curvature * (x[i] - x[j]);
            y[i] += flow;
            y[j] -= flow;
        }
    }

    /// Covariance of the strengths by the curvature at a fit, in the gauge where their mean is zero; the tie
    /// parameter is marginal. None if the curvature is singular. `[n, n]`
    pub(super) fn covariance(&self, theta: &[f64], log_nu: f64) -> Option<Vec<f64>> {
        let n = theta.len();
        let local = self.evaluate(theta, log_nu);
        let mut matrix = self.dense(&local); // [n, n]
        if self.ties.has_parameter() {
            for (i, row) in matrix.chunks_mut(n).enumerate() {
                for (entry, border) in row.iter_mut().zip(&local.border) {
                    *entry -= local.border[i] * border / local.corner;
                }
            }
        }
        let mut covariance = Cholesky::new(matrix, n)?.inverse();
        let means: Vec<f64> = covariance
            .chunks(n)
            .map(|row| row.iter().sum::<f64>() / n as f64)
            .collect();
        let mean = means.iter().sum::<f64>() / n as f64;
        for (row, row_mean) in covariance.chunks_mut(n).zip(&means) {
            for (entry, column_mean) in row.iter_mut().zip(&means) {
                *entry -= row_mean + column_mean - mean;
            }
        }
        Some(covariance)
    }
}

impl Local {
    fn steepest(&self) -> f64 {
        largest(&self.gradient).max(self.gradient_nu.abs())
    }
}

fn largest(values: &[f64]) -> f64 {
    // `f64::max` would drop a NaN.
    values.iter().fold(0.0, |largest, value| {
        if value.is_nan() {
            f64::NAN
        } else {
            value.abs().max(largest)
        }
    })
}
