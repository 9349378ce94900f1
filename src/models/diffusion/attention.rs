//! The transformer between two residual layers: self-attention over the positions of a feature map,
//! cross-attention to the text, gated feed-forward.

use std::cell::RefCell;
use std::rc::Rc;

use tch::Tensor;

use crate::error::Result;
use crate::models::layers::{Conv2d, ConvConfig, GroupNorm, LayerNorm, Linear};
use crate::models::weights::Loader;
use crate::ops::attention::attention;

/// The text as cross-attention takes it.
pub(super) enum Text {
    /// Token states `[b, t, d]`.
    Tokens(Tensor),
    /// Keys and values of every cross-attention of the network, by slot.
    Projected(Rc<Vec<Projected>>),
}

/// Keys and values, both `[b, heads, t, width]`.
pub(super) type Projected = (Tensor, Tensor);

impl Text {
    pub(super) fn shallow_clone(&self) -> Self {
        match self {
            Self::Tokens(tokens) => Self::Tokens(tokens.shallow_clone()),
            Self::Projected(all) => Self::Projected(Rc::clone(all)),
        }
    }
}

/// Every cross-attention of a network in the order of loading, which is its slot.
pub(super) type CrossAttentions = RefCell<Vec<Rc<Attention>>>;

/// Sizes that the transformers of one level share.
#[derive(Clone, Copy)]
pub(super) struct TransformerConfig {
    /// Channels of the feature map.
    pub(super) channels: i64,
    /// Attention heads.
    pub(super) heads: i64,
    /// Width of the text tokens.
    pub(super) context: i64,
    /// Number of blocks.
    pub(super) layers: i64,
    /// Groups of the first norm.
    pub(super) groups: i64,
    /// Linear layers, not 1x1 convolutions, into and out of the blocks.
    pub(super) linear: bool,
}

/// Multi-head attention.
pub(super) struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: i64,
}

impl Attention {
    fn load(loader: &Loader, width: i64, source: i64, heads: i64) -> Result<Self> {
        Ok(Self {
            to_q: Linear::load_no_bias(&loader.pp("to_q"), width, width)?,
            to_k: Linear::load_no_bias(&loader.pp("to_k"), source, width)?,
            to_v: Linear::load_no_bias(&loader.pp("to_v"), source, width)?,
            to_out: Linear::load(&loader.pp("to_out.0"), width, width)?,
            heads,
        })
    }

    fn split_heads(&self, xs: &Tensor) -> Tensor {
        let (b, t, d) = (xs.size()[0], xs.size()[1], xs.size()[2]);
        xs.reshape([b, t, self.heads, d / self.heads])
            .transpose(1, 2) // [b, heads, t, width]
    }

    /// Keys and values of `source` `[b, t, d]`.
    pub(super) fn project(&self, source: &Tensor) -> Projected {
        (
            self.split_heads(&self.to_k.forward(source)),
            self.split_heads(&self.to_v.forward(source)),
        )
    }

    fn attend(&self, xs: &Tensor, (keys, values): &Projected) -> Tensor {
        let queries = self.split_heads(&self.to_q.forward(xs));
        let ys = attention(&queries, keys, values); // [b, heads, n, width]
        self.to_out.forward(&ys.transpose(1, 2).flatten(2, 3)) // [b, n, d]
    }
}

/// Feed-forward with a gated GELU (Shazeer 2020, arXiv 2002.05202).
struct FeedForward {
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    fn load(loader: &Loader, width: i64) -> Result<Self> {
        Ok(Self {
            proj: Linear::load(&loader.pp("net.0.proj"), width, 8 * width)?,
            out: Linear::load(&loader.pp("net.2"), 4 * width, width)?,
        })
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        let halves = self.proj.forward(xs).chunk(2, -1);
        self.out.forward(&(&halves[0] * halves[1].gelu("none")))
    }
}

struct Block {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Rc<Attention>,
    slot: usize,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl Block {
    fn load(loader: &Loader, config: TransformerConfig, all: &CrossAttentions) -> Result<Self> {
        let TransformerConfig {
            channels,
            heads,
            context,
            ..
        } = config;
        let norm = |name: &str| LayerNorm::load(&loader.pp(name), channels, 1e-5);
        let attn2 = Rc::new(Attention::load(
            &loader.pp("attn2"),
            channels,
            context,
            heads,
        )?);
        let slot = all.borrow().len();
        all.borrow_mut().push(Rc::clone(&attn2));
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: Attention::load(&loader.pp("attn1"), channels, channels, heads)?,
            norm2: norm("norm2")?,
            attn2,
            slot,
            norm3: norm("norm3")?,
            ff: FeedForward::load(&loader.pp("ff"), channels)?,
        })
    }

    fn forward(&self, xs: &Tensor, text: &Text) -> Tensor {
        let normed = self.norm1.forward(xs);
        let xs = xs + self.attn1.attend(&normed, &self.attn1.project(&normed));
        let normed = self.norm2.forward(&xs);
        let attended = match text {
            Text::Tokens(tokens) => self.attn2.attend(&normed, &self.attn2.project(tokens)),
            Text::Projected(all) => self.attn2.attend(&normed, &all[self.slot]),
        };
        let xs = xs + attended;
        let fed = self.ff.forward(&self.norm3.forward(&xs));
        xs + fed
    }
}

enum Projection {
    Conv(Conv2d),
    Linear(Linear),
}

impl Projection {
    fn load(loader: &Loader, config: TransformerConfig) -> Result<Self> {
        let channels = config.channels;
        Ok(if config.linear {
            Self::Linear(Linear::load(loader, channels, channels)?)
        } else {
            Self::Conv(Conv2d::load(
                loader,
                channels,
                channels,
                ConvConfig::new(1, 0),
            )?)
        })
    }
}

/// `Transformer2DModel`: feature map in, feature map out, residual.
pub(super) struct Transformer {
    norm: GroupNorm,
    proj_in: Projection,
    blocks: Vec<Block>,
    proj_out: Projection,
}

impl Transformer {
    pub(super) fn load(
        loader: &Loader,
        config: TransformerConfig,
        all: &CrossAttentions,
    ) -> Result<Self> {
        Ok(Self {
            norm: GroupNorm::load(&loader.pp("norm"), config.groups, config.channels, 1e-6)?,
            proj_in: Projection::load(&loader.pp("proj_in"), config)?,
            blocks: (0..config.layers)
                .map(|i| Block::load(&loader.pp("transformer_blocks").pp(i), config, all))
                .collect::<Result<_>>()?,
            proj_out: Projection::load(&loader.pp("proj_out"), config)?,
        })
    }

    /// `[b, c, h, w]`, shape kept.
    pub(super) fn forward(&self, xs: &Tensor, text: &Text) -> Tensor {
        let (height, width) = (xs.size()[2], xs.size()[3]);
        let to_tokens = |map: &Tensor| map.flatten(2, 3).transpose(1, 2); // [b, h * w, c]
        let to_map = |tokens: &Tensor| tokens.transpose(1, 2).unflatten(2, [height, width]); // [b, c, h, w]
        let normed = self.norm.forward(xs);
        let mut tokens = match &self.proj_in {
            // In a row once: left transposed, every norm and sum of the blocks would walk it so.
            Projection::Conv(conv) => to_tokens(&conv.forward(&normed)).contiguous(),
            Projection::Linear(linear) => linear.forward(&to_tokens(&normed)),
        };
        for block in &self.blocks {
            tokens = block.forward(&tokens, text);
        }
        let update = match &self.proj_out {
            Projection::Conv(conv) => conv.forward(&to_map(&tokens)),
            Projection::Linear(linear) => to_map(&linear.forward(&tokens)),
        };
        xs + update
    }
}
