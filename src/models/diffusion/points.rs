//! The points of a sampler on a schedule: the timesteps at which the network is asked, and the sigmas that go with them.

use super::sampler_config::SigmaCurve;
use super::sampling::SamplerKind;
use super::schedule::{NoiseSchedule, Spacing};

/// Smallest abar in the samplers that divide by its root: with zero terminal SNR the last sigma is not infinite.
const FLOOR: f64 = 1.0 / (1u32 << 24) as f64;

/// rho of Karras et al. 2022.
const RHO: f64 = 7.0;

/// Timesteps in the order of sampling.
pub(super) fn timesteps(schedule: &NoiseSchedule, sampler: SamplerKind, steps: usize) -> Vec<f64> {
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

/// Steps of `arange(start, 0, -by)`, rounded as numpy does.
fn descending(start: f64, by: f64) -> Vec<f64> {
    let count = (start / by).ceil() as usize;
    let delta = (start - by) - start;
    (0..count)
        .map(|i| (start + i as f64 * delta).round_ties_even())
        .collect()
}

/// Timesteps and sigmas of a sampler that works on sigmas.
pub(super) struct Points {
    pub(super) timesteps: Vec<f64>,
    /// One more than timesteps: the last is that of the result.
    pub(super) sigmas: Vec<f64>,
}

impl Points {
    /// The points of a sampler whose spacing gives these `timesteps`.
    pub(super) fn new(schedule: &NoiseSchedule, sampler: SamplerKind, spaced: Vec<f64>) -> Self {
        let config = &schedule.sampler;
        let multistep = sampler == SamplerKind::DpmSolverPp;
        let count = spaced.len();
        let at_spaced = |index: usize| sigma_at(schedule, spaced[index]);
        // The multistep solver bends its curves over the whole schedule, the other between its own ends.
        let (largest, smallest) = if multistep {
            let last = (schedule.steps() - 1) as f64;
            (sigma_at(schedule, last), sigma_at(schedule, 0.0))
        } else {
            (at_spaced(0), at_spaced(count - 1))
        };
        let bounded = (
            config.sigma_max.unwrap_or(largest),
            config.sigma_min.unwrap_or(smallest),
        );
        let curved = match config.curve {
            SigmaCurve::Karras => Some(karras(bounded, count)),
            _ if multistep && config.lu_lambdas => Some(exponential((largest, smallest), count)),
            SigmaCurve::Exponential => Some(exponential(bounded, count)),
            SigmaCurve::Timesteps => None,
        };
        let (timesteps, mut sigmas) = match curved {
            None => {
                let sigmas = (0..count).map(at_spaced).collect();
                (spaced, sigmas)
            }
            Some(sigmas) => {
                let rounds = config.rounds_timesteps
                    && (config.curve == SigmaCurve::Karras || config.lu_lambdas);
                let whole = |t: f64| match (multistep, rounds) {
                    (false, _) => t,
                    (true, true) => t.round_ties_even(),
                    (true, false) => t.trunc(),
                };
                let timesteps = timesteps_of(schedule, &sigmas);
                (timesteps.into_iter().map(whole).collect(), sigmas)
            }
        };
        sigmas.push(if config.final_sigma_zero {
            0.0
        } else {
            sigma_at(schedule, 0.0)
        });
        Self { timesteps, sigmas }
    }
}

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

/// `count` numbers from 0 to 1.
fn ramp(count: usize) -> impl Iterator<Item = f64> {
    let last = count.saturating_sub(1).max(1) as f64;
    (0..count).map(move |index| index as f64 / last)
}

fn karras((largest, smallest): (f64, f64), count: usize) -> Vec<f64> {
    let (from, to) = (largest.powf(1.0 / RHO), smallest.powf(1.0 / RHO));
    ramp(count)
        .map(|share| (from + share * (to - from)).powf(RHO))
        .collect()
}

fn exponential((largest, smallest): (f64, f64), count: usize) -> Vec<f64> {
    let (from, to) = (largest.ln(), smallest.ln());
    ramp(count)
        .map(|share| (from + share * (to - from)).exp())
        .collect()
}

/// The timesteps, fractional, that have these sigmas: linear in the logarithm between integer timesteps.
fn timesteps_of(schedule: &NoiseSchedule, sigmas: &[f64]) -> Vec<f64> {
    let logs: Vec<f64> = (0..schedule.steps())
        .map(|t| sigma_at(schedule, t as f64).ln())
        .collect();
    let timestep = |sigma: &f64| {
        let log = sigma.max(1e-10).ln();
        let below = logs.partition_point(|&one| one <= log).saturating_sub(1);
        let below = below.min(logs.len() - 2);
        let share = (logs[below] - log) / (logs[below] - logs[below + 1]);
        below as f64 + share.clamp(0.0, 1.0)
    };
    sigmas.iter().map(timestep).collect()
}
