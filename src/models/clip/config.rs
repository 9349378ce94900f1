//! `config.json` of CLIP models, with the defaults of transformers for keys that old files lack.

use std::path::Path;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::models::json;
use crate::models::transformer::{Activation, BlockConfig};

/// The text transformer's sizes.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Rows of the token table.
    pub vocab_size: i64,
    /// Width.
    pub hidden_size: i64,
    /// Width inside the feed-forward parts.
    pub intermediate_size: i64,
    /// Size of the projected vector, where this model has its own projection.
    pub projection_dim: i64,
    /// Blocks.
    pub num_hidden_layers: i64,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Longest token sequence.
    pub max_position_embeddings: i64,
    /// Activation.
    pub hidden_act: Activation,
    /// Of every layer norm.
    pub layer_norm_eps: f64,
    /// The token whose state is the pooled one; 2 is the legacy value that means "the largest id".
    pub eos_token_id: i64,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

impl ClipTextConfig {
    /// Reads `config.json` of a text encoder folder; that of a whole CLIP model serves too.
    pub fn open(path: &Path) -> Result<Self> {
        let object = json::read_object(path)?;
        let own = sub_config(&object, "text_config").unwrap_or(object);
        json::parse(path, own)
    }

    pub(super) fn block(&self) -> BlockConfig {
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

/// The vision transformer's sizes.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    /// Width.
    pub hidden_size: i64,
    /// Width inside the feed-forward parts.
    pub intermediate_size: i64,
    /// Blocks.
    pub num_hidden_layers: i64,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Colour channels.
    pub num_channels: i64,
    /// Height and width of the input, pixels.
    #[serde(deserialize_with = "side")]
    pub image_size: i64,
    /// Height and width of a patch, pixels.
    #[serde(deserialize_with = "side")]
    pub patch_size: i64,
    /// Activation.
    pub hidden_act: Activation,
    /// Of every layer norm.
    pub layer_norm_eps: f64,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

impl ClipVisionConfig {
    pub(super) fn block(&self) -> BlockConfig {
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

/// Both encoders and the size of their common space.
#[derive(Clone, Debug)]
pub struct ClipConfig {
    /// The text transformer.
    pub text: ClipTextConfig,
    /// The vision transformer.
    pub vision: ClipVisionConfig,
    /// Size of the vectors that are compared.
    pub projection_dim: i64,
}

impl ClipConfig {
    /// Reads `config.json` of a `CLIPModel` folder.
    pub fn open(path: &Path) -> Result<Self> {
        let object = json::read_object(path)?;
        let projection_dim = match object.get("projection_dim") {
            None => 512,
            Some(value) => value
                .as_i64()
                .ok_or_else(|| Error::weights(path, "`projection_dim` must be a whole number"))?,
        };
        let part = |key| sub_config(&object, key).unwrap_or_default();
        Ok(Self {
            text: json::parse(path, part("text_config"))?,
            vision: json::parse(path, part("vision_config"))?,
            projection_dim,
        })
    }
}

/// The section `key` of a nested configuration. Where there is an old `KEY_dict` too it replaces the whole section,
/// as in transformers.
fn sub_config(object: &Map<String, Value>, key: &str) -> Option<Map<String, Value>> {
    json::section(object, &format!("{key}_dict")).or_else(|| json::section(object, key))
}

/// A size given as one number or as two equal ones.
fn side<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Side {
        One(i64),
        Two([i64; 2]),
    }
    match Side::deserialize(deserializer)? {
        Side::One(size) => Ok(size),
        Side::Two([height, width]) if height == width => Ok(height),
        Side::Two([height, width]) => Err(serde::de::Error::custom(format!(
            "only square images and patches are supported, not {height}x{width}"
        ))),
    }
}
