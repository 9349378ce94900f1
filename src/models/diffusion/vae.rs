//! The autoencoder between images and latents, from the blocks of the crate `diffusers`.
//!
//! Blocks, not its `AutoEncoderKL`: that one gives only samples of the posterior, drawn from the global random
//! generator, and never its mean. It computes in f32: its attention is f32, and the autoencoder of XL overflows
//! in f16 anyway. Images are `[b, 3, h, w]` in [-1, 1]; latents are in the autoencoder's own units, and
//! [`Vae::scale`] and [`Vae::unscale`] turn them into the diffusion model's and back.

use std::path::Path;

use diffusers::models::unet_2d_blocks::{
    DownEncoderBlock2D, DownEncoderBlock2DConfig, UNetMidBlock2D, UNetMidBlock2DConfig,
    UpDecoderBlock2D, UpDecoderBlock2DConfig,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, nn, no_grad};

use super::config::{PLAUSIBLE, refuse_others};
use super::vae_source::OLD_SCALE;
use crate::error::{Error, Result};
use crate::models::json;
use crate::models::weights::{Checkpoint, Loader};
use crate::ops::random::{derive_seed, seeded};

#[derive(Deserialize)]
struct Config {
    #[serde(default = "three")]
    in_channels: i64,
    #[serde(default = "three")]
    out_channels: i64,
    #[serde(default = "four")]
    latent_channels: i64,
    block_out_channels: Vec<i64>,
    layers_per_block: i64,
    norm_num_groups: i64,
    scaling_factor: Option<f64>,
}

fn three() -> i64 {
    3
}

fn four() -> i64 {
    4
}

impl Config {
    fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let value = json::read_object(&path)?;
        let known = [
            ("act_fn", vec![json!("silu"), json!("swish")]),
            ("latents_mean", vec![]),
            ("latents_std", vec![]),
            ("mid_block_add_attention", vec![json!(true)]),
            ("shift_factor", vec![json!(0), json!(0.0)]),
            ("use_quant_conv", vec![json!(true)]),
            ("use_post_quant_conv", vec![json!(true)]),
        ];
        refuse_others(&path, &value, &known)?;
        for (key, only) in [
            ("down_block_types", "DownEncoderBlock2D"),
            ("up_block_types", "UpDecoderBlock2D"),
        ] {
            let types = value.get(key).and_then(Value::as_array);
            if let Some(other) = types.and_then(|types| types.iter().find(|name| **name != *only)) {
                let message = format!("`{key}` has {other}, which is not implemented");
                return Err(Error::weights(&path, message).with_hint(format!("only {only} is")));
            }
        }
        let config: Self = json::parse(&path, value)?;
        let groups = config.norm_num_groups;
        let counts = [config.latent_channels, config.layers_per_block, groups];
        if config.in_channels != 3 || config.out_channels != 3 {
            let message = format!(
                "`in_channels` {} and `out_channels` {}: an RGB image has 3",
                config.in_channels, config.out_channels
            );
            return Err(Error::weights(&path, message));
        }
        if config.block_out_channels.is_empty()
            || counts.iter().any(|count| !PLAUSIBLE.contains(count))
            || config
                .block_out_channels
                .iter()
                .any(|&channels| !PLAUSIBLE.contains(&channels) || channels % groups != 0)
        {
            let message = format!(
                "`block_out_channels` {:?} with `norm_num_groups` {groups}, `layers_per_block` {} and \
                 `latent_channels` {} is no autoencoder",
                config.block_out_channels, config.layers_per_block, config.latent_channels
            );
            return Err(Error::weights(&path, message));
        }
        Ok(config)
    }
}

/// Normal distribution of the latents of an image, in the autoencoder's units.
pub struct Posterior {
    /// Mean, `[b, latent_channels, h / f, w / f]`.
    pub mean: Tensor,
    /// Standard deviation, of the same shape.
    pub std: Tensor,
}

impl Posterior {
    /// From the encoder's output `[b, 2 latent_channels, h / f, w / f]`.
    fn from_moments(moments: &Tensor) -> Self {
        let halves = moments.chunk(2, 1);
        Self {
            mean: halves[0].shallow_clone(),
            std: (log_variance(&halves[1]) * 0.5).exp(),
        }
    }

    /// `mean + std * noise`, with unit-normal `noise` of the same shape.
    pub fn sample(&self, noise: &Tensor) -> Tensor {
        &self.mean + &self.std * noise
    }

    /// The most probable latents.
    pub fn mode(&self) -> Tensor {
        self.mean.shallow_clone()
    }
}

/// Bounded, so that neither the variance nor its inverse overflows.
fn log_variance(raw: &Tensor) -> Tensor {
    raw.clamp(-30.0, 20.0)
}

/// Convolutions at both ends, blocks between, a middle block at the coarse end.
struct Half<B> {
    conv_in: nn::Conv2D,
    blocks: Vec<B>,
    mid: UNetMidBlock2D,
    norm: nn::GroupNorm,
    conv_out: nn::Conv2D,
}

impl<B> Half<B> {
    /// `blocks` are made by `block(path, channels in, channels out, is last)` along `channels`.
    fn new(
        vs: &nn::Path,
        config: &Config,
        [input, output]: [i64; 2],
        channels: &[i64],
        names: &str,
        block: impl Fn(nn::Path, i64, i64, bool) -> B,
    ) -> Self {
        let conv = |name: &str, from, to| {
            let config = nn::ConvConfig {
                padding: 1,
                ..Default::default()
            };
            nn::conv2d(vs / name, from, to, 3, config)
        };
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let coarsest = config.block_out_channels[config.block_out_channels.len() - 1];
        let mid = UNetMidBlock2DConfig {
            resnet_eps: 1e-6,
            resnet_groups: Some(config.norm_num_groups),
            attn_num_head_channels: None,
            output_scale_factor: 1.0,
            ..Default::default()
        };
        let norm = nn::GroupNormConfig {
            eps: 1e-6,
            ..Default::default()
        };
        let blocks = (0..channels.len()).map(|i| {
            let from = channels[i.saturating_sub(1)];
            block(vs / names / i, from, channels[i], i + 1 == channels.len())
        });
        Self {
            conv_in: conv("conv_in", input, first),
            blocks: blocks.collect(),
            mid: UNetMidBlock2D::new(vs / "mid_block", coarsest, None, mid),
            norm: nn::group_norm(vs / "conv_norm_out", config.norm_num_groups, last, norm),
            conv_out: conv("conv_out", last, output),
        }
    }

    fn finish(&self, xs: &Tensor) -> Tensor {
        xs.apply(&self.norm).silu().apply(&self.conv_out)
    }
}

/// See the module's documentation.
pub struct Vae {
    encoder: Half<DownEncoderBlock2D>,
    decoder: Half<UpDecoderBlock2D>,
    quant_conv: nn::Conv2D,
    post_quant_conv: nn::Conv2D,
    scaling_factor: f64,
    latent_channels: i64,
    factor: i64,
    parameters: Vec<(String, Tensor)>,
}

/// Positions of the latents (rows times height times width) that go through the network at once: four images of
/// 512 by 512 pixels. The finest maps of one take about half a gigabyte.
const POSITIONS_AT_ONCE: i64 = 4 * 64 * 64;

impl Vae {
    /// Loads `config.json` and the weights in `folder` (a pipeline's `vae`) to `device`, frozen. Attention may
    /// have its old or new names, as matrices or 1x1 convolutions.
    ///
    /// # Errors
    /// A configuration that is not implemented, missing, misshapen or unused tensors.
    pub fn open(folder: &Path, variant: Option<&str>, device: Device) -> Result<Self> {
        let config = Config::open(folder)?;
        let mut checkpoint =
            Checkpoint::open_component(folder, "diffusion_pytorch_model", variant)?;
        checkpoint.rename(|name| Some(old_name(name)));
        let loader = Loader::new(checkpoint, device, Kind::Float);
        let mut store = nn::VarStore::new(device);
        let mut vae = Self::build(&store.root(), &config);
        for (name, mut variable) in store.variables() {
            // Takes the loaded storage over and frees the initial one: the model is never held twice.
            let loaded = loader.tensor(&name, &variable.size())?;
            variable.set_data(&loaded);
        }
        loader.refuse_unused()?;
        store.freeze();
        vae.parameters = named(&store);
        Ok(vae)
    }

    /// The autoencoder that `config.json` in `folder` describes, with weights as training from scratch begins with
    /// them; they require gradients.
    ///
    /// # Errors
    /// A configuration that is missing or not implemented.
    pub fn fresh(folder: &Path, seed: u64, device: Device) -> Result<Self> {
        let config = Config::open(folder)?;
        let store = nn::VarStore::new(device);
        let mut vae = seeded(derive_seed(seed, "vae", &[]), || {
            Self::build(&store.root(), &config)
        });
        vae.parameters = named(&store);
        Ok(vae)
    }

    /// All tensors under the names that diffusers writes, sorted.
    pub fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    fn build(vs: &nn::Path, config: &Config) -> Self {
        let (channels, latent) = (&config.block_out_channels, config.latent_channels);
        let coarse_first: Vec<i64> = channels.iter().rev().copied().collect();
        let (groups, layers) = (config.norm_num_groups, config.layers_per_block);
        let down = |path: nn::Path, from, to, is_last: bool| {
            let block = DownEncoderBlock2DConfig {
                num_layers: layers,
                resnet_eps: 1e-6,
                resnet_groups: groups,
                output_scale_factor: 1.0,
                add_downsample: !is_last,
                downsample_padding: 0,
            };
            DownEncoderBlock2D::new(path, from, to, block)
        };
        let up = |path: nn::Path, from, to, is_last: bool| {
            let block = UpDecoderBlock2DConfig {
                num_layers: layers + 1,
                resnet_eps: 1e-6,
                resnet_groups: groups,
                output_scale_factor: 1.0,
                add_upsample: !is_last,
            };
            UpDecoderBlock2D::new(path, from, to, block)
        };
        let one =
            |name: &str, size| nn::conv2d(vs / name, size, size, 1, nn::ConvConfig::default());
        let (encoder, decoder) = (vs / "encoder", vs / "decoder");
        let outer = [config.in_channels, 2 * latent];
        let inner = [latent, config.out_channels];
        Self {
            encoder: Half::new(&encoder, config, outer, channels, "down_blocks", down),
            decoder: Half::new(&decoder, config, inner, &coarse_first, "up_blocks", up),
            quant_conv: one("quant_conv", 2 * latent),
            post_quant_conv: one("post_quant_conv", latent),
            scaling_factor: config.scaling_factor.unwrap_or(OLD_SCALE),
            latent_channels: latent,
            factor: 1 << (channels.len() - 1),
            parameters: Vec::new(),
        }
    }

    /// The diffusion model's latents are the autoencoder's times this.
    pub fn scaling_factor(&self) -> f64 {
        self.scaling_factor
    }

    /// The same for a diffusion model whose latents are scaled by `factor`.
    pub(super) fn scaled_by(mut self, factor: f64) -> Self {
        self.scaling_factor = factor;
        self
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> i64 {
        self.latent_channels
    }

    /// Pixels a latent position stands for, each way.
    pub fn factor(&self) -> i64 {
        self.factor
    }

    /// Autoencoder latents to the diffusion model's.
    pub fn scale(&self, latents: &Tensor) -> Tensor {
        latents * self.scaling_factor
    }

    /// The diffusion model's latents to the autoencoder's.
    pub fn unscale(&self, latents: &Tensor) -> Tensor {
        latents / self.scaling_factor
    }

    /// Posterior of `images` `[b, 3, h, w]` in [-1, 1], with h and w multiples of [`Vae::factor`]; f32, no gradient.
    pub fn encode(&self, images: &Tensor) -> Posterior {
        Posterior::from_moments(&in_slices(images, self.factor, |images| {
            self.moments(images)
        }))
    }

    /// `[b, 2 latent_channels, h / f, w / f]`
    fn moments(&self, images: &Tensor) -> Tensor {
        let mut xs = images.apply(&self.encoder.conv_in);
        for block in &self.encoder.blocks {
            xs = xs.apply(block);
        }
        let xs = self.encoder.mid.forward(&xs, None);
        self.encoder.finish(&xs).apply(&self.quant_conv)
    }

    /// Images `[b, 3, h f, w f]`, about in [-1, 1], of `latents` `[b, latent_channels, h, w]` in the
    /// autoencoder's units ([`Vae::unscale`] comes before); f32, no gradient.
    pub fn decode(&self, latents: &Tensor) -> Tensor {
        in_slices(latents, 1, |latents| self.image(latents))
    }

    /// `[b, 3, h f, w f]`
    fn image(&self, latents: &Tensor) -> Tensor {
        let xs = latents
            .apply(&self.post_quant_conv)
            .apply(&self.decoder.conv_in);
        let mut xs = self.decoder.mid.forward(&xs, None);
        for block in &self.decoder.blocks {
            xs = xs.apply(block);
        }
        self.decoder.finish(&xs)
    }

    /// The values that training needs: the reconstruction of `images` `[b, 3, h, w]` from a sample of their posterior,
    /// drawn with the unit-normal noise that `noise` gives for a shape, and the mean KL divergence of a latent value
    /// from the unit normal, a scalar (Kingma and Welling 2013, arXiv 1312.6114, appendix B). With gradient.
    pub fn reconstruct(
        &self,
        images: &Tensor,
        noise: impl FnOnce(&[i64]) -> Tensor,
    ) -> (Tensor, Tensor) {
        let halves = self.moments(images).chunk(2, 1);
        let (mean, log_variance) = (&halves[0], log_variance(&halves[1]));
        let latents = mean + (&log_variance * 0.5).exp() * noise(&mean.size());
        let divergence = (mean.square() + log_variance.exp() - 1.0 - log_variance) * 0.5;
        (self.image(&latents), divergence.mean(Kind::Float))
    }

    /// Shifts and scales each latent channel to what `(z - mean) / std` would be, both `[latent_channels]`: in the
    /// 1x1 convolutions on either side of the latents, so that images come out as before.
    pub fn normalize_latents(&mut self, mean: &Tensor, std: &Tensor) {
        let latent = self.latent_channels;
        no_grad(|| {
            let scale = std.view([-1, 1, 1, 1]); // [latent, 1, 1, 1]
            let of_mean = |tensor: &Tensor| tensor.narrow(0, 0, latent);
            let _ = of_mean(&self.quant_conv.ws).g_div_(&scale);
            let after = &self.post_quant_conv.ws; // [latent, latent, 1, 1]
            if let (Some(before), Some(bias)) = (&self.quant_conv.bs, &mut self.post_quant_conv.bs)
            {
                let _ = of_mean(before).g_sub_(mean).g_div_(std);
                let _ = before.narrow(0, latent, latent).g_sub_(&(std.log() * 2.0));
                let _ = bias.g_add_(&after.flatten(1, -1).mv(mean));
            }
            let _ = after.shallow_clone().g_mul_(&std.view([1, -1, 1, 1]));
        });
    }
}

/// The store's variables under the names that diffusers writes, sorted.
fn named(store: &nn::VarStore) -> Vec<(String, Tensor)> {
    let mut named: Vec<(String, Tensor)> = store
        .variables()
        .into_iter()
        .map(|(name, tensor)| (new_name(&name), tensor))
        .collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    named
}

/// Runs `half` over as many rows at a time as memory allows; `factor` is the pixels per latent in `xs`.
fn in_slices(xs: &Tensor, factor: i64, half: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let size = xs.size();
    let positions = (size[2] / factor) * (size[3] / factor);
    let rows = (POSITIONS_AT_ONCE / positions.max(1)).max(1);
    let xs = xs.to_kind(Kind::Float);
    no_grad(|| {
        if size[0] <= rows {
            return half(&xs);
        }
        let parts: Vec<Tensor> = xs.split(rows, 0).iter().map(half).collect();
        Tensor::cat(&parts, 0)
    })
}

/// Names of the attention in the middle blocks: today's, and the first ones, which the crate `diffusers` has.
const ATTENTION: [(&str, &str); 4] = [
    ("to_q.", "query."),
    ("to_k.", "key."),
    ("to_v.", "value."),
    ("to_out.0.", "proj_attn."),
];

fn old_name(name: &str) -> String {
    renamed(name, ATTENTION)
}

fn new_name(name: &str) -> String {
    renamed(name, ATTENTION.map(|(new, old)| (old, new)))
}

fn renamed(name: &str, names: [(&str, &str); 4]) -> String {
    let Some((before, part)) = name.split_once(".mid_block.attentions.0.") else {
        return name.to_owned();
    };
    let renamed = names
        .into_iter()
        .find_map(|(from, to)| part.strip_prefix(from).map(|rest| format!("{to}{rest}")));
    format!(
        "{before}.mid_block.attentions.0.{}",
        renamed.as_deref().unwrap_or(part)
    )
}

/// Images of any floating type in [-1, 1] to bytes of the same shape, rounded, out-of-range values clipped.
pub fn to_bytes(images: &Tensor) -> Tensor {
    let scaled = (images.to_kind(Kind::Float) * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0;
    scaled.round().to_kind(Kind::Uint8)
}

/// Bytes to f32 images in [-1, 1] of the same shape.
pub fn from_bytes(bytes: &Tensor) -> Tensor {
    bytes.to_kind(Kind::Float) / 127.5 - 1.0
}
