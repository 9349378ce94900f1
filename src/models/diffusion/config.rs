//! `unet/config.json`: what of it changes the graph, with the defaults of diffusers for absent and null keys.
//! Whatever is set to something that is not implemented here is refused by name; nothing is ignored that would
//! change the numbers.

use std::ops::RangeInclusive;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::models::json;

/// Sizes that a model of this kind can have. A damaged number is refused before memory is asked for.
pub(super) const PLAUSIBLE: RangeInclusive<i64> = 1..=65_536;

/// Kind of a down or up block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// Residual layers alone (`DownBlock2D`, `UpBlock2D`).
    Plain,
    /// Each residual layer is followed by a transformer that reads the text (`CrossAttn*Block2D`).
    CrossAttention,
}

/// The second conditioning of Stable Diffusion XL (`addition_embed_type: text_time`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedConfig {
    /// Width of the sinusoid of each of the six sizes.
    pub time_dim: i64,
    /// Width of the pooled text vector and the six sinusoids together.
    pub input: i64,
}

/// Shape of a U-Net; per-level lists run from the finest level to the coarsest.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// Latent height and width that the model was trained on, where the file says so.
    pub sample_size: Option<[i64; 2]>,
    /// Channels of the latents.
    pub in_channels: i64,
    /// Channels of the prediction.
    pub out_channels: i64,
    /// Channels of each level.
    pub block_out_channels: Vec<i64>,
    /// Residual layers of each level's down block; its up block has one more.
    pub layers_per_block: Vec<i64>,
    /// Down block of each level.
    pub down_blocks: Vec<BlockKind>,
    /// Up blocks, coarsest level first as they run.
    pub up_blocks: Vec<BlockKind>,
    /// Attention heads of each level (`attention_head_dim`, whose name is an old mistake).
    pub heads: Vec<i64>,
    /// Width of the text tokens at each level.
    pub cross_attention_dim: Vec<i64>,
    /// Transformer blocks in each transformer of a level.
    pub transformer_layers: Vec<i64>,
    /// `true` if transformers project with linear layers, `false` for 1x1 convolutions.
    pub use_linear_projection: bool,
    /// Groups of all group norms.
    pub norm_num_groups: i64,
    /// Epsilon of the residual layers' group norms.
    pub norm_eps: f64,
    /// `true` if sinusoids are `[cos, sin]`, `false` for `[sin, cos]`.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies in the sinusoids' exponent.
    pub freq_shift: f64,
    /// The conditioning of XL, where the model has it.
    pub added: Option<AddedConfig>,
}

/// A value for all levels, or one for each.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Levels<T> {
    All(T),
    Each(Vec<T>),
}

impl<T: Clone> Levels<T> {
    fn expand(self, levels: usize) -> Vec<T> {
        match self {
            Self::All(value) => vec![value; levels],
            Self::Each(values) => values,
        }
    }
}

#[derive(Deserialize)]
struct Raw {
    sample_size: Option<Levels<i64>>,
    in_channels: Option<i64>,
    out_channels: Option<i64>,
    down_block_types: Option<Vec<String>>,
    up_block_types: Option<Vec<String>>,
    block_out_channels: Option<Vec<i64>>,
    layers_per_block: Option<Levels<i64>>,
    norm_num_groups: Option<i64>,
    norm_eps: Option<f64>,
    cross_attention_dim: Option<Levels<i64>>,
    transformer_layers_per_block: Option<Levels<i64>>,
    attention_head_dim: Option<Levels<i64>>,
    use_linear_projection: Option<bool>,
    flip_sin_to_cos: Option<bool>,
    freq_shift: Option<f64>,
    addition_embed_type: Option<String>,
    addition_time_embed_dim: Option<i64>,
    projection_class_embeddings_input_dim: Option<i64>,
}

/// Keys that change the graph, and the values of them (besides null) that mean the graph implemented here.
/// `upcast_attention` is not among them: libtorch's fused attention keeps scores and softmax in f32.
fn implemented() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        ("act_fn", vec![json!("silu"), json!("swish")]),
        ("addition_embed_type", vec![json!("text_time")]),
        ("attention_type", vec![json!("default")]),
        ("center_input_sample", vec![json!(false)]),
        ("class_embed_type", vec![]),
        ("class_embeddings_concat", vec![json!(false)]),
        ("conv_in_kernel", vec![json!(3)]),
        ("conv_out_kernel", vec![json!(3)]),
        ("cross_attention_norm", vec![]),
        ("downsample_padding", vec![json!(1)]),
        ("dropout", vec![json!(0.0), json!(0)]),
        ("dual_cross_attention", vec![json!(false)]),
        ("encoder_hid_dim", vec![]),
        ("encoder_hid_dim_type", vec![]),
        ("mid_block_only_cross_attention", vec![json!(false)]),
        ("mid_block_scale_factor", vec![json!(1), json!(1.0)]),
        ("mid_block_type", vec![json!("UNetMidBlock2DCrossAttn")]),
        ("num_attention_heads", vec![]),
        ("num_class_embeds", vec![]),
        ("only_cross_attention", vec![json!(false)]),
        ("resnet_out_scale_factor", vec![json!(1), json!(1.0)]),
        ("resnet_skip_time_act", vec![json!(false)]),
        ("resnet_time_scale_shift", vec![json!("default")]),
        ("reverse_transformer_layers_per_block", vec![]),
        ("time_cond_proj_dim", vec![]),
        ("time_embedding_act_fn", vec![]),
        ("time_embedding_dim", vec![]),
        ("time_embedding_type", vec![json!("positional")]),
        ("timestep_post_act", vec![]),
    ]
}

impl UNetConfig {
    /// Reads `config.json` in the U-Net's folder.
    ///
    /// # Errors
    /// The file is missing or malformed, its lists do not fit together, or it asks for something that is not
    /// implemented; the error names the key.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let value = json::read_object(&path)?;
        refuse_others(&path, &value, &implemented())?;
        let raw: Raw = json::parse(&path, value)?;
        let config = Self::resolve(&path, raw)?;
        config.check(&path)?;
        Ok(config)
    }

    fn resolve(path: &Path, raw: Raw) -> Result<Self> {
        let block_out_channels = raw
            .block_out_channels
            .unwrap_or_else(|| vec![320, 640, 1280, 1280]);
        let levels = block_out_channels.len();
        let types = |names: Option<Vec<String>>, key: &str, direction: &str| {
            let names = names.unwrap_or_else(|| default_blocks(direction));
            names
                .iter()
                .map(|name| block_kind(path, key, direction, name))
                .collect::<Result<Vec<_>>>()
        };
        let per_level = |values: Option<Levels<i64>>, default| {
            values.unwrap_or(Levels::All(default)).expand(levels)
        };
        let added = match raw.addition_embed_type {
            None => None,
            Some(_) => Some(AddedConfig {
                time_dim: required(path, "addition_time_embed_dim", raw.addition_time_embed_dim)?,
                input: required(
                    path,
                    "projection_class_embeddings_input_dim",
                    raw.projection_class_embeddings_input_dim,
                )?,
            }),
        };
        let sample_size = match raw.sample_size.map(|size| size.expand(2)) {
            None => None,
            Some(sizes) => Some(<[i64; 2]>::try_from(sizes).map_err(|_| {
                Error::weights(
                    path,
                    "`sample_size` is neither a number nor a pair of numbers",
                )
            })?),
        };
        Ok(Self {
            sample_size,
            in_channels: raw.in_channels.unwrap_or(4),
            out_channels: raw.out_channels.unwrap_or(4),
            layers_per_block: per_level(raw.layers_per_block, 2),
            down_blocks: types(raw.down_block_types, "down_block_types", "Down")?,
            up_blocks: types(raw.up_block_types, "up_block_types", "Up")?,
            heads: per_level(raw.attention_head_dim, 8),
            cross_attention_dim: per_level(raw.cross_attention_dim, 1280),
            transformer_layers: per_level(raw.transformer_layers_per_block, 1),
            block_out_channels,
            use_linear_projection: raw.use_linear_projection.unwrap_or(false),
            norm_num_groups: raw.norm_num_groups.unwrap_or(32),
            norm_eps: raw.norm_eps.unwrap_or(1e-5),
            flip_sin_to_cos: raw.flip_sin_to_cos.unwrap_or(true),
            freq_shift: raw.freq_shift.unwrap_or(0.0),
            added,
        })
    }

    fn check(&self, path: &Path) -> Result<()> {
        let levels = self.block_out_channels.len();
        let lengths = [
            ("down_block_types", self.down_blocks.len()),
            ("up_block_types", self.up_blocks.len()),
            ("layers_per_block", self.layers_per_block.len()),
            ("attention_head_dim", self.heads.len()),
            ("cross_attention_dim", self.cross_attention_dim.len()),
            (
                "transformer_layers_per_block",
                self.transformer_layers.len(),
            ),
        ];
        if levels == 0 {
            return Err(Error::weights(path, "`block_out_channels` is empty"));
        }
        if let Some((key, length)) = lengths.into_iter().find(|&(_, length)| length != levels) {
            let message =
                format!("`{key}` has {length} entries, `block_out_channels` has {levels}");
            return Err(Error::weights(path, message));
        }
        let counts = [
            ("in_channels", vec![self.in_channels]),
            ("out_channels", vec![self.out_channels]),
            ("norm_num_groups", vec![self.norm_num_groups]),
            ("block_out_channels", self.block_out_channels.clone()),
            ("layers_per_block", self.layers_per_block.clone()),
            ("attention_head_dim", self.heads.clone()),
            ("cross_attention_dim", self.cross_attention_dim.clone()),
            (
                "transformer_layers_per_block",
                self.transformer_layers.clone(),
            ),
        ];
        if let Some((key, values)) = counts
            .iter()
            .find(|(_, values)| values.iter().any(|n| !PLAUSIBLE.contains(n)))
        {
            let message = format!(
                "`{key}` is {values:?}; it must be between {} and {}",
                PLAUSIBLE.start(),
                PLAUSIBLE.end()
            );
            return Err(Error::weights(path, message));
        }
        let widths = &self.cross_attention_dim;
        if widths.iter().any(|width| *width != widths[0]) {
            let message = format!("`cross_attention_dim` {widths:?}: one text has one width");
            return Err(Error::weights(path, message));
        }
        for (channels, heads) in self.block_out_channels.iter().zip(&self.heads) {
            for (key, divisor) in [
                ("norm_num_groups", self.norm_num_groups),
                ("attention_head_dim (the number of heads)", *heads),
                ("2 (the sinusoid's halves)", 2),
            ] {
                if channels % divisor != 0 {
                    let message = format!(
                        "{channels} of `block_out_channels` does not divide by {divisor}, {key}"
                    );
                    return Err(Error::weights(path, message));
                }
            }
        }
        match self.added {
            Some(added) if added.time_dim < 2 || added.time_dim % 2 != 0 || added.pooled() < 1 => {
                let message = format!(
                    "`projection_class_embeddings_input_dim` {} does not hold six sinusoids of \
                     `addition_time_embed_dim` {} and a text vector",
                    added.input, added.time_dim
                );
                Err(Error::weights(path, message))
            }
            _ => Ok(()),
        }
    }

    /// Width of the time embedding inside the network.
    pub fn time_embed_dim(&self) -> i64 {
        self.block_out_channels[0] * 4
    }
}

impl AddedConfig {
    /// Width of the pooled text vector.
    pub fn pooled(&self) -> i64 {
        self.input - 6 * self.time_dim
    }
}

fn default_blocks(direction: &str) -> Vec<String> {
    let mut blocks = vec![format!("CrossAttn{direction}Block2D"); 3];
    let plain = format!("{direction}Block2D");
    if direction == "Down" {
        blocks.push(plain);
    } else {
        blocks.insert(0, plain);
    }
    blocks
}

fn block_kind(path: &Path, key: &str, direction: &str, name: &str) -> Result<BlockKind> {
    if name == format!("{direction}Block2D") {
        Ok(BlockKind::Plain)
    } else if name == format!("CrossAttn{direction}Block2D") {
        Ok(BlockKind::CrossAttention)
    } else {
        let message = format!("`{key}` has `{name}`, which is not implemented");
        Err(Error::weights(path, message).with_hint(format!(
            "known are {direction}Block2D and CrossAttn{direction}Block2D"
        )))
    }
}

fn required<T>(path: &Path, key: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::weights(path, format!("`{key}` is missing")))
}

/// Refuses the first listed key that is there with another value than those listed with it.
pub(super) fn refuse_others(
    path: &Path,
    config: &Map<String, Value>,
    known: &[(&str, Vec<Value>)],
) -> Result<()> {
    for (key, allowed) in known {
        match config.get(*key) {
            None => {}
            Some(value) if allowed.contains(value) => {}
            Some(value) => {
                let message = format!("`{key}` is {value}, which is not implemented");
                let error = Error::weights(path, message);
                return Err(match allowed.first() {
                    Some(only) => error.with_hint(format!("only {only} is")),
                    None => error.with_hint("only null is"),
                });
            }
        }
    }
    Ok(())
}
