//! Linear layers with GELU between them.

use tch::{Kind, Tensor};

use super::Start;
use crate::ops::random::{derive_seed, randn};

/// How the last layer starts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Last {
    /// Deviation `1 / (input + 1)`, bias 0: outputs near 0, as reward heads on language models start.
    Near0,
    /// The same without a bias.
    Near0Unbiased,
    /// Pairs of outputs near `(0, 1)` times the size that the first has where inputs have coordinates of size 1.
    NearUp,
    /// Deviation `1 / sqrt(input)`, bias 0: outputs of the size of the inputs.
    Plain,
}

struct Layer {
    name: String,
    weight: Tensor,
    bias: Option<Tensor>,
}

/// A network of linear layers; with no hidden one, a linear map.
pub struct Mlp {
    layers: Vec<Layer>,
}

impl Mlp {
    pub(super) fn new(
        name: &str,
        input: i64,
        hidden: &[i64],
        output: i64,
        last: Last,
        start: Start,
    ) -> Self {
        let sizes: Vec<i64> = [&[input], hidden, &[output]].concat();
        let layers = sizes.windows(2).enumerate().map(|(index, pair)| {
            let (from, to) = (pair[0], pair[1]);
            let name = format!("{name}.{index}");
            let near_0 = 1.0 / (from + 1) as f64;
            let size = 1.0 / (from as f64).sqrt();
            let zeros = Tensor::zeros([to], (Kind::Float, start.device));
            let (deviation, bias) = match last {
                // He et al. 2015 for layers before a rectifier.
                _ if index < hidden.len() => ((2.0 / from as f64).sqrt(), Some(zeros)),
                Last::Near0 => (near_0, Some(zeros)),
                Last::Near0Unbiased => (near_0, None),
                Last::NearUp => {
                    let second = Tensor::arange(to, (Kind::Float, start.device)).remainder(2.0);
                    (near_0, Some(second * size))
                }
                Last::Plain => (size, Some(zeros)),
            };
            Layer {
                weight: start.draw(&name, &[to, from], deviation),
                bias: bias.map(|bias| start.leaf(&bias)),
                name,
            }
        });
        Self {
            layers: layers.collect(),
        }
    }

    /// `[.., input]` to `[.., output]`.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let mut xs = xs.shallow_clone();
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                xs = xs.gelu("none");
            }
            xs = xs.linear(&layer.weight, layer.bias.as_ref());
        }
        xs
    }

    /// All weights by name.
    pub(super) fn parameters(&self) -> Vec<(String, Tensor)> {
        let of_layer = |layer: &Layer| {
            let weight = (
                format!("{}.weight", layer.name),
                layer.weight.shallow_clone(),
            );
            let bias = layer.bias.as_ref();
            let bias = bias.map(|bias| (format!("{}.bias", layer.name), bias.shallow_clone()));
            [Some(weight), bias]
        };
        self.layers.iter().flat_map(of_layer).flatten().collect()
    }
}

impl Start {
    /// A normal leaf of this deviation, drawn by its name.
    pub(super) fn draw(&self, name: &str, shape: &[i64], deviation: f64) -> Tensor {
        let noise = randn(derive_seed(self.seed, name, &[]), shape, self.device);
        self.leaf(&(noise * deviation))
    }

    pub(super) fn leaf(&self, values: &Tensor) -> Tensor {
        values.to_kind(self.kind).detach().set_requires_grad(true)
    }
}
