//! Contrastive losses of image-text encoders.

use tch::{Kind, Tensor};

/// Symmetric cross-entropy between images and their captions (Radford et al. 2021, arXiv 2103.00020, figure 3).
///
/// `logits` `[n, n]` compare image i with caption j; `same` `[n, n]`, boolean, is true where the two captions are
/// equal. A batch can hold a caption twice: its probability is then spread over all its rows. Returns `[n]`.
pub fn image_text(logits: &Tensor, same: &Tensor) -> Tensor {
    let kind = logits.kind();
    let weights = same.to_kind(kind);
    let targets = &weights / weights.sum_dim_intlist(-1, true, kind); // [n, n], symmetric weights: rows serve both ways
    let one_way = |logits: &Tensor| {
        -(logits.log_softmax(-1, kind) * &targets).sum_dim_intlist(-1, false, kind)
    };
    (one_way(logits) + one_way(&logits.tr())) * 0.5
}

/// Supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362, equation 2): rows of `features` `[n, d]`, of
/// length 1, are drawn to those with the same integer in `identities` `[n]` and away from all others. Returns `[n]`;
/// 0 for a row without a partner.
pub fn supervised(features: &Tensor, identities: &Tensor, temperature: f64) -> Tensor {
    let kind = features.kind();
    let count = features.size()[0];
    let own = Tensor::eye(count, (Kind::Bool, features.device())); // [n, n]
    let logits = features.matmul(&features.tr()) / temperature;
    let log_probabilities = logits
        .masked_fill(&own, f64::NEG_INFINITY)
        .log_softmax(-1, kind);
    let partners = identities
        .unsqueeze(0)
        .eq_tensor(&identities.unsqueeze(1))
        .logical_and(&own.logical_not()); // [n, n]
    let sums = log_probabilities
        .masked_fill(&partners.logical_not(), 0.0)
        .sum_dim_intlist(-1, false, kind); // [n]
    let counts = partners.to_kind(kind).sum_dim_intlist(-1, false, kind);
    -sums / counts.clamp_min(1.0)
}
