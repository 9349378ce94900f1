//! One layer of a language model: pre-norm attention and feed-forward part, each on a residual stream.

use tch::Tensor;

use super::attention::{Attention, Context, LayerCache};
use super::config::{Family, LmConfig};
use crate::error::Result;
use crate::models::layers::{LayerNorm, Linear, RmsNorm};
use crate::models::transformer::Activation;
use crate::models::weights::Loader;

/// A family's norm over the residual stream.
pub(super) enum Norm {
    Layer(LayerNorm),
    Rms(RmsNorm),
}

impl Norm {
    pub(super) fn load(loader: &Loader, config: &LmConfig) -> Result<Self> {
        let (width, eps) = (config.hidden_size, config.norm_eps);
        Ok(match config.family {
            Family::Gpt2 => Self::Layer(LayerNorm::load(loader, width, eps)?),
            _ => Self::Rms(RmsNorm::load(loader, width, eps)?),
        })
    }

    /// `[.., d]`, shape kept.
    pub(super) fn forward(&self, xs: &Tensor) -> Tensor {
        match self {
            Self::Layer(norm) => norm.forward(xs),
            Self::Rms(norm) => norm.forward(xs),
        }
    }
}

enum FeedForward {
    /// `contract(act(gate(x)) * expand(x))` (Shazeer 2020, arXiv 2002.05202).
    Gated {
        gate: Linear,
        expand: Linear,
        contract: Linear,
    },
    Plain {
        expand: Linear,
        contract: Linear,
    },
}

impl FeedForward {
    fn load(loader: &Loader, config: &LmConfig) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        if config.family == Family::Gpt2 {
            return Ok(Self::Plain {
                expand: Linear::load_transposed(&loader.pp("c_fc"), width, inner)?,
                contract: Linear::load_transposed(&loader.pp("c_proj"), inner, width)?,
            });
        }
        let linear = |name: &str, input, output| {
            Linear::load_with(&loader.pp(name), input, output, config.mlp_bias)
        };
        Ok(Self::Gated {
            gate: linear("gate_proj", width, inner)?,
            expand: linear("up_proj", width, inner)?,
            contract: linear("down_proj", inner, width)?,
        })
    }

    fn forward(&self, xs: &Tensor, activation: Activation) -> Tensor {
        match self {
            Self::Gated {
                gate,
                expand,
                contract,
            } => contract.forward(&(activation.apply(&gate.forward(xs)) * expand.forward(xs))),
            Self::Plain { expand, contract } => {
                contract.forward(&activation.apply(&expand.forward(xs)))
            }
        }
    }
}

/// `x + attention(norm(x))`, then `x + feed_forward(norm(x))`.
pub(super) struct Block {
    norm_1: Norm,
    attention: Attention,
    norm_2: Norm,
    feed_forward: FeedForward,
    activation: Activation,
}

impl Block {
    /// Layer `index` of the model, from the tensors below its prefix.
    pub(super) fn load(loader: &Loader, config: &LmConfig, index: usize) -> Result<Self> {
        let names = config.family.names();
        Ok(Self {
            norm_1: Norm::load(&loader.pp(names.norm_1), config)?,
            attention: Attention::load(&loader.pp(names.attention), config, index)?,
            norm_2: Norm::load(&loader.pp(names.norm_2), config)?,
            feed_forward: FeedForward::load(&loader.pp("mlp"), config)?,
            activation: config.activation,
        })
    }

    /// `[b, t, d]`, shape kept.
    pub(super) fn forward(
        &self,
        xs: &Tensor,
        context: &Context,
        cache: Option<&mut LayerCache>,
    ) -> Tensor {
        let normed = self.norm_1.forward(xs);
        let xs = xs + self.attention.forward(&normed, context, cache);
        let fed = self
            .feed_forward
            .forward(&self.norm_2.forward(&xs), self.activation);
        xs + fed
    }
}
