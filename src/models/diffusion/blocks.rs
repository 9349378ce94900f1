//! Residual layers and the down, middle and up blocks made of them.
//!
//! A block runs as a row of [`checkpointed`] segments, one per layer: the output of each is kept anyway, as the
//! skip connection of the up path, so checkpointing adds little memory beyond the segment being recomputed.

use tch::Tensor;

use super::attention::{CrossAttentions, Text, Transformer, TransformerConfig};
use super::config::{BlockKind, UNetConfig};
use crate::error::Result;
use crate::models::layers::{Conv2d, ConvConfig, GroupNorm, Linear};
use crate::models::weights::Loader;
use crate::ops::tape::{Tape, checkpointed};

/// The inputs that every layer reads besides its own.
pub(super) struct Inputs<'t, 'a> {
    /// Time embedding after SiLU, `[b, time_embed_dim]`.
    pub(super) embedding: &'t Tensor,
    /// The text.
    pub(super) text: &'t Text,
    /// Records segments for checkpointing.
    pub(super) tape: Option<&'t Tape<'a>>,
}

struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl Resnet {
    fn load(loader: &Loader, config: &UNetConfig, input: i64, output: i64) -> Result<Self> {
        let norm = |name: &str, channels| {
            GroupNorm::load(
                &loader.pp(name),
                config.norm_num_groups,
                channels,
                config.norm_eps,
            )
        };
        let conv = |name: &str, from, kernel| {
            let shape = ConvConfig::new(kernel, kernel / 2);
            Conv2d::load(&loader.pp(name), from, output, shape)
        };
        Ok(Self {
            norm1: norm("norm1", input)?,
            conv1: conv("conv1", input, 3)?,
            time_emb_proj: Linear::load(
                &loader.pp("time_emb_proj"),
                config.time_embed_dim(),
                output,
            )?,
            norm2: norm("norm2", output)?,
            conv2: conv("conv2", output, 3)?,
            conv_shortcut: if input == output {
                None
            } else {
                Some(conv("conv_shortcut", input, 1)?)
            },
        })
    }

    fn forward(&self, xs: &Tensor, embedding: &Tensor) -> Tensor {
        let time = self
            .time_emb_proj
            .forward(embedding)
            .unsqueeze(-1)
            .unsqueeze(-1); // [b, c, 1, 1]
        let hidden = self.conv1.forward(&self.norm1.forward(xs).silu()) + time; // [b, c, h, w]
        let hidden = self.conv2.forward(&self.norm2.forward(&hidden).silu());
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(xs) + hidden,
            None => xs + hidden,
        }
    }
}

/// A residual layer and the transformer after it, where the level has them.
struct Layer {
    resnet: Resnet,
    transformer: Option<Transformer>,
}

impl Layer {
    fn forward(&self, xs: &Tensor, embedding: &Tensor, text: &Text) -> Tensor {
        let hidden = self.resnet.forward(xs, embedding);
        match &self.transformer {
            Some(transformer) => transformer.forward(&hidden, text),
            None => hidden,
        }
    }

    /// One segment: `xs`, and the skip connection joined to its channels in the up path.
    fn run<'a>(&'a self, xs: Tensor, skip: Option<Tensor>, inputs: &Inputs<'_, 'a>) -> Tensor {
        let text = inputs.text.shallow_clone();
        let mut parts = vec![inputs.embedding.shallow_clone(), xs];
        parts.extend(skip);
        checkpointed(inputs.tape, parts, move |parts| match parts {
            [embedding, xs, skip] => {
                let joined = Tensor::cat(&[xs, skip], 1); // [b, c + c', h, w]
                self.forward(&joined, embedding, &text)
            }
            parts => self.forward(&parts[1], &parts[0], &text),
        })
    }
}

/// Transformers of the level of `config` that `level` counts from the finest.
fn transformer_config(config: &UNetConfig, level: usize) -> TransformerConfig {
    TransformerConfig {
        channels: config.block_out_channels[level],
        heads: config.heads[level],
        context: config.cross_attention_dim[level],
        layers: config.transformer_layers[level],
        groups: config.norm_num_groups,
        linear: config.use_linear_projection,
    }
}

/// Loads `resnets.i` with `inputs[i]` channels in, and `attentions.i` where the block has them.
fn load_layers(
    loader: &Loader,
    config: &UNetConfig,
    all: &CrossAttentions,
    level: usize,
    kind: BlockKind,
    inputs: &[i64],
) -> Result<Vec<Layer>> {
    let output = config.block_out_channels[level];
    let load = |(i, &input): (usize, &i64)| {
        Ok(Layer {
            resnet: Resnet::load(&loader.pp("resnets").pp(i), config, input, output)?,
            transformer: match kind {
                BlockKind::Plain => None,
                BlockKind::CrossAttention => Some(Transformer::load(
                    &loader.pp("attentions").pp(i),
                    transformer_config(config, level),
                    all,
                )?),
            },
        })
    };
    inputs.iter().enumerate().map(load).collect()
}

/// `DownBlock2D` and `CrossAttnDownBlock2D`.
pub(super) struct DownBlock {
    layers: Vec<Layer>,
    downsampler: Option<Conv2d>,
}

impl DownBlock {
    pub(super) fn load(
        loader: &Loader,
        config: &UNetConfig,
        all: &CrossAttentions,
        level: usize,
    ) -> Result<Self> {
        let loader = loader.pp("down_blocks").pp(level);
        let channels = &config.block_out_channels;
        let mut inputs = vec![channels[level]; config.layers_per_block[level] as usize];
        inputs[0] = channels[level.saturating_sub(1)];
        let halving = ConvConfig {
            stride: 2,
            ..ConvConfig::new(3, 1)
        };
        let conv = loader.pp("downsamplers.0.conv");
        Ok(Self {
            layers: load_layers(
                &loader,
                config,
                all,
                level,
                config.down_blocks[level],
                &inputs,
            )?,
            downsampler: if level + 1 == channels.len() {
                None
            } else {
                Some(Conv2d::load(
                    &conv,
                    channels[level],
                    channels[level],
                    halving,
                )?)
            },
        })
    }

    /// `[b, c, h, w]` to the next level's input; every layer's output is pushed on `skips`.
    pub(super) fn forward<'a>(
        &'a self,
        mut xs: Tensor,
        inputs: &Inputs<'_, 'a>,
        skips: &mut Vec<Tensor>,
    ) -> Tensor {
        for layer in &self.layers {
            xs = layer.run(xs, None, inputs);
            skips.push(xs.shallow_clone());
        }
        if let Some(conv) = &self.downsampler {
            xs = checkpointed(inputs.tape, vec![xs], |xs| conv.forward(&xs[0])); // [b, c, ceil(h / 2), ceil(w / 2)]
            skips.push(xs.shallow_clone());
        }
        xs
    }
}

/// `UNetMidBlock2DCrossAttn` with one transformer.
pub(super) struct MidBlock {
    layers: [Layer; 2],
}

impl MidBlock {
    pub(super) fn load(
        loader: &Loader,
        config: &UNetConfig,
        all: &CrossAttentions,
    ) -> Result<Self> {
        let loader = loader.pp("mid_block");
        let level = config.block_out_channels.len() - 1;
        let channels = config.block_out_channels[level];
        let resnet = |i| Resnet::load(&loader.pp("resnets").pp(i), config, channels, channels);
        let transformer = Transformer::load(
            &loader.pp("attentions.0"),
            transformer_config(config, level),
            all,
        )?;
        let first = Layer {
            resnet: resnet(0)?,
            transformer: Some(transformer),
        };
        let second = Layer {
            resnet: resnet(1)?,
            transformer: None,
        };
        Ok(Self {
            layers: [first, second],
        })
    }

    pub(super) fn forward<'a>(&'a self, xs: Tensor, inputs: &Inputs<'_, 'a>) -> Tensor {
        self.layers
            .iter()
            .fold(xs, |xs, layer| layer.run(xs, None, inputs))
    }
}

/// `UpBlock2D` and `CrossAttnUpBlock2D`.
pub(super) struct UpBlock {
    layers: Vec<Layer>,
    upsampler: Option<Conv2d>,
}

impl UpBlock {
    /// `index` counts from the coarsest level.
    pub(super) fn load(
        loader: &Loader,
        config: &UNetConfig,
        all: &CrossAttentions,
        index: usize,
    ) -> Result<Self> {
        let loader = loader.pp("up_blocks").pp(index);
        let channels = &config.block_out_channels;
        let level = channels.len() - 1 - index;
        let output = channels[level];
        let previous = channels[(level + 1).min(channels.len() - 1)];
        let finer = channels[level.saturating_sub(1)];
        let count = config.layers_per_block[level] as usize + 1;
        // The last skip of a level is what came down from the finer one.
        let inputs: Vec<i64> = (0..count)
            .map(|i| {
                let below = if i == 0 { previous } else { output };
                let skip = if i + 1 == count { finer } else { output };
                below + skip
            })
            .collect();
        let conv = loader.pp("upsamplers.0.conv");
        Ok(Self {
            layers: load_layers(
                &loader,
                config,
                all,
                level,
                config.up_blocks[index],
                &inputs,
            )?,
            upsampler: if level == 0 {
                None
            } else {
                Some(Conv2d::load(&conv, output, output, ConvConfig::new(3, 1))?)
            },
        })
    }

    /// Takes its skips from the end of `skips`; the result has the size of the skip that is last then, so that
    /// sizes that do not divide by two come back.
    pub(super) fn forward<'a>(
        &'a self,
        mut xs: Tensor,
        inputs: &Inputs<'_, 'a>,
        skips: &mut Vec<Tensor>,
    ) -> Tensor {
        for layer in &self.layers {
            xs = layer.run(xs, skips.pop(), inputs);
        }
        if let (Some(conv), Some(next)) = (&self.upsampler, skips.last()) {
            let size = [next.size()[2], next.size()[3]];
            xs = checkpointed(inputs.tape, vec![xs], move |xs| {
                conv.forward(&xs[0].upsample_nearest2d(size, None, None)) // [b, c, 2 h, 2 w]
            });
        }
        xs
    }
}
