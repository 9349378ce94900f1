//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) and the ways in which models stretch it to longer texts.

use std::f64::consts::PI;
use std::path::Path;

use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

use super::config::LmConfig;
use crate::error::{Error, Result};

/// Base and scaling of the rotation.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the wavelengths.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: RopeScaling,
}

/// How wavelengths are stretched for texts longer than those of pretraining.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All by one factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// By a base that grows with the longest text at hand ("dynamic NTK"); such a model's result for one row of a
    /// batch depends on the longest.
    Dynamic {
        /// Growth beyond the trained length.
        factor: f64,
    },
    /// Only the long ones, with a smooth passage (Llama 3.1).
    Llama3 {
        /// The factor of the long ones.
        factor: f64,
        /// Trained length over the shortest wavelength that is stretched in full.
        low_freq_factor: f64,
        /// Trained length over the longest wavelength that is kept.
        high_freq_factor: f64,
        /// Trained length.
        original: f64,
    },
    /// Only the long ones, by a ramp over the dimensions, with sharper attention (YaRN, Peng et al. 2023, arXiv
    /// 2309.00071).
    Yarn {
        /// The factor of the long ones.
        factor: f64,
        /// Trained length.
        original: f64,
        /// Multiplies cosine and sine.
        attention_factor: f64,
        /// Rotations within the trained length above which a dimension is kept.
        beta_fast: f64,
        /// Rotations below which it is stretched in full.
        beta_slow: f64,
        /// `true` if the ramp begins and ends at whole dimensions.
        truncate: bool,
    },
}

impl RopeConfig {
    /// Reads `rope_parameters`, or `rope_scaling` beside `rope_theta` as files from before transformers 5 have it.
    pub(super) fn parse(path: &Path, config: &Map<String, Value>, longest: i64) -> Result<Self> {
        let section = ["rope_scaling", "rope_parameters"]
            .iter()
            .find_map(|key| config.get(*key).and_then(Value::as_object));
        let none = Map::new();
        let values = section.unwrap_or(&none);
        if let Some((key, _)) = values.iter().find(|(_, value)| value.is_object()) {
            let message =
                format!("has rotations of its own for `{key}`, which preftune does not run");
            return Err(Error::weights(path, message));
        }
        let number = |key: &str| values.get(key).and_then(Value::as_f64);
        let required = |key: &str| {
            number(key).ok_or_else(|| {
                Error::weights(path, format!("`rope_parameters` lacks a number `{key}`"))
            })
        };
        let partial = number("partial_rotary_factor")
            .or_else(|| config.get("partial_rotary_factor").and_then(Value::as_f64));
        if partial.is_some_and(|share| (share - 1.0).abs() > f64::EPSILON) {
            let message = "`partial_rotary_factor` is not 1, which preftune does not run";
            return Err(Error::weights(path, message));
        }
        let theta = number("rope_theta")
            .or_else(|| config.get("rope_theta").and_then(Value::as_f64))
            .unwrap_or(10_000.0);
        let kind = ["rope_type", "type"]
            .iter()
            .find_map(|key| values.get(*key).and_then(Value::as_str))
            .unwrap_or("default");
        let original = number("original_max_position_embeddings").unwrap_or(longest as f64);
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear {
                factor: required("factor")?,
            },
            "dynamic" => RopeScaling::Dynamic {
                factor: required("factor")?,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor: required("low_freq_factor")?,
                high_freq_factor: required("high_freq_factor")?,
                original,
            },
            "yarn" => {
                let factor = number("factor").unwrap_or(longest as f64 / original);
                let some = |key| number(key).filter(|&value| value != 0.0);
                RopeScaling::Yarn {
                    factor,
                    original,
                    attention_factor: number("attention_factor").unwrap_or_else(|| {
                        match (some("mscale"), some("mscale_all_dim")) {
                            (Some(above), Some(below)) => {
                                sharpening(factor, above) / sharpening(factor, below)
                            }
                            _ => sharpening(factor, 1.0),
                        }
                    }),
                    beta_fast: some("beta_fast").unwrap_or(32.0),
                    beta_slow: some("beta_slow").unwrap_or(1.0),
                    truncate: values.get("truncate") != Some(&Value::Bool(false)),
                }
            }
            other => {
                let message =
                    format!("scales rotary positions by `{other}`, which preftune does not run");
                return Err(Error::weights(path, message)
                    .with_hint("known are `default`, `linear`, `dynamic`, `llama3` and `yarn`"));
            }
        };
        Ok(Self { theta, scaling })
    }
}

/// YaRN's factor on the attention scores, as far as it falls on queries and keys each.
fn sharpening(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * weight * factor.ln() + 1.0
    }
}

/// The rotations of one model.
pub(super) struct Rope {
    config: RopeConfig,
    width: i64,
    longest: f64,
    /// Radians a position, f32 `[width / 2]` on the model's device, for texts up to the trained length.
    frequencies: Tensor,
    scale: f64,
}

/// Cosine and sine for the positions at hand, `[b or 1, 1, t, width]` each.
pub(super) struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    pub(super) fn new(config: &RopeConfig, model: &LmConfig, device: Device) -> Self {
        let (width, longest) = (model.head_dim, model.max_position_embeddings as f64);
        let plain = plain(config.theta, width);
        let mut scale = 1.0;
        let frequencies = match config.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => plain,
            RopeScaling::Linear { factor } => plain / factor,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original,
            } => llama3(&plain, factor, low_freq_factor, high_freq_factor, original),
            RopeScaling::Yarn {
                factor,
                original,
                attention_factor,
                beta_fast,
                beta_slow,
                truncate,
            } => {
                scale = attention_factor;
                let dimension = |rotations: f64| {
                    width as f64 * (original / (rotations * 2.0 * PI)).ln()
                        / (2.0 * config.theta.ln())
                };
                let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(width as f64 - 1.0));
                let length = high - low;
                // A ramp of no length would divide by zero.
                let length = if length.abs() < 1e-6 { 1e-3 } else { length };
                let index = Tensor::arange(width / 2, (Kind::Float, Device::Cpu));
                let stretched = ((index - low) / length).clamp(0.0, 1.0);
                blend(&plain, factor, &(1.0 - stretched))
            }
        };
        Self {
            config: config.clone(),
            width,
            longest,
            frequencies: frequencies.to_device(device),
            scale,
        }
    }

    /// The rotations at `positions`, integer `[b or 1, t]`, computed in f32.
    pub(super) fn at(&self, positions: &Tensor, kind: Kind) -> Rotation {
        let frequencies = match self.config.scaling {
            RopeScaling::Dynamic { factor } => self.grown(factor, positions),
            _ => self.frequencies.shallow_clone(),
        };
        let angles = positions.to_kind(Kind::Float).unsqueeze(-1) * frequencies; // [b, t, width / 2]
        let angles = Tensor::cat(&[&angles, &angles], -1).unsqueeze(1); // [b, 1, t, width]
        let scaled = |turned: Tensor| {
            if (self.scale - 1.0).abs() < f64::EPSILON {
                turned.to_kind(kind)
            } else {
                (turned * self.scale).to_kind(kind)
            }
        };
        Rotation {
            cos: scaled(angles.cos()),
            sin: scaled(angles.sin()),
        }
    }

    /// The frequencies for the longest of the texts at hand, which only the device knows.
    fn grown(&self, factor: f64, positions: &Tensor) -> Tensor {
        let length = positions.max().to_kind(Kind::Double) + 1.0;
        let width = self.width as f64;
        let growth = (&length * (factor / self.longest) - (factor - 1.0)).clamp_min(1.0);
        let theta = growth.pow_tensor_scalar(width / (width - 2.0)) * self.config.theta;
        let exponents = exponents(self.width, positions.device());
        let grown = theta.to_kind(Kind::Float).pow(&exponents).reciprocal();
        grown.where_self(&length.gt(self.longest), &self.frequencies)
    }
}

impl Rotation {
    /// Turns queries or keys `[b, heads, t, width]`; dimension `i` is paired with `i + width / 2`.
    pub(super) fn apply(&self, xs: &Tensor) -> Tensor {
        let halves = xs.chunk(2, -1);
        let turned = Tensor::cat(&[&halves[1].neg(), &halves[0]], -1);
        xs * &self.cos + turned * &self.sin
    }
}

/// `theta^(-2i / width)`, f32 `[width / 2]`.
pub(super) fn plain(theta: f64, width: i64) -> Tensor {
    Tensor::pow_scalar(theta, &exponents(width, Device::Cpu)).reciprocal()
}

/// `2i / width`, f32 `[width / 2]`.
fn exponents(width: i64, device: Device) -> Tensor {
    Tensor::arange_start_step(0, width, 2, (Kind::Float, device)) / width
}

/// [`RopeScaling::Llama3`] of the frequencies `plain`.
pub(super) fn llama3(plain: &Tensor, factor: f64, low: f64, high: f64, original: f64) -> Tensor {
    let rotations = plain * (original / (2.0 * PI)); // within the trained length
    let kept = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
    blend(plain, factor, &kept)
}

/// Frequencies that are kept to the share `kept` and divided by `factor` for the rest.
fn blend(plain: &Tensor, factor: f64, kept: &Tensor) -> Tensor {
    plain / factor * (1.0 - kept) + plain * kept
}
