//! The transformer parts that the encoders share: activations by their Hugging Face name, multi-head
//! self-attention on libtorch's fused kernel, and the pre-norm block of CLIP and ViT.

use serde::Deserialize;
use tch::Tensor;

use super::layers::{LayerNorm, Linear};
use super::weights::Loader;
use crate::error::{Error, Result};
use crate::ops::attention::attention;

/// Activation function, as `hidden_act` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: OpenAI's CLIP.
    QuickGelu,
    /// `x * Phi(x)` with the exact normal distribution function.
    Gelu,
    /// GELU with the tanh approximation.
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluNew,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`.
    #[serde(alias = "swish")]
    Silu,
}

impl Activation {
    /// Elementwise, shape kept.
    pub fn apply(self, xs: &Tensor) -> Tensor {
        match self {
            Self::QuickGelu => xs * (xs * 1.702).sigmoid(),
            Self::Gelu => xs.gelu("none"),
            Self::GeluNew => xs.gelu("tanh"),
            Self::Relu => xs.relu(),
            Self::Silu => xs.silu(),
        }
    }
}

/// Which positions a query sees.
#[derive(Clone, Copy)]
pub enum Visible<'a> {
    /// All.
    All,
    /// Itself and the ones before it.
    Causal,
    /// Those where the mask, boolean `[b, 1, 1, t]`, is true.
    Masked(&'a Tensor),
}

/// Multi-head self-attention without its output projection.
pub struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    heads: i64,
}

impl Attention {
    /// Takes the three projections `names` (query, key, value), `[width, width]` each, with biases if `bias`.
    ///
    /// # Errors
    /// A tensor is missing or of another shape, or `width` is not a multiple of `heads`.
    pub fn load(
        loader: &Loader,
        names: [&str; 3],
        width: i64,
        heads: i64,
        bias: bool,
    ) -> Result<Self> {
        if heads < 1 || width % heads != 0 {
            return Err(Error::weights(
                loader.checkpoint().path(),
                format!("the configuration asks for {heads} attention heads of a width of {width}"),
            ));
        }
        let load = |name: &str| {
            if bias {
                Linear::load(&loader.pp(name), width, width)
            } else {
                Linear::load_no_bias(&loader.pp(name), width, width)
            }
        };
        let [query, key, value] = names;
        Ok(Self {
            query: load(query)?,
            key: load(key)?,
            value: load(value)?,
            heads,
        })
    }

    /// `[b, t, width]`, shape kept.
    pub fn forward(&self, xs: &Tensor, visible: Visible) -> Tensor {
        self.forward_at(xs, xs, visible)
    }

    /// As [`Self::forward`] at the positions of `queries`, `[b, q, width]`, alone.
    fn forward_at(&self, queries: &Tensor, xs: &Tensor, visible: Visible) -> Tensor {
        let (b, width) = (xs.size()[0], xs.size()[2]);
        let split = |ys: Tensor| {
            ys.view([b, -1, self.heads, width / self.heads])
                .transpose(1, 2)
        };
        let (query, key, value) = (
            split(self.query.forward(queries)),
            split(self.key.forward(xs)),
            split(self.value.forward(xs)),
        );
        let none: Option<&Tensor> = None;
        let fused = |mask, causal| {
            Tensor::scaled_dot_product_attention(
                &query, &key, &value, mask, 0.0, causal, None, false,
            )
        };
        let ys = match visible {
            Visible::All => attention(&query, &key, &value),
            Visible::Causal => fused(none, true),
            Visible::Masked(mask) => fused(Some(mask), false),
        }; // [b, heads, q, width / heads]
        ys.transpose(1, 2).reshape([b, -1, width]) // [b, q, width]
    }
}

/// Patches of a square RGB image, for a vision transformer with these sizes.
///
/// # Errors
/// The image is smaller than a patch, or its channels are not three.
pub fn patch_count(loader: &Loader, image: i64, patch: i64, channels: i64) -> Result<i64> {
    let refuse = |message| Err(Error::weights(loader.checkpoint().path(), message));
    if patch < 1 || image < patch {
        return refuse(format!(
            "the configuration asks for patches of {patch} pixels in images of {image}"
        ));
    }
    if channels != 3 {
        return refuse(format!("takes images of {channels} channels, not RGB"));
    }
    Ok((image / patch).pow(2))
}

/// Sizes of a [`Block`].
#[derive(Clone, Copy)]
pub struct BlockConfig {
    /// Width of the residual stream.
    pub width: i64,
    /// Width inside the feed-forward part.
    pub inner: i64,
    /// Attention heads.
    pub heads: i64,
    /// Of the feed-forward part.
    pub activation: Activation,
    /// Of both layer norms.
    pub norm_eps: f64,
    /// `true` if query, key and value have biases.
    pub attention_bias: bool,
}

/// The names of a [`Block`]'s tensors below its prefix.
pub struct BlockNames {
    /// Layer norm before the attention.
    pub norm_1: &'static str,
    /// Query, key and value.
    pub attention: [&'static str; 3],
    /// Output projection of the attention.
    pub attention_output: &'static str,
    /// Layer norm before the feed-forward part.
    pub norm_2: &'static str,
    /// Its first linear layer.
    pub expand: &'static str,
    /// Its second linear layer.
    pub contract: &'static str,
}

/// Names in CLIP checkpoints.
pub const CLIP_BLOCK: BlockNames = BlockNames {
    norm_1: "layer_norm1",
    attention: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    attention_output: "self_attn.out_proj",
    norm_2: "layer_norm2",
    expand: "mlp.fc1",
    contract: "mlp.fc2",
};

/// Pre-norm transformer block: `x + attention(norm(x))`, then `x + mlp(norm(x))`.
pub struct Block {
    norm_1: LayerNorm,
    attention: Attention,
    attention_output: Linear,
    norm_2: LayerNorm,
    expand: Linear,
    contract: Linear,
    activation: Activation,
}

impl Block {
    /// Takes the tensors that `names` lists.
    pub fn load(loader: &Loader, names: &BlockNames, config: BlockConfig) -> Result<Self> {
        let BlockConfig {
            width,
            inner,
            heads,
            activation,
            norm_eps,
            attention_bias,
        } = config;
        let attention = Attention::load(loader, names.attention, width, heads, attention_bias)?;
        Ok(Self {
            norm_1: LayerNorm::load(&loader.pp(names.norm_1), width, norm_eps)?,
            attention,
            attention_output: Linear::load(&loader.pp(names.attention_output), width, width)?,
            norm_2: LayerNorm::load(&loader.pp(names.norm_2), width, norm_eps)?,
            expand: Linear::load(&loader.pp(names.expand), width, inner)?,
            contract: Linear::load(&loader.pp(names.contract), inner, width)?,
            activation,
        })
    }

    /// `count` blocks under the prefixes `0`, `1`, ...; at least one.
    pub fn load_stack(
        loader: &Loader,
        names: &BlockNames,
        config: BlockConfig,
        count: i64,
    ) -> Result<Vec<Self>> {
        if count < 1 {
            let message = format!("{count} layers make no transformer");
            return Err(Error::weights(loader.checkpoint().path(), message)
                .with_hint("`num_hidden_layers` in config.json is wrong"));
        }
        (0..count)
            .map(|index| Self::load(&loader.pp(index), names, config))
            .collect()
    }

    /// `[b, t, width]`, shape kept.
    pub fn forward(&self, xs: &Tensor, visible: Visible) -> Tensor {
        let ys = self.attention.forward(&self.norm_1.forward(xs), visible);
        self.finish(xs, &ys)
    }

    /// The state of the first position after all `blocks`, in which every position sees all: `[b, t, width]` to `[b, width]`.
    /// The last block computes nothing else.
    pub fn first_state(blocks: &[Self], xs: Tensor) -> Tensor {
        let Some((last, before)) = blocks.split_last() else {
            return xs.select(1, 0);
        };
        let mut xs = xs;
        for block in before {
            xs = block.forward(&xs, Visible::All);
        }
        let normed = last.norm_1.forward(&xs);
        let first = normed.narrow(1, 0, 1); // [b, 1, width]
        let ys = last.attention.forward_at(&first, &normed, Visible::All);
        last.finish(&xs.narrow(1, 0, 1), &ys).squeeze_dim(1)
    }

    /// The rest of the block after the attention's weighted sums `ys`, `[b, q, width]`, at positions whose states were
    /// `xs`.
    fn finish(&self, xs: &Tensor, ys: &Tensor) -> Tensor {
        let xs = xs + self.attention_output.forward(ys);
        let ys = self.expand.forward(&self.norm_2.forward(&xs)); // [b, t, inner]
        let ys = self.contract.forward(&self.activation.apply(&ys)); // [b, t, width]
        xs + ys
    }
}
