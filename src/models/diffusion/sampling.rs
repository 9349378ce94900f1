//! Samplers: from noise to latents in a few dozen steps, with classifier-free guidance.
//!
//! All samplers here are deterministic linear recurrences. A step asks the network at `timestep` about
//! `input_scale * x`, turns its answer into an estimate of the clean sample, `x0 = a x + b output`, and moves to
//! `x' = c x + d x0 + e (x0 of the step before)`. [`Plan`] works the coefficients out in f64 on the host, so that
//! one loop runs every sampler without reading anything back from the device.
//!
//! DDIM is ours too. The one of the crate `diffusers` agrees with Python's in the leading layout with a last alpha
//! of abar_0, but it has no `set_alpha_to_one`, no zero-SNR schedule, no trained betas and a cosine schedule that
//! divides integers; the tests compare the two where both apply.

use tch::{Kind, Tensor, no_grad};

use super::conditioning::Conditioning;
use super::schedule::{FinalOrder, NoiseSchedule, Prediction, Spacing};
use super::unet::UNet;
use crate::error::{Error, Result};

/// Which sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplerKind {
    /// Song et al. 2020, arXiv 2010.02502, eta 0 (`DDIMScheduler`).
    Ddim,
    /// Lu et al. 2022, arXiv 2211.01095, second order, midpoint (`DPMSolverMultistepScheduler`).
    DpmSolverPp,
    /// Karras et al. 2022, arXiv 2206.00364, algorithm 2 without churn (`EulerDiscreteScheduler`).
    Euler,
}

/// One step; see the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    timestep: f64,
    input_scale: f64,
    /// Clean estimate from (x, output).
    clean: (f64, f64),
    /// Next x from (x, clean estimate, clean estimate of the step before).
    next: (f64, f64, f64),
}

/// The steps of a sampler on a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    steps: Vec<Step>,
    initial_scale: f64,
}

impl Plan {
    /// Works out `steps` steps of `sampler`.
    ///
    /// # Errors
    /// No step, or more steps than the schedule has room for.
    pub fn new(schedule: &NoiseSchedule, sampler: SamplerKind, steps: usize) -> Result<Self> {
        let refused = |room: usize| {
            Error::config(format!(
                "{steps} sampling steps: the schedule allows 1 to {room}"
            ))
        };
        if steps == 0 || steps > schedule.steps() {
            return Err(refused(schedule.steps()));
        }
        let timesteps = timesteps(schedule, sampler, steps);
        if timesteps
            .iter()
            .any(|&t| t < 0.0 || t > (schedule.steps() - 1) as f64)
            || timesteps.windows(2).any(|pair| pair[1] >= pair[0])
        {
            return Err(refused(schedule.steps() - 1));
        }
        Ok(match sampler {
            SamplerKind::Ddim => ddim(schedule, &timesteps, steps),
            SamplerKind::DpmSolverPp => dpm_solver(schedule, &timesteps),
            SamplerKind::Euler => euler(schedule, &timesteps),
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
        let mut before: Option<Tensor> = None;
        for step in &self.steps {
            let output = model(&(&x * step.input_scale), step.timestep)?;
            let clean = &x * step.clean.0 + output * step.clean.1;
            x = x * step.next.0 + &clean * step.next.1;
            if let Some(before) = before
                && step.next.2 != 0.0
            {
                x += before * step.next.2;
            }
            before = Some(clean);
        }
        Ok(x)
    }
}

/// Steps of `arange(start, 0, -by)`, rounded as numpy does.
fn descending(start: f64, by: f64) -> Vec<f64> {
    let count = (start / by).ceil() as usize;
    let delta = (start - by) - start;
    (0..count)
        .map(|i| (start + i as f64 * delta).round_ties_even())
        .collect()
}

fn timesteps(schedule: &NoiseSchedule, sampler: SamplerKind, steps: usize) -> Vec<f64> {
    let config = &schedule.sampler;
    let total = schedule.steps();
    let multistep = sampler == SamplerKind::DpmSolverPp;
    let default = if sampler == SamplerKind::Ddim {
        Spacing::Leading
    } else {
        Spacing::Linspace
    };
    // The multistep solver leaves out the noisy end where log(alpha / sigma) is below a bound, and lays its steps
    // between one point more than the others.
    let usable = if multistep {
        let log_snr = |abar: &f64| (abar.max(FLOOR) / (1.0 - abar)).ln() / 2.0;
        let clipped = |abar: &&f64| log_snr(abar) < config.lambda_min_clipped;
        total - schedule.alphas_cumprod().iter().filter(clipped).count()
    } else {
        total
    };
    let points = steps + usize::from(multistep);
    match config.spacing.unwrap_or(default) {
        Spacing::Leading => {
            let ratio = usable / points;
            let offset = config.steps_offset as f64;
            let all = (0..points).rev().map(|i| (i * ratio) as f64 + offset);
            all.take(steps).collect()
        }
        Spacing::Linspace => {
            let last = (usable - 1) as f64;
            let gap = last / (points - 1).max(1) as f64;
            let all = (0..points).rev().map(|i| i as f64 * gap);
            if sampler == SamplerKind::Euler {
                all.take(steps).collect()
            } else {
                all.take(steps).map(f64::round_ties_even).collect()
            }
        }
        Spacing::Trailing => descending(usable as f64, total as f64 / steps as f64)
            .into_iter()
            .map(|t| t - 1.0)
            .collect(),
    }
}

/// Smallest abar in the samplers that divide by its root: with zero terminal SNR the last sigma is not infinite.
const FLOOR: f64 = 1.0 / (1u32 << 24) as f64;

/// sqrt((1 - abar) / abar), linear between integer timesteps.
fn sigma_at(schedule: &NoiseSchedule, timestep: f64) -> f64 {
    let sigma = |index: usize| {
        let abar = schedule.alphas_cumprod()[index].max(FLOOR);
        ((1.0 - abar) / abar).sqrt()
    };
    let below = timestep.floor() as usize;
    let share = timestep - timestep.floor();
    if share == 0.0 {
        sigma(below)
    } else {
        sigma(below) * (1.0 - share) + sigma(below + 1) * share
    }
}

/// Sigmas at `timesteps` and the one after the last step.
fn sigmas(schedule: &NoiseSchedule, timesteps: &[f64]) -> Vec<f64> {
    let last = if schedule.sampler.final_sigma_zero {
        0.0
    } else {
        sigma_at(schedule, 0.0)
    };
    timesteps
        .iter()
        .map(|&t| sigma_at(schedule, t))
        .chain([last])
        .collect()
}

/// Clean estimate from (x, output) where `x = signal x0 + noise eps`.
fn clean_estimate(prediction: Prediction, signal: f64, noise: f64) -> (f64, f64) {
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
            clean: clean_estimate(schedule.prediction(), signal, noise),
            next: (keep, then.sqrt() - keep * signal, 0.0),
        }
    };
    Plan {
        steps: timesteps.iter().map(step).collect(),
        initial_scale: 1.0,
    }
}

fn euler(schedule: &NoiseSchedule, timesteps: &[f64]) -> Plan {
    let sigmas = sigmas(schedule, timesteps);
    let step = |(i, &timestep): (usize, &f64)| {
        let (now, then) = (sigmas[i], sigmas[i + 1]);
        // x is x0 + sigma eps here, larger by `scale` than the network's input.
        let scale = now.hypot(1.0);
        let (signal, noise) = (1.0 / scale, now / scale);
        let (a, b) = clean_estimate(schedule.prediction(), signal, noise);
        Step {
            timestep,
            input_scale: 1.0 / scale,
            clean: (a / scale, b),
            next: (then / now, 1.0 - then / now, 0.0),
        }
    };
    let largest = sigmas[0];
    Plan {
        steps: timesteps.iter().enumerate().map(step).collect(),
        initial_scale: match schedule.sampler.spacing.unwrap_or(Spacing::Linspace) {
            Spacing::Leading => largest.hypot(1.0),
            Spacing::Linspace | Spacing::Trailing => largest,
        },
    }
}

fn dpm_solver(schedule: &NoiseSchedule, timesteps: &[f64]) -> Plan {
    let sigmas = sigmas(schedule, timesteps);
    let config = &schedule.sampler;
    let count = timesteps.len();
    let last_is_first_order = config.final_sigma_zero
        || match config.final_order {
            FinalOrder::First => true,
            FinalOrder::FirstWhenShort => count < 15,
            FinalOrder::Second => false,
        };
    let step = |(i, &timestep): (usize, &f64)| {
        let (now, then) = (sigmas[i], sigmas[i + 1]);
        let (signal, noise) = (1.0 / now.hypot(1.0), now / now.hypot(1.0));
        let (signal_then, noise_then) = (1.0 / then.hypot(1.0), then / then.hypot(1.0));
        // lambda = log(alpha / sigma) = -log of the sigma used here; exp(-h) = then / now.
        let decay = signal_then * (1.0 - then / now);
        let first_order = i == 0 || (i + 1 == count && last_is_first_order);
        let correction = if first_order {
            0.0
        } else {
            let (h, before) = ((now / then).ln(), (sigmas[i - 1] / now).ln());
            0.5 * decay * h / before
        };
        Step {
            timestep,
            input_scale: 1.0,
            clean: clean_estimate(schedule.prediction(), signal, noise),
            next: (noise_then / noise, decay + correction, -correction),
        }
    };
    Plan {
        steps: timesteps.iter().enumerate().map(step).collect(),
        initial_scale: 1.0,
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
