//! Objectives: one file each, free functions from per-sample values to per-sample losses. A caller reduces,
//! weights and logs; nothing here knows of models, data or files.
//!
//! All functions keep the kind (f32 or f64) and the device of what they get, and are differentiable.

pub mod autoencoder;
pub mod bradley_terry;
pub mod brain;
pub mod contrastive;
pub mod dno;
pub mod dpo;
pub mod dreambooth;
mod elsewhere;
pub mod f_dpo;
pub mod general_preference;
pub mod gpo;
pub mod ideal_point;
pub mod inpo;
pub mod ipo;
pub mod kto;
pub mod numbers;
pub mod objectives;
pub mod odds;
pub mod pair;
pub mod pro;
pub mod regression;
pub mod rpo;
pub mod sft;
pub mod simpo;
pub mod sppo;
pub mod tdpo;

use tch::{Kind, Tensor};

/// Mean squared error of a denoiser per sample: `prediction` and `target` `[b, c, h, w]` to `[b]`.
///
/// The mean over channels and pixels, as the authors of RPO train with, not the paper's squared norm (which is
/// `c * h * w` times larger and would need a `beta` smaller by as much). Half precision is summed in f32.
///
/// # Panics
/// Where the two shapes differ, since libtorch would broadcast them.
pub fn denoising_error(prediction: &Tensor, target: &Tensor) -> Tensor {
    assert_eq!(
        prediction.size(),
        target.size(),
        "a prediction and its target have one shape"
    );
    let kind = match prediction.kind() {
        Kind::Double => Kind::Double,
        _ => Kind::Float,
    };
    let difference = prediction.to_kind(kind) - target.to_kind(kind);
    difference.square().flatten(1, -1).mean_dim(-1, false, kind) // [b]
}
