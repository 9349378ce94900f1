//! Preference scores of the General Preference Model (Zhang et al. 2024, arXiv 2410.02197): a skew-symmetric product of
//! embeddings, which can hold that a beats b, b beats c and c beats a. Tensors in and out, differentiable; the scores
//! of all pairs of `n` responses need `n` embeddings.

use tch::Tensor;

/// Score of `left` over `right`: `sum_l scale_l (left_2l right_2l+1 - left_2l+1 right_2l)`, `[..]`.
///
/// * `left`, `right` `[.., 2k]`: embeddings of two responses to one prompt, usually of length 1.
/// * `scales` `[.., k]` >= 0: weights of the `k` planes, which depend on the prompt alone.
///
/// Antisymmetric: `score(a, b) = -score(b, a)`, and 0 of a response over itself. A scalar reward `r` is `k` = 1, scale 1
/// and the embedding `(r, 1)`, not normalised.
pub fn score(left: &Tensor, right: &Tensor, scales: &Tensor) -> Tensor {
    (turned(left, scales) * right).sum_dim_intlist(-1, false, left.kind())
}

/// Scores of every response over every other, `embeddings` `[.., n, 2k]` and `scales` `[.., k]` to `[.., n, n]`: row `i`,
/// column `j` is that of `i` over `j`.
pub fn scores(embeddings: &Tensor, scales: &Tensor) -> Tensor {
    turned(embeddings, &scales.unsqueeze(-2)).matmul(&embeddings.transpose(-2, -1))
}

/// The embeddings with every plane turned by a quarter and stretched by its scale: `(x, y)` to `scale (-y, x)`.
fn turned(embeddings: &Tensor, scales: &Tensor) -> Tensor {
    let shape = embeddings.size();
    let planes = embeddings.unflatten(-1, [-1, 2]); // [.., k, 2]
    let (x, y) = (planes.select(-1, 0), planes.select(-1, 1)); // [.., k]
    let turned = Tensor::stack(&[-y * scales, x * scales], -1); // [.., k, 2]
    turned.reshape(shape)
}

/// Mean of the scores over a pool of responses, themselves included: `[.., n, n]` to `[.., n]`. What
/// [`gpo`](crate::losses::gpo::gpo) takes, after division by the temperature.
pub fn pool_means(scores: &Tensor) -> Tensor {
    scores.mean_dim(-1, false, scores.kind())
}
