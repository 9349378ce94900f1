//! How much of its class a model keeps while it learns a subject, and a reward that counts it.
//!
//! A likeness that is measured under prompts with the token alone cannot tell "the token draws the subject" from "the class word
//! draws the subject", which DreamBooth's authors call language drift (Ruiz et al. 2023, arXiv 2208.12242, section 3.3). The
//! formulas are this project's own; their parts are DreamBooth's PRES and RPO's harmonic reward.

use tch::{Kind, Tensor};

use super::harmonic::{exact, numbers};

/// The class's weight beside likeness and alignment: a third, as theirs are at lambda one half.
const CLASS_WEIGHT: f64 = 1.0 / 3.0;

/// The least that is kept of a class in a reward, so that a reward of 0 is approached and not divided by.
const LEAST: f64 = 1e-8;

/// The share of its class that a model has kept, in 0 to 1: `1 - (now - untuned) / (1 - untuned)`.
///
/// `now` and `untuned` are the mean cosines of the photos with images of the class word alone (PRES), of the model and of the
/// untuned one. 1: the class word draws the subject no more than before. 0: it draws the photos themselves. Below the untuned
/// model's cosine it is 1. Cosines of .306 before and .372 now give `1 - .066 / .694 = .905`.
pub fn class_kept(now: f64, untuned: f64) -> f64 {
    if untuned >= 1.0 {
        return 1.0;
    }
    (1.0 - (now - untuned) / (1.0 - untuned)).clamp(0.0, 1.0)
}

/// The harmonic mean of likeness, alignment and what is kept of the class:
/// `1 / (2/3 (lambda / image + (1 - lambda) / text) + 1/3 / kept)`.
///
/// * `image`, `text`: similarities in 0 to 1 of images of prompts with the token, as in
///   [`lambda_harmonic`](super::harmonic::lambda_harmonic).
/// * `kept` in 0 to 1: [`class_kept`].
/// * `lambda` in 0 to 1 splits the two thirds. At one half all three weigh the same: .8, .75 and .9 give
///   `3 / (1/.8 + 1/.75 + 1/.9) = .8120`.
pub fn specific(image: f64, text: f64, kept: f64, lambda: f64) -> f64 {
    let subject = lambda / image.max(LEAST) + (1.0 - lambda) / text.max(LEAST);
    1.0 / ((1.0 - CLASS_WEIGHT) * subject + CLASS_WEIGHT / kept.max(LEAST))
}

/// The volume that a point of likeness, alignment and class kept dominates, from the origin: the product of the three. Likeness
/// and alignment are mean cosines (CLIP-I, CLIP-T), counted from 0.
///
/// Of several points it would be the volume of their union; a run has one, at the weights that it keeps.
pub fn hypervolume(clip_i: f64, clip_t: f64, kept: f64) -> f64 {
    clip_i.max(0.0) * clip_t.max(0.0) * kept
}

/// How much the images of each prompt differ: mean `1 - cosine` between its `each` images, of features `[p * n, d]`. DreamBooth's
/// DIV (section 4.2 there) measures the distance by LPIPS instead.
///
/// # Panics
/// Where the images do not divide among the prompts.
pub fn diversity(images: &Tensor, each: i64) -> Vec<f64> {
    let by_prompt = exact(images).view([-1, each, images.size()[1]]); // [p, n, d]
    let cosines = by_prompt.matmul(&by_prompt.transpose(1, 2)); // [p, n, n]
    let all = cosines.sum_dim_intlist([1, 2].as_slice(), false, Kind::Double); // [p]
    let others = (all - each as f64) / (each * (each - 1)) as f64;
    numbers(&others.rsub_scalar(1.0))
}
