//! How alike the reference photos are among themselves: the score of images that need not be generated. A model
//! whose images are more alike to the photos than that copies them.

use tch::Tensor;

use super::harmonic::{exact, numbers};

/// Mean cosine of each reference with all others: `references` `[r, d]`, normalised, to `[r]`. `None` of a single
/// reference, which has no other.
///
/// A reference's reward takes its likeness from here: among all references it would be compared with itself.
pub fn leave_one_out(references: &Tensor) -> Option<Vec<f64>> {
    let count = references.size()[0];
    if count < 2 {
        return None;
    }
    let references = exact(references);
    let cosines = references.matmul(&references.tr()); // [r, r]
    let others = cosines.sum_dim_intlist(-1, false, tch::Kind::Double) - cosines.diagonal(0, 0, 1); // [r]
    Some(numbers(&(others / (count - 1) as f64)))
}

/// Mean cosine over all pairs of different references; `None` of a single one.
pub fn real_to_real(references: &Tensor) -> Option<f64> {
    let values = leave_one_out(references)?;
    Some(values.iter().sum::<f64>() / values.len() as f64)
}
