//! CLIP's vision transformer (Radford et al. 2021, arXiv 2103.00020), exact against transformers'
//! `CLIPVisionModel`.

use tch::Tensor;

use super::config::ClipVisionConfig;
use crate::error::Result;
use crate::models::layers::{Conv2d, ConvConfig, LayerNorm};
use crate::models::transformer::{Block, CLIP_BLOCK, patch_count};
use crate::models::weights::Loader;

/// The vision transformer.
pub struct ClipVision {
    class: Tensor,
    patches: Conv2d,
    positions: Tensor,
    first_norm: LayerNorm,
    blocks: Vec<Block>,
    last_norm: LayerNorm,
    config: ClipVisionConfig,
}

impl ClipVision {
    /// Takes the tensors below `vision_model.`; `loader` is at the root.
    pub fn load(loader: &Loader, config: &ClipVisionConfig) -> Result<Self> {
        let own = loader.pp("vision_model");
        let (width, patch) = (config.hidden_size, config.patch_size);
        let count = patch_count(loader, config.image_size, patch, config.num_channels)?;
        let embeddings = own.pp("embeddings");
        let convolution = ConvConfig {
            kernel: patch,
            stride: patch,
            padding: 0,
            groups: 1,
            bias: false,
        };
        Ok(Self {
            class: embeddings.tensor("class_embedding", &[width])?,
            patches: Conv2d::load(
                &embeddings.pp("patch_embedding"),
                config.num_channels,
                width,
                convolution,
            )?,
            positions: embeddings.tensor("position_embedding.weight", &[count + 1, width])?,
            // The name is misspelt in every published checkpoint.
            first_norm: LayerNorm::load(&own.pp("pre_layrnorm"), width, config.layer_norm_eps)?,
            blocks: Block::load_stack(
                &own.pp("encoder.layers"),
                &CLIP_BLOCK,
                config.block(),
                config.num_hidden_layers,
            )?,
            last_norm: LayerNorm::load(&own.pp("post_layernorm"), width, config.layer_norm_eps)?,
            config: config.clone(),
        })
    }

    /// Sizes.
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }

    /// `[n, channels, image_size, image_size]` to the normalised class state `[n, d]`.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let n = pixels.size()[0];
        let width = self.config.hidden_size;
        let patches = self.patches.forward(pixels).flatten(2, 3).transpose(1, 2); // [n, patches, d]
        let class = self
            .class
            .to_kind(pixels.kind())
            .expand([n, 1, width], false);
        let states = Tensor::cat(&[class, patches], 1) + self.positions.to_kind(pixels.kind()); // [n, 1 + patches, d]
        let states = self.first_norm.forward(&states);
        let class = Block::first_state(&self.blocks, states); // [n, d]
        self.last_norm.forward(&class)
    }
}
