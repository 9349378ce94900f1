//! Vision transformer of DINO (Caron et al. 2021, arXiv 2104.14294), exact against transformers' `ViTModel`: the
//! subject-fidelity metric of DreamBooth is the cosine of its class states. DINOv2 and DINOv3 are in `v2` and `v3`.

mod scaled;
mod v2;
mod v3;

use std::path::Path;

use serde::Deserialize;
use tch::Tensor;

pub use v2::{Dino2, Dino2Config};
pub use v3::{Dino3, Dino3Config};

use super::json;
use super::layers::{Conv2d, ConvConfig, LayerNorm};
use super::transformer::{Activation, Block, BlockConfig, BlockNames, patch_count};
use super::weights::Loader;
use crate::error::Result;

/// Tensor names of published checkpoints.
const PUBLISHED: BlockNames = BlockNames {
    norm_1: "layernorm_before",
    attention: [
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ],
    attention_output: "attention.output.dense",
    norm_2: "layernorm_after",
    expand: "intermediate.dense",
    contract: "output.dense",
};

/// Sizes of a ViT; the defaults are those of transformers.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct VitConfig {
    /// Width.
    pub hidden_size: i64,
    /// Blocks.
    pub num_hidden_layers: i64,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Width inside the feed-forward parts.
    pub intermediate_size: i64,
    /// Activation.
    pub hidden_act: Activation,
    /// Of every layer norm.
    pub layer_norm_eps: f64,
    /// Height and width of the input, pixels.
    pub image_size: i64,
    /// Height and width of a patch, pixels.
    pub patch_size: i64,
    /// Colour channels.
    pub num_channels: i64,
    /// `true` if query, key and value have biases.
    pub qkv_bias: bool,
}

impl Default for VitConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-12,
            image_size: 224,
            patch_size: 16,
            num_channels: 3,
            qkv_bias: true,
        }
    }
}

impl VitConfig {
    /// Reads `config.json` of a `ViTModel` folder.
    pub fn open(path: &Path) -> Result<Self> {
        json::parse(path, json::read_object(path)?)
    }
}

/// The vision transformer.
pub struct Vit {
    class: Tensor,
    patches: Conv2d,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Vit {
    /// Takes the tensors of a bare `ViTModel`, or those below `vit.` of a model with a head; a pooler is left alone.
    pub fn load(loader: &Loader, config: &VitConfig) -> Result<Self> {
        let inside = loader.pp("vit");
        let own = if inside.contains("embeddings.cls_token") {
            &inside
        } else {
            loader
        };
        let (width, patch) = (config.hidden_size, config.patch_size);
        let count = patch_count(loader, config.image_size, patch, config.num_channels)?;
        let embeddings = own.pp("embeddings");
        let convolution = ConvConfig {
            stride: patch,
            ..ConvConfig::new(patch, 0)
        };
        let block = BlockConfig {
            width,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            norm_eps: config.layer_norm_eps,
            attention_bias: config.qkv_bias,
        };
        Ok(Self {
            class: embeddings.tensor("cls_token", &[1, 1, width])?,
            patches: Conv2d::load(
                &embeddings.pp("patch_embeddings.projection"),
                config.num_channels,
                width,
                convolution,
            )?,
            positions: embeddings.tensor("position_embeddings", &[1, count + 1, width])?,
            blocks: Block::load_stack(
                &own.pp("encoder.layer"),
                &PUBLISHED,
                block,
                config.num_hidden_layers,
            )?,
            norm: LayerNorm::load(&own.pp("layernorm"), width, config.layer_norm_eps)?,
        })
    }

    /// `[n, channels, image_size, image_size]` to the normalised class state `[n, d]`.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let kind = pixels.kind();
        let patches = self.patches.forward(pixels).flatten(2, 3).transpose(1, 2); // [n, patches, d]
        let class = self
            .class
            .to_kind(kind)
            .expand([pixels.size()[0], 1, -1], false); // [n, 1, d]
        let states = Tensor::cat(&[class, patches], 1) + self.positions.to_kind(kind); // [n, 1 + patches, d]
        self.norm.forward(&Block::first_state(&self.blocks, states)) // [n, d]
    }
}
