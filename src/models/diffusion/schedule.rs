//! The noise schedule of a model: how much signal and noise a sample has at each training timestep, and what the
//! network predicts. Read from `scheduler/scheduler_config.json` whichever scheduler class wrote it.
//!
//! Where a key is absent, the value is the one that all Stable Diffusion folders state, not the default of the
//! scheduler class (linear betas from 1e-4 to 0.02, clipping, a last alpha of 1), which belongs to pixel models:
//! `beta_schedule` scaled_linear, `beta_start` 0.00085, `beta_end` 0.012, `num_train_timesteps` 1000,
//! `prediction_type` epsilon, `clip_sample` false, `set_alpha_to_one` false, `steps_offset` 1. The
//! `timestep_spacing` is left to the sampler, whose class default it is in diffusers. What samplers alone read is in
//! [`super::sampler_config`].
//!
//! Tables are f64; diffusers builds them in f32, which puts its values up to about 1e-5 beside these.

use std::f64::consts::FRAC_PI_2;
use std::path::Path;

use serde::Deserialize;
use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::config::refuse_others;
use super::sampler_config::SamplerConfig;
use crate::error::{Error, Result};
use crate::models::json;

/// The quantity that the network predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// `sqrt(abar) noise - sqrt(1 - abar) x0` (Salimans and Ho 2022, arXiv 2202.00512).
    VPrediction,
    /// The clean sample.
    Sample,
}

/// How a sampler picks its timesteps (Lin et al. 2023, arXiv 2305.08891, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Multiples of a whole step, from the clean end.
    Leading,
    /// Evenly from the first to the last timestep.
    Linspace,
    /// Multiples of a fractional step, from the noisy end.
    Trailing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BetaSchedule {
    Linear,
    ScaledLinear,
    SquaredcosCapV2,
}

#[derive(Deserialize)]
struct Raw {
    num_train_timesteps: Option<usize>,
    beta_start: Option<f64>,
    beta_end: Option<f64>,
    beta_schedule: Option<BetaSchedule>,
    trained_betas: Option<Vec<f64>>,
    rescale_betas_zero_snr: Option<bool>,
    prediction_type: Option<Prediction>,
    timestep_spacing: Option<Spacing>,
}

/// See the module's documentation.
pub struct NoiseSchedule {
    prediction: Prediction,
    alphas_cumprod: Vec<f64>,
    /// sqrt(abar) and sqrt(1 - abar), f64 `[2, steps]`.
    roots: Tensor,
    pub(super) sampler: SamplerConfig,
}

/// Classes whose configuration means a schedule of the kind implemented here.
const CLASSES: [&str; 12] = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
];

impl NoiseSchedule {
    /// Reads `scheduler_config.json` in `folder` (a pipeline's `scheduler`); tables for training go to `device`.
    ///
    /// # Errors
    /// The file is missing or malformed, or asks for something that is not implemented; the error names the key.
    pub fn open(folder: &Path, device: Device) -> Result<Self> {
        let path = folder.join("scheduler_config.json");
        let value = json::read_object(&path)?;
        let classes = CLASSES.map(|name| json!(name)).into();
        refuse_others(&path, &value, &[("_class_name", classes)])?;
        let raw: Raw = json::parse(&path, value.clone())?;
        let sampler = SamplerConfig::read(&path, &value, raw.timestep_spacing);
        Self::build(&path, &raw, sampler, device)
    }

    /// The schedule of a pipeline's folder as the pipeline uses it: those of Stable Diffusion 1 and 2 take
    /// `steps_offset` for 1 and `clip_sample` for false, whatever the file says.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of_pipeline(folder: &Path, is_xl: bool, device: Device) -> Result<Self> {
        let mut schedule = Self::open(&folder.join("scheduler"), device)?;
        if !is_xl {
            schedule.sampler.follow_pipeline();
        }
        Ok(schedule)
    }

    fn build(path: &Path, raw: &Raw, sampler: SamplerConfig, device: Device) -> Result<Self> {
        let mut alphas_cumprod = cumprod(&betas(raw));
        if alphas_cumprod.len() < 2 {
            return Err(Error::weights(path, "fewer than two training timesteps"));
        }
        let prediction = raw.prediction_type.unwrap_or(Prediction::Epsilon);
        if raw.rescale_betas_zero_snr == Some(true) {
            if prediction == Prediction::Epsilon {
                let message = "`rescale_betas_zero_snr` with `prediction_type` epsilon: at the last timestep \
                               the noise would say nothing about the sample";
                return Err(Error::weights(path, message));
            }
            rescale_to_zero_snr(&mut alphas_cumprod);
        }
        let ok = |abar: &f64| (0.0..1.0).contains(abar);
        let falls = |pair: &[f64]| pair[1] < pair[0];
        if !alphas_cumprod.iter().all(ok) || !alphas_cumprod.windows(2).all(falls) {
            return Err(Error::weights(path, "the betas are not between 0 and 1"));
        }
        let roots: Vec<f64> = alphas_cumprod
            .iter()
            .map(|abar| abar.sqrt())
            .chain(alphas_cumprod.iter().map(|abar| (1.0 - abar).sqrt()))
            .collect();
        Ok(Self {
            prediction,
            roots: Tensor::from_slice(&roots).view([2, -1]).to_device(device), // [2, steps]
            alphas_cumprod,
            sampler,
        })
    }

    /// Number of training timesteps; timesteps are `0..steps`.
    pub fn steps(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// The quantity that the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// abar by timestep: the share of the signal in a sample's variance.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// sqrt(abar) and sqrt(1 - abar) at integer `timesteps` `[b]`, both `[b, 1, 1, 1]` of type `kind`.
    fn signal_and_noise(&self, timesteps: &Tensor, kind: Kind) -> (Tensor, Tensor) {
        let rows = self.roots.index_select(1, timesteps).to_kind(kind); // [2, b]
        let pick = |row| rows.select(0, row).view([-1, 1, 1, 1]);
        (pick(0), pick(1))
    }

    /// `sqrt(abar) x0 + sqrt(1 - abar) noise`: `x0` and `noise` `[b, c, h, w]`, integer `timesteps` `[b]`.
    pub fn add_noise(&self, x0: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Tensor {
        let (signal_root, noise_root) = self.signal_and_noise(timesteps, x0.kind());
        signal_root * x0 + noise_root * noise
    }

    /// The value that the network should predict for `add_noise` of the same arguments, `[b, c, h, w]`.
    pub fn target(&self, x0: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Tensor {
        match self.prediction {
            Prediction::Epsilon => noise.shallow_clone(),
            Prediction::Sample => x0.shallow_clone(),
            Prediction::VPrediction => {
                let (signal_root, noise_root) = self.signal_and_noise(timesteps, x0.kind());
                signal_root * noise - noise_root * x0
            }
        }
    }

    /// Signal-to-noise ratio `abar / (1 - abar)` at integer `timesteps` `[b]`, f32 `[b]`.
    pub fn snr(&self, timesteps: &Tensor) -> Tensor {
        let rows = self.roots.index_select(1, timesteps).square(); // [2, b]
        (rows.select(0, 0) / rows.select(0, 1)).to_kind(Kind::Float)
    }

    /// Min-SNR weights of denoising errors at integer `timesteps` `[b]`, f32 `[b]` (Hang et al. 2023, arXiv 2303.09556, section 3.4):
    /// `min(snr, gamma)` times what the prediction's error is of the clean sample's, so `/ snr` for the noise and `/ (snr + 1)` for
    /// the velocity. `gamma` is above 0, 5 in the paper.
    pub fn min_snr_weight(&self, timesteps: &Tensor, gamma: f64) -> Tensor {
        let snr = self.snr(timesteps);
        let capped = snr.clamp_max(gamma);
        match self.prediction {
            Prediction::Epsilon => capped / snr,
            Prediction::VPrediction => capped / (snr + 1.0),
            Prediction::Sample => capped,
        }
    }
}

fn betas(raw: &Raw) -> Vec<f64> {
    if let Some(betas) = &raw.trained_betas {
        return betas.clone();
    }
    let steps = raw.num_train_timesteps.unwrap_or(1000);
    let start = raw.beta_start.unwrap_or(0.000_85);
    let end = raw.beta_end.unwrap_or(0.012);
    let ramp = |from: f64, to: f64| {
        let last = steps.saturating_sub(1).max(1) as f64;
        (0..steps).map(move |step| from + (to - from) * step as f64 / last)
    };
    match raw.beta_schedule.unwrap_or(BetaSchedule::ScaledLinear) {
        BetaSchedule::Linear => ramp(start, end).collect(),
        BetaSchedule::ScaledLinear => ramp(start.sqrt(), end.sqrt())
            .map(|root| root * root)
            .collect(),
        // Nichol and Dhariwal 2021 (arXiv 2102.09672), equation 17.
        BetaSchedule::SquaredcosCapV2 => {
            let abar = |step: usize| {
                let time = step as f64 / steps as f64;
                ((time + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2)
            };
            (0..steps)
                .map(|step| (1.0 - abar(step + 1) / abar(step)).min(0.999))
                .collect()
        }
    }
}

fn cumprod(betas: &[f64]) -> Vec<f64> {
    let mut product = 1.0;
    let mut multiply = |beta: &f64| {
        product *= 1.0 - beta;
        product
    };
    betas.iter().map(&mut multiply).collect()
}

/// Lin et al. 2023 (arXiv 2305.08891), algorithm 1: shifts and scales sqrt(abar) so that the last one is 0.
fn rescale_to_zero_snr(alphas_cumprod: &mut [f64]) {
    let (first, last) = (
        alphas_cumprod[0].sqrt(),
        alphas_cumprod[alphas_cumprod.len() - 1].sqrt(),
    );
    for abar in alphas_cumprod {
        *abar = ((abar.sqrt() - last) * first / (first - last)).powi(2);
    }
}
