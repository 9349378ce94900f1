//! The lambda-Harmonic reward (Miao et al. 2024, arXiv 2407.12164): a weighted harmonic mean of likeness to the
//! reference photos and of alignment with the prompt, so that neither makes up for the lack of the other.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};

/// Similarities below this count as this, so that a reward of 0 is approached and not divided by.
///
/// The authors' code adds 1e-8 to every similarity instead, which moves every reward; the formula is kept exact here.
const LEAST: f64 = 1e-8;

/// The lambdas of the paper's tables, at which rewards are reported beside the one that decides.
pub const LAMBDAS: [f64; 3] = [0.3, 0.5, 0.7];

/// `1 / (lambda / image + (1 - lambda) / text)`, for similarities in 0 to 1.
///
/// `lambda` is the weight of the image side: at 0 the reward is `text`, at 1 it is `image`, exactly. Its pull on
/// either side is `lambda r^2 / image^2` and `(1 - lambda) r^2 / text^2`, so with images near .9 and texts near .65
/// the two are even at .66, not at .5; another encoder has another even point.
pub fn lambda_harmonic(image: f64, text: f64, lambda: f64) -> f64 {
    if lambda <= 0.0 {
        text
    } else if lambda >= 1.0 {
        image
    } else {
        1.0 / (lambda / image.max(LEAST) + (1.0 - lambda) / text.max(LEAST))
    }
}

/// Refuses a lambda that is not between 0 and 1.
pub fn check_lambda(lambda: f64) -> Result<()> {
    if (0.0..=1.0).contains(&lambda) {
        Ok(())
    } else {
        Err(Error::config(format!(
            "lambda {lambda} is outside 0 to 1: it is the share of likeness to the photos in the reward"
        )))
    }
}

/// A cosine as a similarity in 0 to 1: `(cosine + 1) / 2`.
pub fn unit(cosine: f64) -> f64 {
    f64::midpoint(cosine, 1.0)
}

/// Mean cosine of each image with all references: `features` `[n, d]`, `references` `[r, d]`, both normalised, to
/// `[n]`. This is CLIP-I or DINO, by the encoder that made the features.
///
/// # Panics
/// Where the widths differ or there is no reference: features of two encoders were mixed.
pub fn image_cosine(features: &Tensor, references: &Tensor) -> Vec<f64> {
    assert!(references.size()[0] > 0, "at least one reference");
    let (features, references) = (exact(features), exact(references));
    // The mean of products is the product with the mean.
    let mean = references.mean_dim(0, false, Kind::Double); // [d]
    numbers(&features.matmul(&mean)) // [n]
}

/// Cosine of each image with its prompt: `features` `[n, d]`, `texts` `[n, d]` or `[1, d]` for one prompt, both
/// normalised, to `[n]`. This is CLIP-T without its clamp at 0.
///
/// # Panics
/// Where the shapes do not fit.
pub fn text_cosine(features: &Tensor, texts: &Tensor) -> Vec<f64> {
    let (features, texts) = (exact(features), exact(texts));
    assert!(
        texts.size()[0] == 1 || texts.size() == features.size(),
        "one prompt, or one for each image"
    );
    numbers(&(features * texts).sum_dim_intlist(-1, false, Kind::Double)) // [n]
}

/// The paper's ALIGN-I: [`image_cosine`] as a similarity in 0 to 1.
pub fn image_similarity(features: &Tensor, references: &Tensor) -> Vec<f64> {
    image_cosine(features, references)
        .into_iter()
        .map(unit)
        .collect()
}

/// The paper's ALIGN-T: [`text_cosine`] as a similarity in 0 to 1.
pub fn text_similarity(features: &Tensor, texts: &Tensor) -> Vec<f64> {
    text_cosine(features, texts).into_iter().map(unit).collect()
}

pub(super) fn exact(features: &Tensor) -> Tensor {
    features.detach().to_kind(Kind::Double)
}

pub(super) fn numbers(values: &Tensor) -> Vec<f64> {
    Vec::try_from(values).expect("one dimension of f64")
}
