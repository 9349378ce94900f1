//! Cholesky factor of a dense symmetric positive definite matrix, for a few hundred items.

use rayon::prelude::*;

/// Lower triangular `L` with `A = L L^T`, row by row. `[n, n]`
pub struct Cholesky {
    n: usize,
    lower: Vec<f64>,
}

impl Cholesky {
    /// Factorises `matrix` (`[n, n]`, row by row; only the lower triangle is read); none if it is not positive
    /// definite.
    pub fn new(mut matrix: Vec<f64>, n: usize) -> Option<Self> {
        for row in 0..n {
            let (above, rest) = matrix.split_at_mut(row * n);
            let current = &mut rest[..n];
            for column in 0..row {
                let other = &above[column * n..column * n + n];
                let known = dot(&current[..column], &other[..column]);
                current[column] = (current[column] - known) / other[column];
            }
            let pivot = current[row] - dot(&current[..row], &current[..row]);
            // A pivot that is lost in rounding counts as zero.
            if pivot.is_nan() || pivot <= 1e-14 * current[row].abs() {
                return None;
            }
            current[row] = pivot.sqrt();
        }
        Some(Self { n, lower: matrix })
    }

    /// Solves `A x = b` in place.
    pub fn solve(&self, x: &mut [f64]) {
        let n = self.n;
        for row in 0..n {
            let known = dot(&self.row(row)[..row], &x[..row]);
            x[row] = (x[row] - known) / self.row(row)[row];
        }
        for row in (0..n).rev() {
            x[row] /= self.row(row)[row];
            let value = x[row];
            for (x, l) in x[..row].iter_mut().zip(&self.row(row)[..row]) {
                *x -= l * value;
            }
        }
    }

    /// `A^-1`, row by row, on all cores. `[n, n]`
    pub fn inverse(&self) -> Vec<f64> {
        let mut inverse = vec![0.0; self.n * self.n];
        inverse
            .par_chunks_mut(self.n)
            .enumerate()
            .for_each(|(row, x)| {
                x[row] = 1.0;
                self.solve(x);
            });
        inverse
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.lower[row * self.n..(row + 1) * self.n]
    }
}

/// Scalar product with eight running sums, which the compiler can keep in vector registers.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (blocks_a, blocks_b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = blocks_a
        .remainder()
        .iter()
        .zip(blocks_b.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in blocks_a.zip(blocks_b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + rest
}
