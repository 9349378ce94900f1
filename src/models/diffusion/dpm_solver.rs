//! The multistep solvers DPM-Solver (Lu et al. 2022, arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095) of orders 1
//! to 3, as `DPMSolverMultistepScheduler` has them. The first extrapolates the network's estimate of the noise, the
//! second that of the clean sample.

use super::points::Points;
use super::sampler_config::SolverType;
use super::sampling::{Plan, Step, clean_estimate};
use super::schedule::{NoiseSchedule, Prediction};

/// Below so many steps the end is of lower order, where the configuration does not say otherwise.
const FEW: usize = 15;

pub(super) fn plan(schedule: &NoiseSchedule, points: &Points) -> Plan {
    let steps = 0..points.timesteps.len();
    Plan {
        steps: steps.map(|i| step(schedule, points, i)).collect(),
        initial_scale: 1.0,
    }
}

fn order(schedule: &NoiseSchedule, count: usize, i: usize) -> usize {
    let config = &schedule.sampler;
    let short = config.lower_order_final && count < FEW;
    let last_is_first = config.euler_at_final || short || config.final_sigma_zero;
    let highest = if i + 1 == count && last_is_first {
        1
    } else if i + 2 == count && short {
        2
    } else {
        3
    };
    highest.min(config.order).min(i + 1)
}

fn step(schedule: &NoiseSchedule, points: &Points, i: usize) -> Step {
    let config = &schedule.sampler;
    let sigmas = &points.sigmas;
    let (now, then) = (sigmas[i], sigmas[i + 1]);
    let (signal, noise) = (1.0 / now.hypot(1.0), now / now.hypot(1.0));
    let (signal_then, noise_then) = (1.0 / then.hypot(1.0), then / then.hypot(1.0));
    // lambda = log(alpha / sigma) = -log of the sigma used here; exp(-h) = then / now.
    let h = (now / then).ln();
    // Weights of the estimate, of its first and of its second derivative; keep is that of x.
    let (estimate, keep, decay, first, second) = if config.extrapolates_noise {
        let growth = now / then - 1.0;
        (
            noise_estimate(schedule.prediction(), signal, noise),
            signal_then / signal,
            -noise_then * growth,
            -noise_then * (growth / h - 1.0),
            -noise_then * ((growth - h) / (h * h) - 0.5),
        )
    } else {
        let growth = then / now - 1.0;
        (
            clean_estimate(schedule.prediction(), signal, noise),
            noise_then / noise,
            signal_then * (1.0 - then / now),
            signal_then * (growth / h + 1.0),
            -signal_then * ((growth + h) / (h * h) - 0.5),
        )
    };
    let gap = |back: usize| (sigmas[i - back] / sigmas[i + 1 - back]).ln();
    let weights = match order(schedule, points.timesteps.len(), i) {
        1 => [decay, 0.0, 0.0],
        2 => {
            let correction = match config.solver {
                SolverType::Midpoint => 0.5 * decay * h / gap(1),
                SolverType::Heun => first * h / gap(1),
            };
            [decay + correction, -correction, 0.0]
        }
        _ => {
            let (near, far) = (gap(1) / h, gap(2) / h);
            let (share, both) = (near / (near + far), 1.0 / (near + far));
            // Weights of the differences of the last two estimates and of the two before.
            let newer = (first * (1.0 + share) + second * both) / near;
            let older = -(first * share + second * both) / far;
            [decay + newer, older - newer, -older]
        }
    };
    Step {
        timestep: points.timesteps[i],
        input_scale: 1.0,
        estimate,
        keep,
        weights,
    }
}

/// Noise estimate from (x, output) where `x = signal x0 + noise eps`.
fn noise_estimate(prediction: Prediction, signal: f64, noise: f64) -> (f64, f64) {
    match prediction {
        Prediction::Epsilon => (0.0, 1.0),
        Prediction::VPrediction => (noise, signal),
        Prediction::Sample => (1.0 / noise, -signal / noise),
    }
}
