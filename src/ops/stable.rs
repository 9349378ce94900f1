//! Functions of logits, log-probabilities and lengths that neither overflow nor cancel at the ends of the number range.

use std::f64::consts::LN_2;

use tch::Tensor;

/// `ln sigmoid(x)`, elementwise.
///
/// Computed as `min(x, 0) - ln(1 + exp(-|x|))`: exact to rounding at both ends, where `ln(sigmoid(x))` gives
/// minus infinity below -88 in f32, and where a softplus with a threshold drops `exp(-x)`.
pub fn log_sigmoid(x: &Tensor) -> Tensor {
    x.log_sigmoid()
}

/// `ln(1 - exp(x))` for `x < 0`, elementwise: from the log-probability of an event to that of its opposite.
///
/// Below `-ln 2` as `ln1p(-exp(x))`, above as `ln(-expm1(x))` (Maechler 2012), each exact where it is used. Minus
/// infinity at 0.
pub fn log1mexp(x: &Tensor) -> Tensor {
    // Each branch sees only arguments of its own: an infinite gradient in the other would come back as NaN.
    let far = (-x.clamp_max(-LN_2).exp()).log1p();
    let near = (-x.clamp_min(-LN_2).expm1()).log();
    near.where_self(&x.gt(-LN_2), &far)
}

/// `exp(x) - 1`, elementwise, continued by its tangent above `cap`.
///
/// Grows linearly there with the slope `exp(cap)`: nothing overflows, and unlike behind a clamp the gradient does not
/// vanish where it should be largest.
pub fn expm1_capped(x: &Tensor, cap: f64) -> Tensor {
    x.clamp_max(cap).expm1() + (x - cap).relu() * cap.exp()
}

/// Rows of length 1; a row of zeros stays one.
pub fn unit_rows(rows: &Tensor) -> Tensor {
    let length = rows.square().sum_dim_intlist(-1, true, rows.kind());
    // The square of what torch's `normalize` clamps the length at, which f32 still holds.
    rows / length.clamp_min(1e-24).sqrt()
}

/// `ln sigmoid(x)` of a number, computed the same way.
pub fn ln_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// `sigmoid(x)` of a number, without overflow on either side.
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let exponential = x.exp();
        exponential / (1.0 + exponential)
    }
}
