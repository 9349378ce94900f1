//! Samplers: from noise to latents in a few dozen steps, with classifier-free guidance.
//!
//! All samplers here are deterministic linear recurrences. A step asks the network at `timestep` about
//! `input_scale * x`, turns its answer into an estimate of the clean sample or of the noise, `m = a x + b output`, and
//! moves to `x' = c x + d m + e (m of the step before) + f (m of the step before that)`. [`Plan`] works the
//! coefficients out in f64 on the host, so that one loop runs every sampler without reading anything back from the
//! device.
//!
//! DDIM is ours too. The one of the crate `diffusers` agrees with Python's in the leading layout with a last alpha
//! of abar_0, but it has no `set_alpha_to_one`, no zero-SNR schedule, no trained betas and a cosine schedule that
//! divides integers; the tests compare the two where both apply.

use tch::{Kind, Tensor, no_grad};

use super::conditioning::Conditioning;
use super::dpm_solver;
use super::points::{self, Points};
use super::schedule::{NoiseSchedule, Prediction, Spacing};
use super::unet::UNet;
use crate::error::{Error, Result};
use crate::models::layers::keep_casts;

/// Which sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplerKind {
    /// Song et al. 2020, arXiv 2010.02502, eta 0 (`DDIMScheduler`).
    Ddim,
    /// Lu et al. 2022, arXiv 2211.01095 (`DPMSolverMultistepScheduler`); second order, midpoint, where the model's
    /// scheduler file names no other.
    DpmSolverPp,
    /// Karras et al. 2022, arXiv 2206.00364, algorithm 2 without churn (`EulerDiscreteScheduler`).
    Euler,
}

impl SamplerKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ddim, Self::DpmSolverPp, Self::Euler];

    /// As users spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::DpmSolverPp => "dpm++",
            Self::Euler => "euler",
        }
    }
}

/// One step; see the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) timestep: f64,
    pub(super) input_scale: f64,
    /// The estimate from (x, output).
    pub(super) estimate: (f64, f64),
    /// Weight of x in the next x.
    pub(super) keep: f64,
    /// Weights there of the estimate and of those of the two steps before.
    pub(super) weights: [f64; 3],
}

/// The steps of a sampler on a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) initial_scale: f64,
}

impl Plan {
    /// Works out `steps` steps of `sampler`.
    ///
    /// # Errors
    /// No step, more steps than the schedule has room for, or a setting of the scheduler file that this sampler would
    /// have to follow and does not.
    pub fn new(schedule: &NoiseSchedule, sampler: SamplerKind, steps: usize) -> Result<Self> {
        let refused = |room: usize| {
            Error::config(format!(
                "{steps} sampling steps: the schedule allows 1 to {room}"
            ))
        };
        if steps == 0 || steps > schedule.steps() {
            return Err(refused(schedule.steps()));
        }
        schedule.sampler.check(sampler)?;
        let timesteps = points::timesteps(schedule, sampler, steps);
        if timesteps
            .iter()
            .any(|&t| t < 0.0 || t > (schedule.steps() - 1) as f64)
            || timesteps.windows(2).any(|pair| pair[1] >= pair[0])
        {
            return Err(refused(schedule.steps() - 1));
        }
        Ok(match sampler {
            SamplerKind::Ddim => ddim(schedule, &timesteps, steps),
            SamplerKind::DpmSolverPp => {
                dpm_solver::plan(schedule, &Points::new(schedule, sampler, timesteps))
            }
            SamplerKind::Euler => euler(schedule, &Points::new(schedule, sampler, timesteps)),
        })
    }

    /// The timesteps at which the network is asked, in order.
    pub fn timesteps(&self) -> Vec<f64> {
        self.steps.iter().map(|step| step.timestep).collect()
    }

    /// Runs the recurrence from unit-normal `noise` (any shape); `model` answers (scaled input, timestep).
    ///
    /// # Errors
    /// Those of `model`.
    pub fn run(
        &self,
        noise: &Tensor,
        mut model: impl FnMut(&Tensor, f64) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut x = noise * self.initial_scale;
        let mut earlier: Vec<Tensor> = Vec::new(); // the newest first
        for step in &self.steps {
            let output = model(&(&x * step.input_scale), step.timestep)?;
            let estimate = &x * step.estimate.0 + output * step.estimate.1;
            x = x * step.keep + &estimate * step.weights[0];
            for (tensor, weight) in earlier.iter().zip(&step.weights[1..]) {
                if *weight != 0.0 {
                    x += tensor * *weight;
                }
            }
            earlier.insert(0, estimate);
            earlier.truncate(2);
        }
        Ok(x)
    }
}

/// Clean estimate from (x, output) where `x = signal x0 + noise eps`.
pub(super) fn clean_estimate(prediction: Prediction, signal: f64, noise: f64) -> (f64, f64) {
    match prediction {
        Prediction::Epsilon => (1.0 / signal, -noise / signal),
        Prediction::VPrediction => (signal, -noise),
        Prediction::Sample => (0.0, 1.0),
    }
}

fn ddim(schedule: &NoiseSchedule, timesteps: &[f64], steps: usize) -> Plan {
    let abar = schedule.alphas_cumprod();
    let ratio = schedule.steps() / steps;
    let step = |&timestep: &f64| {
        let now = abar[timestep as usize];
        let then = match (timestep as usize).checked_sub(ratio) {
            Some(previous) => abar[previous],
            None if schedule.sampler.alpha_to_one => 1.0,
            None => abar[0],
        };
        let (signal, noise) = (now.sqrt(), (1.0 - now).sqrt());
        let keep = (1.0 - then).sqrt() / noise;
        Step {
            timestep,
            input_scale: 1.0,
            estimate: clean_estimate(schedule.prediction(), signal, noise),
            keep,
            weights: [then.sqrt() - keep * signal, 0.0, 0.0],
        }
    };
    Plan {
        steps: timesteps.iter().map(step).collect(),
        initial_scale: 1.0,
    }
}

fn euler(schedule: &NoiseSchedule, points: &Points) -> Plan {
    let sigmas = &points.sigmas;
    let step = |(i, &timestep): (usize, &f64)| {
        let (now, then) = (sigmas[i], sigmas[i + 1]);
        // x is x0 + sigma eps here, larger by `scale` than the network's input.
        let scale = now.hypot(1.0);
        let (signal, noise) = (1.0 / scale, now / scale);
        let (a, b) = clean_estimate(schedule.prediction(), signal, noise);
        Step {
            timestep,
            input_scale: 1.0 / scale,
            estimate: (a / scale, b),
            keep: then / now,
            weights: [1.0 - then / now, 0.0, 0.0],
        }
    };
    let largest = sigmas[0];
    Plan {
        steps: points.timesteps.iter().enumerate().map(step).collect(),
        initial_scale: match schedule.sampler.spacing.unwrap_or(Spacing::Linspace) {
            Spacing::Leading => largest.hypot(1.0),
            Spacing::Linspace | Spacing::Trailing => largest,
        },
    }
}

/// How to sample.
#[derive(Clone, Copy, Debug)]
pub struct SamplingOptions {
    /// Which sampler.
    pub sampler: SamplerKind,
    /// Number of steps.
    pub steps: usize,
    /// Classifier-free guidance: 1 is none and costs half.
    pub guidance: f64,
    /// Type in which the network computes; the recurrence itself is f32.
    pub kind: Kind,
}

/// Result of [`denoise`].
pub struct Denoised {
    /// f32 `[b, c, h, w]`, still multiplied by the autoencoder's scaling factor.
    pub latents: Tensor,
    /// Rows that went through the U-Net: what sampling costs, whatever the machine.
    pub sample_forwards: u64,
}

/// Samples latents from unit-normal `noise` `[b, c, h, w]` on the U-Net's device, without a gradient.
///
/// `conditioning` and `unconditional` have b rows, or one row for all. With guidance both halves go through the
/// network as one batch of 2b rows (Ho and Salimans 2022, arXiv 2207.12598); text keys and values are computed
/// once. `progress` is called after every step with the number of steps done; its error ends the sampling.
///
/// # Errors
/// An impossible number of steps, guidance without `unconditional`, rows that do not fit, those of `progress`.
pub fn denoise(
    unet: &UNet,
    schedule: &NoiseSchedule,
    options: &SamplingOptions,
    noise: &Tensor,
    conditioning: &Conditioning,
    unconditional: Option<&Conditioning>,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Denoised> {
    let plan = Plan::new(schedule, options.sampler, options.steps)?;
    let rows = noise.size()[0];
    #[expect(
        clippy::float_cmp,
        reason = "guidance of exactly 1 is the documented way to ask for none"
    )]
    let guided = options.guidance != 1.0;
    let told = if guided {
        let unconditional = unconditional.ok_or_else(|| {
            Error::config(format!(
                "guidance {} needs an unconditional prompt",
                options.guidance
            ))
        })?;
        Conditioning::cat(&[&fit(unconditional, rows)?, &fit(conditioning, rows)?])
    } else {
        fit(conditioning, rows)?
    };
    let (shape, channels) = (noise.size(), unet.config().in_channels);
    if shape.len() != 4 || shape[1] != channels || unet.config().out_channels != channels {
        let message = format!(
            "noise of shape {shape:?} for a U-Net that turns {channels} channels into {}",
            unet.config().out_channels
        );
        return Err(Error::config(message));
    }
    if let Some(problem) = unet.mismatch(&told) {
        return Err(Error::config(problem));
    }
    let forward_rows = told.rows();
    let mut done = 0;
    let _casts = keep_casts();
    let sample = || {
        let cache = unet.context_cache(&told, options.kind);
        plan.run(&noise.to_kind(Kind::Float), |x, timestep| {
            let input = x.to_kind(options.kind);
            let input = if guided {
                Tensor::cat(&[&input, &input], 0)
            } else {
                input
            }; // [2 b, c, h, w]
            let timesteps = Tensor::full([forward_rows], timestep, (Kind::Float, input.device()));
            let output = unet
                .forward_cached(&input, &timesteps, &told, &cache)
                .to_kind(Kind::Float);
            let output = if guided {
                let halves = output.chunk(2, 0); // 2 of [b, c, h, w]
                &halves[0] + (&halves[1] - &halves[0]) * options.guidance
            } else {
                output
            };
            done += 1;
            progress(done)?;
            Ok(output)
        })
    };
    let latents = no_grad(sample)?;
    Ok(Denoised {
        latents,
        sample_forwards: done as u64 * forward_rows as u64,
    })
}

fn fit(conditioning: &Conditioning, rows: i64) -> Result<Conditioning> {
    match conditioning.rows() {
        given if given == rows => Ok(conditioning.shallow_clone()),
        1 => Ok(conditioning.repeat_interleave(rows)),
        given => Err(Error::config(format!("{given} prompts for {rows} samples"))),
    }
}
