//! The reconstruction loss of an autoencoder.

use tch::{Kind, Tensor};

/// Mean absolute error plus weighted mean squared error and mean absolute error of the differences between
/// neighbouring pixels, per image: `reconstruction` and `images` `[b, c, h, w]` to `[b]`.
///
/// The differences keep edges sharp, as the adversarial loss of the latent diffusion paper does at much higher cost
/// (Rombach et al. 2021, arXiv 2112.10752, section 3.1).
pub fn reconstruction(
    reconstruction: &Tensor,
    images: &Tensor,
    squared_weight: f64,
    gradient_weight: f64,
) -> Tensor {
    let error = reconstruction - images;
    let mean = |values: Tensor| values.flatten(1, -1).mean_dim(-1, false, Kind::Float); // [b]
    let differences = |axis: i64| {
        let size = error.size()[axis as usize];
        error.narrow(axis, 1, size - 1) - error.narrow(axis, 0, size - 1)
    };
    mean(error.abs())
        + mean(error.square()) * squared_weight
        + (mean(differences(2).abs()) + mean(differences(3).abs())) * gradient_weight
}
