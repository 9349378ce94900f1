//! Timesteps, and the sizes and pooled text of XL, as one vector for the residual layers.

use std::f64::consts::LN_10;

use tch::{Device, Kind, Tensor};

use super::conditioning::Conditioning;
use super::config::UNetConfig;
use crate::error::Result;
use crate::models::layers::Linear;
use crate::models::weights::Loader;

/// Sinusoids of geometrically spaced frequencies, 1 down to 1/10000 (Vaswani et al. 2017).
struct Sinusoid {
    frequencies: Tensor,
    cos_first: bool,
}

impl Sinusoid {
    fn new(width: i64, config: &UNetConfig, device: Device) -> Self {
        let half = width / 2;
        let exponent = Tensor::arange(half, (Kind::Float, device)) * (-4.0 * LN_10)
            / (half as f64 - config.freq_shift);
        Self {
            frequencies: exponent.exp(),
            cos_first: config.flip_sin_to_cos,
        }
    }

    /// Numbers of any type `[n]` to f32 `[n, width]`.
    fn forward(&self, numbers: &Tensor) -> Tensor {
        let angles = numbers.to_kind(Kind::Float).unsqueeze(-1) * &self.frequencies; // [n, width / 2]
        let (sin, cos) = (angles.sin(), angles.cos());
        if self.cos_first {
            Tensor::cat(&[cos, sin], -1)
        } else {
            Tensor::cat(&[sin, cos], -1)
        }
    }
}

/// Two linear layers with SiLU between.
struct Mlp {
    linear_1: Linear,
    linear_2: Linear,
}

impl Mlp {
    fn load(loader: &Loader, input: i64, output: i64) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::load(&loader.pp("linear_1"), input, output)?,
            linear_2: Linear::load(&loader.pp("linear_2"), output, output)?,
        })
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        self.linear_2.forward(&self.linear_1.forward(xs).silu())
    }
}

/// The vector that every residual layer adds to its channels.
pub(super) struct TimeEmbedding {
    sinusoid: Sinusoid,
    mlp: Mlp,
    added: Option<(Sinusoid, Mlp)>,
}

impl TimeEmbedding {
    /// `loader` stands at the U-Net's root.
    pub(super) fn load(loader: &Loader, config: &UNetConfig) -> Result<Self> {
        let (input, output) = (config.block_out_channels[0], config.time_embed_dim());
        let device = loader.device();
        let mlp = Mlp::load(&loader.pp("time_embedding"), input, output)?;
        let added = match config.added {
            None => None,
            Some(added) => Some((
                Sinusoid::new(added.time_dim, config, device),
                Mlp::load(&loader.pp("add_embedding"), added.input, output)?,
            )),
        };
        Ok(Self {
            sinusoid: Sinusoid::new(input, config, device),
            mlp,
            added,
        })
    }

    /// Timesteps `[b]` to `[b, time_embed_dim]` of type `kind`, through the SiLU that every residual layer
    /// would apply first.
    pub(super) fn forward(
        &self,
        timesteps: &Tensor,
        conditioning: &Conditioning,
        kind: Kind,
    ) -> Tensor {
        let mut embedding = self
            .mlp
            .forward(&self.sinusoid.forward(timesteps).to_kind(kind));
        if let (Some((sinusoid, mlp)), Some(added)) = (&self.added, &conditioning.added) {
            let rows = added.time_ids.size()[0];
            let sizes = sinusoid
                .forward(&added.time_ids.flatten(0, -1))
                .reshape([rows, -1]); // [b, 6 * time_dim]
            let pooled = added.text_embeds.to_kind(Kind::Float);
            let input = Tensor::cat(&[pooled, sizes], -1); // [b, p + 6 * time_dim]
            embedding += mlp.forward(&input.to_kind(kind));
        }
        embedding.silu()
    }
}
