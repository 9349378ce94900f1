//! DINOv2 (Oquab et al. 2023, arXiv 2304.07193) and DINOv2 with registers (Darcet et al. 2023, arXiv 2309.16588), exact
//! against transformers' `Dinov2Model` and `Dinov2WithRegistersModel`.

use std::path::Path;

use serde::Deserialize;
use tch::{Kind, Tensor};

use super::scaled::{FeedNames, Names, ScaledBlock, Sizes};
use crate::error::Result;
use crate::models::json;
use crate::models::layers::{Conv2d, ConvConfig, LayerNorm};
use crate::models::transformer::{Activation, patch_count};
use crate::models::weights::Loader;

/// Tensor names of published checkpoints.
const ATTENTION: [&str; 4] = [
    "attention.attention.query",
    "attention.attention.key",
    "attention.attention.value",
    "attention.output.dense",
];

/// Sizes of a DINOv2; the defaults are those of transformers.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Dino2Config {
    /// Width.
    pub hidden_size: i64,
    /// Blocks.
    pub num_hidden_layers: i64,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Width inside the feed-forward parts, in widths; of gated ones two thirds of it.
    pub mlp_ratio: i64,
    /// Activation of feed-forward parts that are not gated.
    pub hidden_act: Activation,
    /// Of every layer norm.
    pub layer_norm_eps: f64,
    /// Height and width that the positions are for, pixels.
    pub image_size: i64,
    /// Height and width of a patch, pixels.
    pub patch_size: i64,
    /// Colour channels.
    pub num_channels: i64,
    /// `true` if query, key and value have biases.
    pub qkv_bias: bool,
    /// `true` if feed-forward parts are gated.
    pub use_swiglu_ffn: bool,
    /// Registers of the kind with registers.
    pub num_register_tokens: i64,
    /// `dinov2`, or `dinov2_with_registers`.
    pub model_type: String,
}

impl Default for Dino2Config {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-6,
            image_size: 224,
            patch_size: 14,
            num_channels: 3,
            qkv_bias: true,
            use_swiglu_ffn: false,
            num_register_tokens: 4,
            model_type: String::new(),
        }
    }
}

impl Dino2Config {
    /// Reads `config.json` of a `Dinov2Model` or `Dinov2WithRegistersModel` folder.
    ///
    /// # Errors
    /// It cannot be read, or a key has a value of the wrong type.
    pub fn open(path: &Path) -> Result<Self> {
        json::parse(path, json::read_object(path)?)
    }

    /// `true` of the kind with registers.
    fn has_registers(&self) -> bool {
        self.model_type == "dinov2_with_registers"
    }

    /// Width inside the feed-forward parts: of gated ones two thirds, rounded up to a multiple of 8.
    fn inner(&self) -> i64 {
        let inner = self.hidden_size * self.mlp_ratio;
        if self.use_swiglu_ffn {
            (inner * 2 / 3 + 7) / 8 * 8
        } else {
            inner
        }
    }
}

/// The vision transformer.
pub struct Dino2 {
    class: Tensor,
    /// `[1, registers, d]`.
    registers: Option<Tensor>,
    patches: Conv2d,
    /// `[1, 1 + side * side, d]`.
    positions: Tensor,
    /// Patches along a side that the positions are for.
    side: i64,
    blocks: Vec<ScaledBlock>,
    norm: LayerNorm,
}

impl Dino2 {
    /// Takes the tensors of a bare model, or those below its name of a model with a head.
    ///
    /// # Errors
    /// A tensor is missing or of another shape, or the sizes make no transformer.
    pub fn load(loader: &Loader, config: &Dino2Config) -> Result<Self> {
        let inside = loader.pp(&config.model_type);
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
        let (feed, activation) = if config.use_swiglu_ffn {
            let feed = FeedNames::Joined("mlp.weights_in", "mlp.weights_out");
            (feed, Activation::Silu)
        } else {
            let feed = FeedNames::Plain("mlp.fc1", "mlp.fc2");
            (feed, config.hidden_act)
        };
        let names = Names {
            attention: ATTENTION,
            feed,
        };
        let bias = config.qkv_bias;
        let sizes = Sizes {
            width,
            inner: config.inner(),
            heads: config.num_attention_heads,
            count: config.num_hidden_layers,
            activation,
            norm_eps: config.layer_norm_eps,
            attention_biases: [bias, bias, bias, true],
            feed_bias: true,
        };
        let registers = [1, config.num_register_tokens, width];
        Ok(Self {
            class: embeddings.tensor("cls_token", &[1, 1, width])?,
            registers: if config.has_registers() {
                Some(embeddings.tensor("register_tokens", &registers)?)
            } else {
                None
            },
            patches: Conv2d::load(
                &embeddings.pp("patch_embeddings.projection"),
                config.num_channels,
                width,
                convolution,
            )?,
            positions: embeddings.tensor("position_embeddings", &[1, count + 1, width])?,
            side: config.image_size / patch,
            blocks: ScaledBlock::load_stack(&own.pp("encoder.layer"), &names, &sizes)?,
            norm: LayerNorm::load(&own.pp("layernorm"), width, config.layer_norm_eps)?,
        })
    }

    /// `[n, channels, h, w]`, of any size from a patch on, to the normalised class state `[n, d]`.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let (kind, n) = (pixels.kind(), pixels.size()[0]);
        let patches = self.patches.forward(pixels); // [n, d, rows, columns]
        let (rows, columns) = (patches.size()[2], patches.size()[3]);
        let patches = patches.flatten(2, 3).transpose(1, 2); // [n, patches, d]
        let own = |tokens: &Tensor| tokens.to_kind(kind).expand([n, -1, -1], false);
        let positions = self.positions(rows, columns).to_kind(kind);
        let mut states = Tensor::cat(&[own(&self.class), patches], 1) + positions; // [n, 1 + patches, d]
        if let Some(registers) = &self.registers {
            // They have no positions.
            let rest = states.narrow(1, 1, rows * columns);
            states = Tensor::cat(&[states.narrow(1, 0, 1), own(registers), rest], 1);
        }
        for block in &self.blocks {
            states = block.forward(&states, None);
        }
        self.norm.forward(&states.select(1, 0)) // [n, d]
    }

    /// The positions of an image of so many patches, `[1, 1 + rows * columns, d]`: those of the checkpoint, resized in f32
    /// by cubic interpolation as transformers does, where there are registers with antialiasing.
    fn positions(&self, rows: i64, columns: i64) -> Tensor {
        if (rows, columns) == (self.side, self.side) {
            return self.positions.shallow_clone();
        }
        let width = self.positions.size()[2];
        let patches = self.positions.narrow(1, 1, self.side * self.side);
        let grid = patches
            .to_kind(Kind::Float)
            .reshape([1, self.side, self.side, width])
            .permute([0, 3, 1, 2]); // [1, d, side, side]
        let size = [rows, columns];
        let grid = if self.registers.is_some() {
            grid.internal_upsample_bicubic2d_aa(size, false, None, None)
        } else {
            grid.upsample_bicubic2d(size, false, None, None)
        };
        let patches = grid
            .permute([0, 2, 3, 1])
            .reshape([1, rows * columns, width]);
        let class = self.positions.narrow(1, 0, 1);
        Tensor::cat(&[class, patches.to_kind(self.positions.kind())], 1)
    }
}
