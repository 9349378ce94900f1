//! Conjugate gradients with the diagonal as preconditioner, for a matrix that is known by its products.

use crate::ops::cholesky::dot;

/// Solves `A x = b` until the residual is `tolerance` of `b` (Euclidean), or as well as rounding allows.
///
/// `multiply(x, y)` sets `y = A x`. `A` is symmetric and positive definite.
pub(super) fn solve(
    multiply: impl Fn(&[f64], &mut [f64]),
    diagonal: &[f64],
    b: &[f64],
    tolerance: f64,
) -> Vec<f64> {
    let n = b.len();
    let precondition = |residual: &[f64]| -> Vec<f64> {
        residual
            .iter()
            .zip(diagonal)
            .map(|(r, d)| if *d > 0.0 { r / d } else { *r })
            .collect()
    };
    let mut x = vec![0.0; n];
    let mut residual = b.to_vec();
    let mut scaled = precondition(&residual);
    let mut direction = scaled.clone();
    let mut product = vec![0.0; n];
    let mut energy = dot(&residual, &scaled);
    let goal = tolerance * tolerance * dot(b, b);
    // Exact arithmetic needs n steps; a sparse, badly conditioned graph needs some more.
    for _ in 0..4 * n + 100 {
        if dot(&residual, &residual) <= goal {
            break;
        }
        multiply(&direction, &mut product);
        let curvature = dot(&direction, &product);
        if curvature <= 0.0 {
            break;
        }
        let length = energy / curvature;
        for i in 0..n {
            x[i] += length * direction[i];
            residual[i] -= length * product[i];
        }
        scaled = precondition(&residual);
        let next = dot(&residual, &scaled);
        let ratio = next / energy;
        energy = next;
        for (direction, scaled) in direction.iter_mut().zip(&scaled) {
            *direction = scaled + ratio * *direction;
        }
    }
    x
}
