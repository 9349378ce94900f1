//! Rewards of a user as nearness to an ideal point (PAL, Chen et al. 2024, arXiv 2406.08469): a mixture of a few
//! prototypes, with weights of the user's own. Tensors in and out, differentiable.

use tch::{Kind, Tensor};

use crate::ops::stable::unit_rows;

/// Squared distances of items `[n, h]` from points `[p, h]`: `[n, p]`.
///
/// From the differences themselves: the product form cancels where items are near a point, which is where rewards are
/// decided.
pub fn squared_distances(items: &Tensor, points: &Tensor) -> Tensor {
    let difference = items.unsqueeze(1) - points.unsqueeze(0); // [n, p, h]
    difference.square().sum_dim_intlist(-1, false, items.kind())
}

/// Squared distance of items `[n, h]` from a point each, `[n, h]`: `[n]`. The reward of PAL-A is minus this.
pub fn squared_distance(items: &Tensor, points: &Tensor) -> Tensor {
    (items - points)
        .square()
        .sum_dim_intlist(-1, false, items.kind())
}

/// Distance of items `[n, h]` from a point each, `[n]`: what the [hinge](crate::losses::ideal_point::hinge) compares.
///
/// The root is kept off 0, where it has no gradient.
pub fn distance(items: &Tensor, points: &Tensor) -> Tensor {
    let least = match items.kind() {
        Kind::Double => 1e-30,
        _ => 1e-12,
    };
    squared_distance(items, points).clamp_min(least).sqrt()
}

/// Reward of PAL-B: `scale cos(item, point)`, `[n, h]` each to `[n]`. `scale` is a scalar, 1 / 0.07 at first.
pub fn scaled_cosine(items: &Tensor, points: &Tensor, scale: &Tensor) -> Tensor {
    unit_rows(items)
        .multiply(&unit_rows(points))
        .sum_dim_intlist(-1, false, items.kind())
        * scale
}
