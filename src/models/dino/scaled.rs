//! The transformer block of DINOv2 and DINOv3: pre-norm, with what attention and feed-forward part add scaled channel by
//! channel (LayerScale, Touvron et al. 2021, arXiv 2103.17239), a feed-forward part that may be gated (SwiGLU, Shazeer
//! 2020, arXiv 2002.05202), and patches that may be rotated by their place.

use tch::Tensor;

use crate::error::{Error, Result};
use crate::models::layers::{LayerNorm, Linear};
use crate::models::transformer::Activation;
use crate::models::weights::Loader;
use crate::ops::attention::attention;

/// The names of a block's linear layers below its prefix.
pub(super) struct Names {
    /// Query, key, value and output.
    pub(super) attention: [&'static str; 4],
    pub(super) feed: FeedNames,
}

/// The names of a feed-forward part.
#[derive(Clone, Copy)]
pub(super) enum FeedNames {
    /// In and out.
    Plain(&'static str, &'static str),
    /// Gate, in and out.
    Gated(&'static str, &'static str, &'static str),
    /// Gate and in above each other in one matrix, and out.
    Joined(&'static str, &'static str),
}

/// Sizes of a block.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) width: i64,
    pub(super) inner: i64,
    pub(super) heads: i64,
    /// Blocks.
    pub(super) count: i64,
    pub(super) activation: Activation,
    pub(super) norm_eps: f64,
    /// `true` where query, key, value and output have biases.
    pub(super) attention_biases: [bool; 4],
    /// `true` if the feed-forward part has biases.
    pub(super) feed_bias: bool,
}

/// Cosines and sines by which queries and keys of the last positions are rotated, `[patches, head]` each.
pub(super) struct Rotation {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

impl Rotation {
    /// `[b, heads, t, head]`, shape kept; the positions before the patches stay as they are.
    fn apply(&self, xs: &Tensor) -> Tensor {
        let (total, patches) = (xs.size()[2], self.cos.size()[0]);
        let before = xs.narrow(2, 0, total - patches);
        let ys = xs.narrow(2, total - patches, patches);
        let half = ys.size()[3] / 2;
        let turned = Tensor::cat(&[-ys.narrow(3, half, half), ys.narrow(3, 0, half)], 3);
        let rotated = ys * &self.cos + turned * &self.sin;
        Tensor::cat(&[before, rotated], 2)
    }
}

enum Feed {
    Plain {
        expand: Linear,
        contract: Linear,
    },
    Gated {
        gate: Linear,
        expand: Linear,
        contract: Linear,
    },
    Joined {
        expand: Linear,
        contract: Linear,
    },
}

impl Feed {
    fn load(loader: &Loader, names: FeedNames, sizes: &Sizes) -> Result<Self> {
        let Sizes {
            width,
            inner,
            feed_bias,
            ..
        } = *sizes;
        let load = |name: &str, input, output| {
            Linear::load_with(&loader.pp(name), input, output, feed_bias)
        };
        Ok(match names {
            FeedNames::Plain(expand, contract) => Self::Plain {
                expand: load(expand, width, inner)?,
                contract: load(contract, inner, width)?,
            },
            FeedNames::Gated(gate, expand, contract) => Self::Gated {
                gate: load(gate, width, inner)?,
                expand: load(expand, width, inner)?,
                contract: load(contract, inner, width)?,
            },
            FeedNames::Joined(expand, contract) => Self::Joined {
                expand: load(expand, width, 2 * inner)?,
                contract: load(contract, inner, width)?,
            },
        })
    }

    fn forward(&self, xs: &Tensor, activation: Activation) -> Tensor {
        match self {
            Self::Plain { expand, contract } => {
                contract.forward(&activation.apply(&expand.forward(xs)))
            }
            Self::Gated {
                gate,
                expand,
                contract,
            } => contract.forward(&(activation.apply(&gate.forward(xs)) * expand.forward(xs))),
            Self::Joined { expand, contract } => {
                let both = expand.forward(xs).chunk(2, -1);
                contract.forward(&(activation.apply(&both[0]) * &both[1]))
            }
        }
    }
}

/// The block.
pub(super) struct ScaledBlock {
    norm_1: LayerNorm,
    /// Query, key, value and output.
    attention: [Linear; 4],
    scale_1: Tensor,
    norm_2: LayerNorm,
    feed: Feed,
    scale_2: Tensor,
    heads: i64,
    activation: Activation,
}

impl ScaledBlock {
    /// The blocks under the prefixes `0`, `1`, ... of `loader`.
    ///
    /// # Errors
    /// A tensor is missing or of another shape, or the sizes make no transformer.
    pub(super) fn load_stack(loader: &Loader, names: &Names, sizes: &Sizes) -> Result<Vec<Self>> {
        let refuse = |message| Err(Error::weights(loader.checkpoint().path(), message));
        let Sizes {
            width,
            heads,
            count,
            ..
        } = *sizes;
        if count < 1 {
            return refuse(format!("{count} layers make no transformer"));
        }
        if heads < 1 || width % heads != 0 {
            return refuse(format!(
                "the configuration asks for {heads} attention heads of a width of {width}"
            ));
        }
        (0..count)
            .map(|index| Self::load(&loader.pp(index), names, sizes))
            .collect()
    }

    fn load(loader: &Loader, names: &Names, sizes: &Sizes) -> Result<Self> {
        let width = sizes.width;
        let part = |place: usize| {
            let loader = loader.pp(names.attention[place]);
            Linear::load_with(&loader, width, width, sizes.attention_biases[place])
        };
        Ok(Self {
            norm_1: LayerNorm::load(&loader.pp("norm1"), width, sizes.norm_eps)?,
            attention: [part(0)?, part(1)?, part(2)?, part(3)?],
            scale_1: loader.pp("layer_scale1").tensor("lambda1", &[width])?,
            norm_2: LayerNorm::load(&loader.pp("norm2"), width, sizes.norm_eps)?,
            feed: Feed::load(loader, names.feed, sizes)?,
            scale_2: loader.pp("layer_scale2").tensor("lambda1", &[width])?,
            heads: sizes.heads,
            activation: sizes.activation,
        })
    }

    /// `[b, t, width]`, shape kept.
    pub(super) fn forward(&self, xs: &Tensor, rotation: Option<&Rotation>) -> Tensor {
        let (b, width) = (xs.size()[0], xs.size()[2]);
        let [query, key, value, output] = &self.attention;
        let normed = self.norm_1.forward(xs);
        let split = |layer: &Linear| {
            let ys = layer.forward(&normed);
            ys.view([b, -1, self.heads, width / self.heads])
                .transpose(1, 2) // [b, heads, t, head]
        };
        let rotate = |ys: Tensor| match rotation {
            Some(rotation) => rotation.apply(&ys),
            None => ys,
        };
        let ys = attention(&rotate(split(query)), &rotate(split(key)), &split(value));
        let ys = ys.transpose(1, 2).reshape([b, -1, width]); // [b, t, width]
        let kind = xs.kind();
        let xs = xs + output.forward(&ys) * self.scale_1.to_kind(kind);
        let ys = self
            .feed
            .forward(&self.norm_2.forward(&xs), self.activation);
        xs + ys * self.scale_2.to_kind(kind)
    }
}
