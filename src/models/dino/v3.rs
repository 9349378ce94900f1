//! The vision transformers of DINOv3 (Siméoni et al. 2025, arXiv 2508.10104), exact against transformers' `DINOv3ViTModel`:
//! registers, and patches whose queries and keys are rotated by their place in the image.

use std::f64::consts::TAU;
use std::path::Path;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::scaled::{FeedNames, Names, Rotation, ScaledBlock, Sizes};
use crate::error::{Error, Result};
use crate::models::json;
use crate::models::layers::{Conv2d, ConvConfig, LayerNorm};
use crate::models::transformer::{Activation, patch_count};
use crate::models::weights::Loader;

/// Sizes of a DINOv3; the defaults are those of transformers.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the keys of a file, each a switch of its own"
)]
pub struct Dino3Config {
    /// Width.
    pub hidden_size: i64,
    /// Blocks.
    pub num_hidden_layers: i64,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Width inside the feed-forward parts.
    pub intermediate_size: i64,
    /// Activation; of gated feed-forward parts, of the gate.
    pub hidden_act: Activation,
    /// Of every layer norm.
    pub layer_norm_eps: f64,
    /// Period of the slowest rotation.
    pub rope_theta: f64,
    /// Height and width that it was trained for, pixels.
    pub image_size: i64,
    /// Height and width of a patch, pixels.
    pub patch_size: i64,
    /// Colour channels.
    pub num_channels: i64,
    /// `true` if queries have a bias.
    pub query_bias: bool,
    /// `true` if keys have a bias.
    pub key_bias: bool,
    /// `true` if values have a bias.
    pub value_bias: bool,
    /// `true` if the attention's output has a bias.
    pub proj_bias: bool,
    /// `true` if feed-forward parts have biases.
    pub mlp_bias: bool,
    /// `true` if feed-forward parts are gated.
    pub use_gated_mlp: bool,
    /// Registers.
    pub num_register_tokens: i64,
}

impl Default for Dino3Config {
    fn default() -> Self {
        Self {
            hidden_size: 384,
            num_hidden_layers: 12,
            num_attention_heads: 6,
            intermediate_size: 1536,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-5,
            rope_theta: 100.0,
            image_size: 224,
            patch_size: 16,
            num_channels: 3,
            query_bias: true,
            key_bias: false,
            value_bias: true,
            proj_bias: true,
            mlp_bias: true,
            use_gated_mlp: false,
            num_register_tokens: 0,
        }
    }
}

impl Dino3Config {
    /// Reads `config.json` of a `DINOv3ViTModel` folder.
    ///
    /// # Errors
    /// It cannot be read, or a key has a value of the wrong type.
    pub fn open(path: &Path) -> Result<Self> {
        json::parse(path, json::read_object(path)?)
    }
}

/// The vision transformer.
pub struct Dino3 {
    class: Tensor,
    /// `[1, registers, d]`.
    registers: Tensor,
    patches: Conv2d,
    blocks: Vec<ScaledBlock>,
    norm: LayerNorm,
    /// Rotations for each unit of place, `[head / 4]` in f32.
    frequencies: Tensor,
}

impl Dino3 {
    /// Takes the tensors of a bare model.
    ///
    /// # Errors
    /// A tensor is missing or of another shape, or the sizes make no transformer.
    pub fn load(loader: &Loader, config: &Dino3Config) -> Result<Self> {
        let (width, patch) = (config.hidden_size, config.patch_size);
        patch_count(loader, config.image_size, patch, config.num_channels)?;
        let names = Names {
            attention: [
                "attention.q_proj",
                "attention.k_proj",
                "attention.v_proj",
                "attention.o_proj",
            ],
            feed: if config.use_gated_mlp {
                FeedNames::Gated("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
            } else {
                FeedNames::Plain("mlp.up_proj", "mlp.down_proj")
            },
        };
        let sizes = Sizes {
            width,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            count: config.num_hidden_layers,
            activation: config.hidden_act,
            norm_eps: config.layer_norm_eps,
            attention_biases: [
                config.query_bias,
                config.key_bias,
                config.value_bias,
                config.proj_bias,
            ],
            feed_bias: config.mlp_bias,
        };
        let blocks = ScaledBlock::load_stack(&loader.pp("layer"), &names, &sizes)?;
        let head = width / config.num_attention_heads;
        if head % 4 != 0 {
            let message =
                format!("heads of a width of {head}, which is no multiple of 4, cannot be rotated");
            return Err(Error::weights(loader.checkpoint().path(), message));
        }
        let embeddings = loader.pp("embeddings");
        let convolution = ConvConfig {
            stride: patch,
            ..ConvConfig::new(patch, 0)
        };
        let registers = [1, config.num_register_tokens, width];
        Ok(Self {
            class: embeddings.tensor("cls_token", &[1, 1, width])?,
            registers: embeddings.tensor("register_tokens", &registers)?,
            patches: Conv2d::load(
                &embeddings.pp("patch_embeddings"),
                config.num_channels,
                width,
                convolution,
            )?,
            blocks,
            norm: LayerNorm::load(&loader.pp("norm"), width, config.layer_norm_eps)?,
            frequencies: frequencies(config.rope_theta, head).to_device(loader.device()),
        })
    }

    /// `[n, channels, h, w]`, of any size from a patch on, to the normalised class state `[n, d]`.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let (kind, n) = (pixels.kind(), pixels.size()[0]);
        let patches = self.patches.forward(pixels); // [n, d, rows, columns]
        let rotation = self.rotation((patches.size()[2], patches.size()[3]), kind);
        let patches = patches.flatten(2, 3).transpose(1, 2); // [n, patches, d]
        let own = |tokens: &Tensor| tokens.to_kind(kind).expand([n, -1, -1], false);
        let mut states = Tensor::cat(&[own(&self.class), own(&self.registers), patches], 1);
        for block in &self.blocks {
            states = block.forward(&states, Some(&rotation));
        }
        self.norm.forward(&states.select(1, 0)) // [n, d]
    }

    /// The rotations of patches in so many rows and columns, whose centres lie between -1 and 1. Of either half of a head,
    /// the first numbers turn with the row and the others with the column.
    fn rotation(&self, (rows, columns): (i64, i64), kind: Kind) -> Rotation {
        let options = (Kind::Float, self.frequencies.device());
        let places = |count: i64| {
            let centres = Tensor::arange_start(0.5, count as f64, options) / count as f64;
            centres * 2.0 - 1.0 // [count]
        };
        let by_row = places(rows)
            .view([rows, 1, 1])
            .expand([rows, columns, 1], false);
        let by_column = places(columns)
            .view([1, columns, 1])
            .expand([rows, columns, 1], false);
        let places = Tensor::stack(&[by_row, by_column], 2).flatten(0, 1); // [patches, 2, 1]
        let angles = places * TAU * &self.frequencies; // [patches, 2, head / 4]
        let angles = angles.flatten(1, 2).repeat([1, 2]); // [patches, head]
        Rotation {
            cos: angles.cos().to_kind(kind),
            sin: angles.sin().to_kind(kind),
        }
    }
}

/// `theta^-(4 i / head)` for `i` below `head / 4`, in f32 as transformers computes them.
fn frequencies(theta: f64, head: i64) -> Tensor {
    let options = (Kind::Float, Device::Cpu);
    let exponents = Tensor::arange_start_step(0.0, 1.0, 4.0 / head as f64, options);
    Tensor::pow_scalar(theta, &exponents).reciprocal() // [head / 4]
}
