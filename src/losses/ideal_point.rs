//! Losses of ideal-point models (PAL, Chen et al. 2024, arXiv 2406.08469) and their weighting over tokens.

use tch::{Kind, Tensor};

/// Hinge of PAL-A: `loss = max(0, 1 - lead)`, `[b]`.
///
/// * `lead`: by how much the chosen response is nearer to the user's ideal point, in distance (not squared), as the
///   authors' code takes it.
///
/// The logistic form is [`bradley_terry`](super::bradley_terry::bradley_terry) of the lead in squared distance, and the
/// cross-entropy of PAL-B is the same of the lead in scaled cosine.
pub fn hinge(lead: &Tensor) -> Tensor {
    (-lead + 1.0).relu()
}

/// Mean of losses of tokens `[b, t]` with weights that grow with the position, `sum_i i l_i / sum_i i` over the tokens
/// where `mask` `[b, t]` is 1: `[b]`. Later tokens have seen more of the response.
///
/// # Panics
/// Where the shapes differ.
pub fn cumulative(losses: &Tensor, mask: &Tensor) -> Tensor {
    assert_eq!(losses.size(), mask.size(), "a mask for each token");
    let kind = losses.kind();
    let mask = mask.to_kind(kind);
    let position = mask.cumsum(-1, kind) * &mask; // 1, 2, ... over the tokens that count
    let sum = |values: Tensor| values.sum_dim_intlist(-1, false, kind);
    // A response without tokens has no loss; where its weights sum to 0, so does the numerator.
    sum(losses * &position)
        / sum(position.to_kind(Kind::Double))
            .to_kind(kind)
            .clamp_min(1.0)
}
