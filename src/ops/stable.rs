//! Functions of logits that neither overflow nor cancel at the ends of the number range.

use tch::Tensor;

/// `ln sigmoid(x)`, elementwise.
///
/// Computed as `min(x, 0) - ln(1 + exp(-|x|))`: exact to rounding at both ends, where `ln(sigmoid(x))` gives
/// minus infinity below -88 in f32, and where a softplus with a threshold drops `exp(-x)`.
pub fn log_sigmoid(x: &Tensor) -> Tensor {
    x.log_sigmoid()
}
