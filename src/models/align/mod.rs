//! ALIGN (Jia et al. 2021, arXiv 2102.05918), exact against transformers' `AlignModel`: an EfficientNet for images,
//! a BERT for texts, the encoder of RPO's reward.

mod bert;
mod efficientnet;

use std::path::Path;

use tch::Tensor;

pub use bert::{Bert, BertConfig};
pub use efficientnet::{EfficientNet, EfficientNetConfig};

use super::json;
use super::layers::Linear;
use super::weights::Loader;
use crate::error::{Error, Result};

/// Both encoders.
#[derive(Clone, Debug)]
pub struct AlignConfig {
    /// The text encoder.
    pub text: BertConfig,
    /// The image encoder.
    pub vision: EfficientNetConfig,
    /// Size of the projected text vectors; that of the image vectors must be the same.
    pub projection_dim: i64,
}

impl AlignConfig {
    /// Reads `config.json` of an `AlignModel` folder.
    pub fn open(path: &Path) -> Result<Self> {
        let object = json::read_object(path)?;
        let projection_dim = match object.get("projection_dim") {
            None => 640,
            Some(value) => value
                .as_i64()
                .ok_or_else(|| Error::weights(path, "`projection_dim` must be a whole number"))?,
        };
        let part = |key| json::section(&object, key).unwrap_or_default();
        let config = Self {
            text: json::parse(path, part("text_config"))?,
            vision: json::parse(path, part("vision_config"))?,
            projection_dim,
        };
        config.vision.check(path)?;
        let width = config.vision.width();
        if width != projection_dim {
            return Err(Error::weights(
                path,
                format!("image vectors have {width} values and text vectors {projection_dim}"),
            ));
        }
        Ok(config)
    }
}

/// Both encoders; images are not projected.
pub struct Align {
    text: Bert,
    vision: EfficientNet,
    text_projection: Linear,
}

impl Align {
    /// Takes the tensors of a whole `AlignModel`; `temperature` is not needed for cosines and stays.
    pub fn load(loader: &Loader, config: &AlignConfig) -> Result<Self> {
        Ok(Self {
            text: Bert::load(&loader.pp("text_model"), &config.text)?,
            vision: EfficientNet::load(&loader.pp("vision_model"), &config.vision)?,
            text_projection: Linear::load(
                &loader.pp("text_projection"),
                config.text.hidden_size,
                config.projection_dim,
            )?,
        })
    }

    /// Integer ids `[n, t]` and a boolean mask of the same shape, false on padding, to `[n, d]`, not normalised.
    pub fn text_features(&self, ids: &Tensor, mask: &Tensor) -> Tensor {
        self.text_projection.forward(&self.text.forward(ids, mask))
    }

    /// Pixels `[n, 3, h, w]` to `[n, d]`, not normalised. In training (`train`) the batch norms use the batch's
    /// statistics.
    pub fn image_features(&self, pixels: &Tensor, train: bool) -> Tensor {
        self.vision.forward(pixels, train)
    }
}
