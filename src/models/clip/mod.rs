//! CLIP (Radford et al. 2021, arXiv 2103.00020) from Hugging Face folders: the text transformer that Stable
//! Diffusion is conditioned on, and the dual encoder that judges images and prompts.

mod config;
mod text;
mod vision;

use tch::Tensor;

pub use config::{ClipConfig, ClipTextConfig, ClipVisionConfig};
pub use text::{ClipText, ClipTextOutput};
pub use vision::ClipVision;

use super::layers::Linear;
use super::weights::Loader;
use crate::error::{Error, Result};

/// Both encoders with the projections into their common space, as transformers' `CLIPModel`.
pub struct Clip {
    text: ClipText,
    vision: ClipVision,
    visual_projection: Linear,
}

impl Clip {
    /// Takes the tensors of a whole `CLIPModel`; `logit_scale` is not needed for cosines and stays.
    pub fn load(loader: &Loader, config: &ClipConfig) -> Result<Self> {
        let text_config = ClipTextConfig {
            projection_dim: config.projection_dim,
            ..config.text.clone()
        };
        let text = ClipText::load(loader, &text_config)?;
        if !text.has_projection() {
            return Err(Error::tensor(
                loader.checkpoint().path(),
                "text_projection.weight",
                "missing: not a whole CLIP model",
            ));
        }
        Ok(Self {
            text,
            vision: ClipVision::load(loader, &config.vision)?,
            visual_projection: Linear::load_no_bias(
                &loader.pp("visual_projection"),
                config.vision.hidden_size,
                config.projection_dim,
            )?,
        })
    }

    /// Integer ids `[n, t]` to `[n, projection]`, not normalised.
    pub fn text_features(&self, ids: &Tensor) -> Tensor {
        self.text.project(&self.text.forward(ids).pooled)
    }

    /// Pixels `[n, 3, h, w]` to `[n, projection]`, not normalised.
    pub fn image_features(&self, pixels: &Tensor) -> Tensor {
        self.visual_projection.forward(&self.vision.forward(pixels))
    }
}
