//! EfficientNet (Tan and Le 2019, arXiv 1905.11946) as ALIGN uses it: the last features, mean or maximum over the
//! image, without a top convolution. No layer is dropped in training.

use std::path::Path;

use serde::Deserialize;
use tch::Tensor;

use crate::error::{Error, Result};
use crate::models::layers::{Conv2d, ConvConfig};
use crate::models::transformer::Activation;
use crate::models::weights::Loader;

/// How features become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Mean over the image.
    Mean,
    /// Maximum over the image.
    Max,
}

/// Sizes; the defaults are those of transformers, EfficientNet-B7.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct EfficientNetConfig {
    /// Colour channels.
    pub num_channels: i64,
    /// Scales all channel counts.
    pub width_coefficient: f64,
    /// Scales the number of blocks of each stage.
    pub depth_coefficient: f64,
    /// Channel counts are multiples of it.
    pub depth_divisor: i64,
    /// Depthwise kernel of each stage.
    pub kernel_sizes: Vec<i64>,
    /// Channels into each stage, unscaled.
    pub in_channels: Vec<i64>,
    /// Channels out of each stage, unscaled.
    pub out_channels: Vec<i64>,
    /// Blocks whose strided convolution is padded evenly; the others get more at the right and the bottom.
    pub depthwise_padding: Vec<i64>,
    /// Stride of the first block of each stage.
    pub strides: Vec<i64>,
    /// Blocks of each stage, unscaled.
    pub num_block_repeats: Vec<i64>,
    /// Expansion inside the blocks of each stage.
    pub expand_ratios: Vec<i64>,
    /// Width of the squeeze in parts of the block's input.
    pub squeeze_expansion_ratio: f64,
    /// Activation.
    pub hidden_act: Activation,
    /// Pooling of the last features.
    pub pooling_type: Pooling,
    /// Of every batch norm.
    pub batch_norm_eps: f64,
}

impl Default for EfficientNetConfig {
    fn default() -> Self {
        Self {
            num_channels: 3,
            width_coefficient: 2.0,
            depth_coefficient: 3.1,
            depth_divisor: 8,
            kernel_sizes: vec![3, 3, 5, 3, 5, 5, 3],
            in_channels: vec![32, 16, 24, 40, 80, 112, 192],
            out_channels: vec![16, 24, 40, 80, 112, 192, 320],
            depthwise_padding: Vec::new(),
            strides: vec![1, 2, 2, 2, 1, 2, 1],
            num_block_repeats: vec![1, 2, 2, 3, 3, 4, 1],
            expand_ratios: vec![1, 6, 6, 6, 6, 6, 6],
            squeeze_expansion_ratio: 0.25,
            hidden_act: Activation::Silu,
            pooling_type: Pooling::Mean,
            batch_norm_eps: 0.001,
        }
    }
}

impl EfficientNetConfig {
    /// Checks what the rest relies on; `path` is for the message.
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        let stages = self.in_channels.len();
        let lists = [
            &self.kernel_sizes,
            &self.out_channels,
            &self.strides,
            &self.num_block_repeats,
            &self.expand_ratios,
        ];
        if stages == 0 || lists.iter().any(|list| list.len() != stages) {
            return Err(Error::weights(
                path,
                "`vision_config`: the lists with one entry for each stage differ in length",
            ));
        }
        let all = lists.iter().copied().flatten().chain(&self.in_channels);
        if self.depth_divisor < 1 || all.copied().any(|size| size < 1) {
            let message = "`vision_config`: sizes must be at least 1";
            return Err(Error::weights(path, message));
        }
        let odd = self.kernel_sizes.iter().all(|kernel| kernel % 2 == 1);
        if !odd || self.strides.iter().any(|&stride| stride > 2) || self.num_channels != 3 {
            let message = "`vision_config`: needs odd `kernel_sizes`, `strides` of 1 or 2, and 3 `num_channels`";
            return Err(Error::weights(path, message));
        }
        Ok(())
    }

    /// Size of the image vectors.
    pub fn width(&self) -> i64 {
        self.out_channels
            .last()
            .map_or(0, |&channels| self.channels(channels))
    }

    /// The least height and width that leave something to every convolution. Going back, a strided convolution
    /// doubles it; even padding gives one more row than the stem and the other blocks have.
    pub fn smallest_side(&self) -> i64 {
        let strided = self.blocks().into_iter().filter(|block| block.stride == 2);
        let before =
            |side: i64, block: BlockShape| side.saturating_mul(2) - i64::from(block.even_padding);
        strided.rev().fold(1, before).saturating_mul(2)
    }

    /// A channel count scaled and rounded to a multiple of the divisor, never down by more than a tenth.
    fn channels(&self, count: i64) -> i64 {
        let scaled = count as f64 * self.width_coefficient;
        let divisor = self.depth_divisor;
        let nearest = (scaled + divisor as f64 / 2.0) as i64 / divisor * divisor;
        let rounded = nearest.max(divisor);
        if (rounded as f64) < 0.9 * scaled {
            rounded + divisor
        } else {
            rounded
        }
    }

    /// The blocks of all stages, first to last.
    fn blocks(&self) -> Vec<BlockShape> {
        let mut blocks = Vec::new();
        for stage in 0..self.in_channels.len() {
            let repeats = self.depth_coefficient * self.num_block_repeats[stage] as f64;
            let output = self.channels(self.out_channels[stage]);
            for repeat in 0..repeats.ceil() as i64 {
                let is_first = repeat == 0;
                blocks.push(BlockShape {
                    input: if is_first {
                        self.channels(self.in_channels[stage])
                    } else {
                        output
                    },
                    output,
                    stride: if is_first { self.strides[stage] } else { 1 },
                    kernel: self.kernel_sizes[stage],
                    expansion: self.expand_ratios[stage],
                    even_padding: self.depthwise_padding.contains(&(blocks.len() as i64)),
                    residual: !is_first,
                });
            }
        }
        blocks
    }
}

/// Shape of one block.
struct BlockShape {
    input: i64,
    output: i64,
    stride: i64,
    kernel: i64,
    expansion: i64,
    even_padding: bool,
    residual: bool,
}

/// Weight of a training batch in the stored statistics.
const MOMENTUM: f64 = 0.1;

/// Normalisation by stored statistics; in training by the batch's, which then go into the stored ones.
struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: f64,
}

impl BatchNorm {
    fn load(loader: &Loader, channels: i64, eps: f64) -> Result<Self> {
        let shape = [channels];
        Ok(Self {
            weight: loader.tensor("weight", &shape)?,
            bias: loader.tensor("bias", &shape)?,
            mean: loader.tensor("running_mean", &shape)?,
            variance: loader.tensor("running_var", &shape)?,
            eps,
        })
    }

    /// `[n, channels, h, w]`, shape kept.
    fn forward(&self, xs: &Tensor, train: bool) -> Tensor {
        xs.batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.mean),
            Some(&self.variance),
            train,
            MOMENTUM,
            self.eps,
            true,
        )
    }
}

fn convolution(kernel: i64, stride: i64, padding: i64, groups: i64) -> ConvConfig {
    ConvConfig {
        kernel,
        stride,
        padding,
        groups,
        bias: false,
    }
}

/// Inverted residual block with squeeze and excitation.
struct Block {
    expansion: Option<(Conv2d, BatchNorm)>,
    /// Zeros to the left, right, top and bottom before the strided convolution.
    padding: Option<[i64; 4]>,
    depthwise: Conv2d,
    depthwise_norm: BatchNorm,
    reduce: Conv2d,
    expand: Conv2d,
    project: Conv2d,
    project_norm: BatchNorm,
    residual: bool,
    activation: Activation,
}

impl Block {
    fn load(loader: &Loader, shape: &BlockShape, config: &EfficientNetConfig) -> Result<Self> {
        let inner = shape.input * shape.expansion;
        let squeezed = ((shape.input as f64 * config.squeeze_expansion_ratio) as i64).max(1);
        let half = shape.kernel / 2;
        let norm = |name: &str, channels| {
            BatchNorm::load(&loader.pp(name), channels, config.batch_norm_eps)
        };
        let conv =
            |name: &str, input, output, shape| Conv2d::load(&loader.pp(name), input, output, shape);
        let pointwise = convolution(1, 1, 0, 1);
        let expansion = if shape.expansion == 1 {
            None
        } else {
            Some((
                conv("expansion.expand_conv", shape.input, inner, pointwise)?,
                norm("expansion.expand_bn", inner)?,
            ))
        };
        // Strided convolutions are padded as TensorFlow's "same" for even sizes.
        let (padding, inside) = match (shape.stride, shape.even_padding) {
            (2, true) => (Some([half; 4]), 0),
            (2, false) => (Some([half - 1, half, half - 1, half]), 0),
            _ => (None, half),
        };
        Ok(Self {
            expansion,
            padding,
            depthwise: conv(
                "depthwise_conv.depthwise_conv",
                inner,
                inner,
                convolution(shape.kernel, shape.stride, inside, inner),
            )?,
            depthwise_norm: norm("depthwise_conv.depthwise_norm", inner)?,
            reduce: conv(
                "squeeze_excite.reduce",
                inner,
                squeezed,
                ConvConfig::new(1, 0),
            )?,
            expand: conv(
                "squeeze_excite.expand",
                squeezed,
                inner,
                ConvConfig::new(1, 0),
            )?,
            project: conv("projection.project_conv", inner, shape.output, pointwise)?,
            project_norm: norm("projection.project_bn", shape.output)?,
            residual: shape.residual,
            activation: config.hidden_act,
        })
    }

    /// `[n, input, h, w]` to `[n, output, h / stride, w / stride]`.
    fn forward(&self, xs: &Tensor, train: bool) -> Tensor {
        let mut ys = match &self.expansion {
            Some((conv, norm)) => self
                .activation
                .apply(&norm.forward(&conv.forward(xs), train)), // [n, inner, h, w]
            None => xs.shallow_clone(),
        };
        if let Some(padding) = self.padding {
            ys = ys.constant_pad_nd(padding);
        }
        let ys = self
            .depthwise_norm
            .forward(&self.depthwise.forward(&ys), train); // [n, inner, h', w']
        let ys = self.activation.apply(&ys);
        let gate = ys.mean_dim([2, 3].as_slice(), true, None); // [n, inner, 1, 1]
        let gate = self.activation.apply(&self.reduce.forward(&gate)); // [n, squeezed, 1, 1]
        let gate = self.expand.forward(&gate).sigmoid(); // [n, inner, 1, 1]
        let ys = self
            .project_norm
            .forward(&self.project.forward(&(ys * gate)), train); // [n, output, h', w']
        if self.residual { ys + xs } else { ys }
    }
}

/// The image encoder.
pub struct EfficientNet {
    stem: Conv2d,
    stem_norm: BatchNorm,
    blocks: Vec<Block>,
    activation: Activation,
    pooling: Pooling,
}

impl EfficientNet {
    /// Takes the tensors below `loader`.
    pub fn load(loader: &Loader, config: &EfficientNetConfig) -> Result<Self> {
        let width = config.channels(32);
        let embeddings = loader.pp("embeddings");
        let blocks = loader.pp("encoder.blocks");
        Ok(Self {
            stem: Conv2d::load(
                &embeddings.pp("convolution"),
                config.num_channels,
                width,
                convolution(3, 2, 0, 1),
            )?,
            stem_norm: BatchNorm::load(&embeddings.pp("batchnorm"), width, config.batch_norm_eps)?,
            blocks: config
                .blocks()
                .iter()
                .enumerate()
                .map(|(index, shape)| Block::load(&blocks.pp(index), shape, config))
                .collect::<Result<_>>()?,
            activation: config.hidden_act,
            pooling: config.pooling_type,
        })
    }

    /// `[n, channels, h, w]` to `[n, d]`; `train` normalises by the batch's own statistics.
    pub fn forward(&self, pixels: &Tensor, train: bool) -> Tensor {
        let padded = pixels.constant_pad_nd([0, 1, 0, 1]); // [n, channels, h + 1, w + 1]
        let features = self.stem_norm.forward(&self.stem.forward(&padded), train); // [n, width, h / 2, w / 2]
        let mut features = self.activation.apply(&features);
        for block in &self.blocks {
            features = block.forward(&features, train);
        }
        match self.pooling {
            Pooling::Mean => features.mean_dim([2, 3].as_slice(), false, None), // [n, d]
            Pooling::Max => features.amax([2, 3].as_slice(), false),            // [n, d]
        }
    }
}
