//! Attention over all positions.

use tch::{Kind, Tensor};

/// Attention weights of a head, up to which they are kept as they are in bf16 on a CPU.
const PLAIN: i64 = 128 * 128;

/// `softmax(queries keys^T / sqrt(d)) values` (Vaswani et al. 2017, arXiv 1706.03762, equation 1) of queries
/// `[b, heads, n, d]`, keys and values `[b, heads, m, d]`; returns `[b, heads, n, d]`.
///
/// libtorch's fused kernel, which keeps no weights, but for one case: on a CPU in bf16 it sets up a matrix product for
/// every head of every sample, which for short sequences takes longer than the rest of the layer.
pub fn attention(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor {
    let (size, m) = (queries.size(), keys.size()[2]);
    let (n, d) = (size[2], size[3]);
    if queries.kind() == Kind::BFloat16 && !queries.device().is_cuda() && n * m <= PLAIN {
        let scale = (d as f64).sqrt().recip();
        let weights = (queries * scale).matmul(&keys.transpose(-2, -1)); // [b, heads, n, m]
        return weights.softmax(-1, None).matmul(values);
    }
    let none: Option<&Tensor> = None;
    Tensor::scaled_dot_product_attention(queries, keys, values, none, 0.0, false, None, false)
}
