//! Rewards as ratings: squared error on the attributes that annotators rated.

use tch::Tensor;

/// Mean squared error over the attributes of each response (HelpSteer2, arXiv 2406.08673): `[b, a]` to `[b]`.
///
/// # Panics
/// Where the shapes differ, since libtorch would broadcast them.
pub fn regression(predicted: &Tensor, rating: &Tensor) -> Tensor {
    assert_eq!(
        predicted.size(),
        rating.size(),
        "a prediction for each rating"
    );
    let error = (predicted - rating).square();
    error.mean_dim(-1, false, predicted.kind()) // [b]
}
