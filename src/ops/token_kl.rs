//! How far a policy's next-token distributions are from a reference's.

use tch::{Kind, Tensor};

/// Forward Kullback-Leibler divergence of each position: `sum_v p_ref(v) [ln p_ref(v) - ln p_policy(v)]`.
///
/// `policy` and `reference` are logits `[.., v]` of the same shape; the result is `[..]`, in f32 or f64. Both sides go
/// through a log-softmax: the logarithm of a softmax is minus infinity where a token's probability underflows, which
/// makes the sum NaN. Mask prompt and padding in the result, not in the logits.
///
/// # Panics
/// Where the two shapes differ, since libtorch would broadcast them.
pub fn token_kl(policy: &Tensor, reference: &Tensor) -> Tensor {
    assert_eq!(
        policy.size(),
        reference.size(),
        "policy and reference score the same tokens"
    );
    let kind = match policy.kind() {
        Kind::Double => Kind::Double,
        _ => Kind::Float,
    };
    let policy = policy.log_softmax(-1, kind);
    let reference = reference.log_softmax(-1, kind);
    let weighted = reference.exp() * (reference - policy);
    weighted.sum_dim_intlist(-1, false, kind) // [..]
}
