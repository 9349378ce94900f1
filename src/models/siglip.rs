//! SigLIP (Zhai et al. 2023, arXiv 2303.15343) and SigLIP 2 of one image size (Tschannen et al. 2025, arXiv 2502.14786),
//! exact against transformers' `SiglipModel`: images are pooled by attention from a learnt query, texts by the state of
//! their last position, which is padding as a rule.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use tch::Tensor;

use super::json;
use super::layers::{Conv2d, ConvConfig, Embedding, LayerNorm, Linear};
use super::transformer::{Activation, Block, BlockConfig, CLIP_BLOCK, Visible, patch_count};
use super::weights::Loader;
use crate::error::{Error, Result};
use crate::ops::attention::attention;

/// Sizes of both transformers, with the defaults of transformers. Each uses the keys of its own half.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct SiglipPart {
    /// Width.
    pub hidden_size: i64,
    /// Width inside the feed-forward parts.
    pub intermediate_size: i64,
    /// Blocks.
    pub num_hidden_layers: i64,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Activation.
    pub hidden_act: Activation,
    /// Of every layer norm.
    pub layer_norm_eps: f64,
    /// Texts: rows of the token table.
    pub vocab_size: i64,
    /// Texts: positions, all of which are read.
    pub max_position_embeddings: i64,
    /// Texts: size of the vectors that are compared; the width where it is not given.
    pub projection_size: Option<i64>,
    /// Images: colour channels.
    pub num_channels: i64,
    /// Images: height and width, pixels.
    pub image_size: i64,
    /// Images: height and width of a patch, pixels.
    pub patch_size: i64,
    /// Images: `true` if they are pooled by attention.
    pub vision_use_head: bool,
}

impl Default for SiglipPart {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            hidden_act: Activation::GeluNew,
            layer_norm_eps: 1e-6,
            vocab_size: 32000,
            max_position_embeddings: 64,
            projection_size: None,
            num_channels: 3,
            image_size: 224,
            patch_size: 16,
            vision_use_head: true,
        }
    }
}

impl SiglipPart {
    fn block(&self) -> BlockConfig {
        BlockConfig {
            width: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            activation: self.hidden_act,
            norm_eps: self.layer_norm_eps,
            attention_bias: true,
        }
    }
}

/// Both transformers.
#[derive(Clone, Debug)]
pub struct SiglipConfig {
    /// That of texts.
    pub text: SiglipPart,
    /// That of images.
    pub vision: SiglipPart,
}

impl SiglipConfig {
    /// Reads `config.json` of a `SiglipModel` folder.
    ///
    /// # Errors
    /// It cannot be read, a key has a value of the wrong type, or vectors of images and texts differ in size.
    pub fn open(path: &Path) -> Result<Self> {
        let object = json::read_object(path)?;
        let part = |key: &str| {
            let section: Map<String, Value> = json::section(&object, key).unwrap_or_default();
            json::parse::<SiglipPart>(path, section)
        };
        let (text, vision) = (part("text_config")?, part("vision_config")?);
        let config = Self { text, vision };
        let (images, texts) = (config.vision.hidden_size, config.projection());
        if images != texts {
            let message = format!("image vectors have {images} values and text vectors {texts}");
            return Err(Error::weights(path, message));
        }
        if !config.vision.vision_use_head {
            let message = "pools images by no attention head (`vision_use_head`), and so has no vector of an image";
            return Err(Error::weights(path, message));
        }
        Ok(config)
    }

    /// Size of the vectors that are compared.
    pub fn projection(&self) -> i64 {
        self.text.projection_size.unwrap_or(self.text.hidden_size)
    }
}

/// Both transformers with what makes one vector of their states.
pub struct Siglip {
    text: Text,
    vision: Vision,
}

impl Siglip {
    /// Takes the tensors of a whole `SiglipModel`; `logit_scale` and `logit_bias` are not needed for cosines and stay.
    ///
    /// # Errors
    /// A tensor is missing or of another shape, or the sizes make no transformer.
    pub fn load(loader: &Loader, config: &SiglipConfig) -> Result<Self> {
        Ok(Self {
            text: Text::load(&loader.pp("text_model"), config)?,
            vision: Vision::load(&loader.pp("vision_model"), &config.vision)?,
        })
    }

    /// Integer ids `[n, max_position_embeddings]` to `[n, d]`, not normalised. Every position sees all: padding is not
    /// masked, and the last position is the text's vector.
    pub fn text_features(&self, ids: &Tensor) -> Tensor {
        self.text.forward(ids)
    }

    /// Pixels `[n, 3, h, w]` to `[n, d]`, not normalised.
    pub fn image_features(&self, pixels: &Tensor) -> Tensor {
        self.vision.forward(pixels)
    }
}

struct Text {
    tokens: Embedding,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

impl Text {
    fn load(loader: &Loader, config: &SiglipConfig) -> Result<Self> {
        let part = &config.text;
        let (width, embeddings) = (part.hidden_size, loader.pp("embeddings"));
        let tokens = embeddings.pp("token_embedding");
        let positions = [part.max_position_embeddings, width];
        Ok(Self {
            tokens: Embedding::load(&tokens, part.vocab_size, width)?,
            positions: embeddings.tensor("position_embedding.weight", &positions)?,
            blocks: load_blocks(loader, part)?,
            norm: LayerNorm::load(&loader.pp("final_layer_norm"), width, part.layer_norm_eps)?,
            head: Linear::load(&loader.pp("head"), width, config.projection())?,
        })
    }

    fn forward(&self, ids: &Tensor) -> Tensor {
        let mut states = self.tokens.forward(ids) + &self.positions; // [n, t, d]
        for block in &self.blocks {
            states = block.forward(&states, Visible::All);
        }
        let last = states.select(1, -1); // [n, d]
        self.head.forward(&self.norm.forward(&last))
    }
}

struct Vision {
    patches: Conv2d,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    pooling: Pooling,
}

impl Vision {
    fn load(loader: &Loader, part: &SiglipPart) -> Result<Self> {
        let (width, patch) = (part.hidden_size, part.patch_size);
        let count = patch_count(loader, part.image_size, patch, part.num_channels)?;
        let embeddings = loader.pp("embeddings");
        let convolution = ConvConfig {
            stride: patch,
            ..ConvConfig::new(patch, 0)
        };
        let patches = embeddings.pp("patch_embedding");
        let norm = loader.pp("post_layernorm");
        Ok(Self {
            patches: Conv2d::load(&patches, part.num_channels, width, convolution)?,
            positions: embeddings.tensor("position_embedding.weight", &[count, width])?,
            blocks: load_blocks(loader, part)?,
            norm: LayerNorm::load(&norm, width, part.layer_norm_eps)?,
            pooling: Pooling::load(&loader.pp("head"), part)?,
        })
    }

    fn forward(&self, pixels: &Tensor) -> Tensor {
        let patches = self.patches.forward(pixels).flatten(2, 3).transpose(1, 2); // [n, patches, d]
        let mut states = patches + self.positions.to_kind(pixels.kind());
        for block in &self.blocks {
            states = block.forward(&states, Visible::All);
        }
        self.pooling.forward(&self.norm.forward(&states))
    }
}

fn load_blocks(loader: &Loader, part: &SiglipPart) -> Result<Vec<Block>> {
    let (layers, count) = (loader.pp("encoder.layers"), part.num_hidden_layers);
    Block::load_stack(&layers, &CLIP_BLOCK, part.block(), count)
}

/// Attention from one learnt query, and a feed-forward part.
struct Pooling {
    query: Tensor,
    /// Query, key and value above each other, `[3 d, d]` and `[3 d]`.
    projection: (Tensor, Tensor),
    output: Linear,
    norm: LayerNorm,
    expand: Linear,
    contract: Linear,
    activation: Activation,
    heads: i64,
}

impl Pooling {
    fn load(loader: &Loader, part: &SiglipPart) -> Result<Self> {
        let (width, inner) = (part.hidden_size, part.intermediate_size);
        let attention = loader.pp("attention");
        Ok(Self {
            query: loader.tensor("probe", &[1, 1, width])?,
            projection: (
                attention.tensor("in_proj_weight", &[3 * width, width])?,
                attention.tensor("in_proj_bias", &[3 * width])?,
            ),
            output: Linear::load(&attention.pp("out_proj"), width, width)?,
            norm: LayerNorm::load(&loader.pp("layernorm"), width, part.layer_norm_eps)?,
            expand: Linear::load(&loader.pp("mlp.fc1"), width, inner)?,
            contract: Linear::load(&loader.pp("mlp.fc2"), inner, width)?,
            activation: part.hidden_act,
            heads: part.num_attention_heads,
        })
    }

    /// States `[n, t, d]` to `[n, d]`.
    fn forward(&self, states: &Tensor) -> Tensor {
        let (n, width, kind) = (states.size()[0], states.size()[2], states.kind());
        let (weight, bias) = &self.projection;
        let (weights, biases) = (
            weight.to_kind(kind).chunk(3, 0),
            bias.to_kind(kind).chunk(3, 0),
        );
        let project = |xs: &Tensor, part: usize| {
            let ys = xs.linear(&weights[part], Some(&biases[part]));
            ys.view([n, -1, self.heads, width / self.heads])
                .transpose(1, 2) // [n, heads, t, d / heads]
        };
        let query = self.query.to_kind(kind).expand([n, 1, width], false);
        let ys = attention(
            &project(&query, 0),
            &project(states, 1),
            &project(states, 2),
        );
        let ys = ys.transpose(1, 2).reshape([n, width]);
        let xs = self.output.forward(&ys); // [n, d]
        let inner = self
            .activation
            .apply(&self.expand.forward(&self.norm.forward(&xs)));
        xs + self.contract.forward(&inner)
    }
}
