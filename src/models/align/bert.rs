//! BERT (Devlin et al. 2018, arXiv 1810.04805) as ALIGN uses it: the state of the first token, without the pooler.

use serde::Deserialize;
use tch::Tensor;

use crate::error::Result;
use crate::models::layers::{Embedding, LayerNorm, Linear};
use crate::models::transformer::{Activation, Attention, Visible};
use crate::models::weights::Loader;

/// Sizes; the defaults are those of transformers.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// Rows of the token table.
    pub vocab_size: i64,
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
    /// Longest token sequence.
    pub max_position_embeddings: i64,
    /// Rows of the segment table.
    pub type_vocab_size: i64,
    /// Of every layer norm.
    pub layer_norm_eps: f64,
}

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
        }
    }
}

/// Post-norm transformer block.
struct Layer {
    attention: Attention,
    attention_output: Linear,
    attention_norm: LayerNorm,
    expand: Linear,
    contract: Linear,
    norm: LayerNorm,
    activation: Activation,
}

impl Layer {
    fn load(loader: &Loader, config: &BertConfig) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let norm = |name| LayerNorm::load(&loader.pp(name), width, config.layer_norm_eps);
        Ok(Self {
            attention: Attention::load(
                &loader.pp("attention.self"),
                ["query", "key", "value"],
                width,
                config.num_attention_heads,
                true,
            )?,
            attention_output: Linear::load(&loader.pp("attention.output.dense"), width, width)?,
            attention_norm: norm("attention.output.LayerNorm")?,
            expand: Linear::load(&loader.pp("intermediate.dense"), width, inner)?,
            contract: Linear::load(&loader.pp("output.dense"), inner, width)?,
            norm: norm("output.LayerNorm")?,
            activation: config.hidden_act,
        })
    }

    /// `[n, t, d]`, shape kept.
    fn forward(&self, xs: &Tensor, visible: Visible) -> Tensor {
        let ys = self.attention.forward(xs, visible);
        let xs = self
            .attention_norm
            .forward(&(self.attention_output.forward(&ys) + xs));
        let ys = self.activation.apply(&self.expand.forward(&xs)); // [n, t, inner]
        self.norm.forward(&(self.contract.forward(&ys) + xs)) // [n, t, d]
    }
}

/// The text encoder.
pub struct Bert {
    tokens: Embedding,
    positions: Tensor,
    /// Vector of the first segment, the only one there is, `[1, d]`.
    segment: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

impl Bert {
    /// Takes the tensors below `loader`; a pooler is left alone.
    pub fn load(loader: &Loader, config: &BertConfig) -> Result<Self> {
        let width = config.hidden_size;
        let embeddings = loader.pp("embeddings");
        let segments = embeddings.tensor(
            "token_type_embeddings.weight",
            &[config.type_vocab_size, width],
        )?;
        let layers = loader.pp("encoder.layer");
        Ok(Self {
            tokens: Embedding::load(&embeddings.pp("word_embeddings"), config.vocab_size, width)?,
            positions: embeddings.tensor(
                "position_embeddings.weight",
                &[config.max_position_embeddings, width],
            )?,
            segment: segments.narrow(0, 0, 1),
            norm: LayerNorm::load(&embeddings.pp("LayerNorm"), width, config.layer_norm_eps)?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::load(&layers.pp(index), config))
                .collect::<Result<_>>()?,
        })
    }

    /// Integer ids `[n, t]` and a boolean mask of the same shape, false on padding, to the first token's state
    /// `[n, d]`.
    pub fn forward(&self, ids: &Tensor, mask: &Tensor) -> Tensor {
        let positions = self.positions.narrow(0, 0, ids.size()[1]); // [t, d]
        let states = self.tokens.forward(ids) + &self.segment + positions; // [n, t, d]
        let mut states = self.norm.forward(&states);
        let mask = mask.unsqueeze(1).unsqueeze(1); // [n, 1, 1, t]
        for layer in &self.layers {
            states = layer.forward(&states, Visible::Masked(&mask));
        }
        states.select(1, 0) // [n, d]
    }
}
