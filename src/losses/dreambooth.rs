//! DreamBooth (Ruiz et al. 2023, arXiv 2208.12242): learn the subject, keep the class.

use tch::Tensor;

/// Denoising error of the reference photos plus `weight` times that of images of the class.
///
/// `loss = L(instance) + weight * L(prior)` (paper, section 3.3), per sample.
/// * `instance` `[b]`: denoising errors of the subject's photos under the instance prompt.
/// * `prior` `[b]` and its weight (1 in the paper): errors of images that the untuned model made for the class
///   prompt. Without it this is the similarity loss alone.
pub fn dreambooth(instance: &Tensor, prior: Option<(&Tensor, f64)>) -> Tensor {
    match prior {
        Some((prior, weight)) => instance + prior * weight,
        None => instance.shallow_clone(),
    }
}
