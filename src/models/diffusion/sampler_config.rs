//! The settings that the samplers read of `scheduler_config.json`. A setting that a sampler would have to follow and
//! does not is kept here by its name and refused when that sampler is asked for: training needs the schedule alone.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::sampling::SamplerKind;
use super::schedule::Spacing;
use crate::error::{Error, Result};

/// How the sigmas of a sampler are laid between the first and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SigmaCurve {
    /// Where the spacing of the timesteps puts them.
    Timesteps,
    /// Karras et al. 2022 (arXiv 2206.00364), equation 5, rho 7.
    Karras,
    /// Evenly in the logarithm.
    Exponential,
}

/// How the multistep solver estimates the second derivative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SolverType {
    Midpoint,
    Heun,
}

/// A setting that a sampler reads and that is not implemented.
#[derive(Clone, Debug, PartialEq)]
struct Refused {
    sampler: SamplerKind,
    key: &'static str,
    value: Value,
}

/// See the module's documentation.
#[expect(
    clippy::struct_excessive_bools,
    reason = "flags of the file, each with a meaning of its own"
)]
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SamplerConfig {
    path: PathBuf,
    refused: Vec<Refused>,
    pub(super) spacing: Option<Spacing>,
    pub(super) steps_offset: i64,
    pub(super) alpha_to_one: bool,
    pub(super) final_sigma_zero: bool,
    pub(super) lower_order_final: bool,
    pub(super) euler_at_final: bool,
    pub(super) lambda_min_clipped: f64,
    pub(super) curve: SigmaCurve,
    /// The multistep solver alone: sigmas evenly in the logarithm over the whole schedule (`use_lu_lambdas`).
    pub(super) lu_lambdas: bool,
    pub(super) sigma_min: Option<f64>,
    pub(super) sigma_max: Option<f64>,
    /// The multistep solver rounds the timesteps that belong to sigmas, but not of the cosine schedule.
    pub(super) rounds_timesteps: bool,
    /// Of the multistep solver, 1 to 3.
    pub(super) order: usize,
    pub(super) solver: SolverType,
    /// The multistep solver extrapolates the noise (DPM-Solver) and not the clean sample (DPM-Solver++).
    pub(super) extrapolates_noise: bool,
}

impl SamplerConfig {
    /// Reads the object of the file at `path`, without nulls; absent keys have the values of the samplers' classes, but
    /// for the two that all Stable Diffusion folders state (see [`super::schedule`]).
    pub(super) fn read(path: &Path, file: &Map<String, Value>, spacing: Option<Spacing>) -> Self {
        use SamplerKind::{Ddim, DpmSolverPp, Euler};
        let flag = |key: &str, absent: bool| file.get(key).map_or(absent, |value| value != false);
        let number = |key: &str| file.get(key).and_then(Value::as_f64);
        let text = |key: &str, absent: &'static str| match file.get(key) {
            None => absent.to_owned(),
            Some(value) => value.as_str().unwrap_or_default().to_owned(),
        };
        let mut refused = Vec::new();
        let mut refuse = |key: &'static str, samplers: &[SamplerKind]| {
            let value = file.get(key).cloned().unwrap_or(Value::Null);
            refused.extend(samplers.iter().map(|&sampler| Refused {
                sampler,
                key,
                value: value.clone(),
            }));
        };
        for (key, samplers) in [
            ("clip_sample", &[Ddim][..]),
            ("thresholding", &[Ddim, DpmSolverPp]),
            ("use_beta_sigmas", &[DpmSolverPp, Euler]),
            ("use_flow_sigmas", &[DpmSolverPp]),
        ] {
            if flag(key, false) {
                refuse(key, samplers);
            }
        }
        let curve = match (
            flag("use_karras_sigmas", false),
            flag("use_exponential_sigmas", false),
        ) {
            (true, true) => {
                refuse("use_exponential_sigmas", &[DpmSolverPp, Euler]);
                SigmaCurve::Karras
            }
            (true, false) => SigmaCurve::Karras,
            (false, true) => SigmaCurve::Exponential,
            (false, false) => SigmaCurve::Timesteps,
        };
        let final_sigmas = text("final_sigmas_type", "zero");
        if !["zero", "sigma_min"].contains(&final_sigmas.as_str()) {
            refuse("final_sigmas_type", &[DpmSolverPp, Euler]);
        }
        if text("interpolation_type", "linear") != "linear" {
            refuse("interpolation_type", &[Euler]);
        }
        // Only of a network that predicts velocity are the timesteps then others.
        let velocity = file.get("prediction_type") == Some(&json!("v_prediction"));
        if velocity && text("timestep_type", "discrete") != "discrete" {
            refuse("timestep_type", &[Euler]);
        }
        if text("variance_type", "").starts_with("learned") {
            refuse("variance_type", &[DpmSolverPp]);
        }
        let algorithm = text("algorithm_type", "dpmsolver++");
        let extrapolates_noise = algorithm == "dpmsolver";
        // With the last sigma 0 the noise cannot be extrapolated; diffusers refuses the pair too.
        if extrapolates_noise && final_sigmas == "zero"
            || !["dpmsolver++", "dpmsolver", "deis"].contains(&algorithm.as_str())
        {
            refuse("algorithm_type", &[DpmSolverPp]);
        }
        let order = file.get("solver_order").map_or(Some(2), Value::as_u64);
        let order = order.filter(|order| (1..=3).contains(order));
        if order.is_none() {
            refuse("solver_order", &[DpmSolverPp]);
        }
        // DEIS and UniPC name their own types, which the solver takes for its first.
        let solver = match text("solver_type", "midpoint").as_str() {
            "midpoint" | "logrho" | "bh1" | "bh2" => SolverType::Midpoint,
            "heun" => SolverType::Heun,
            _ => {
                refuse("solver_type", &[DpmSolverPp]);
                SolverType::Midpoint
            }
        };
        Self {
            path: path.to_owned(),
            refused,
            spacing,
            steps_offset: file
                .get("steps_offset")
                .and_then(Value::as_i64)
                .unwrap_or(1),
            alpha_to_one: flag("set_alpha_to_one", false),
            final_sigma_zero: final_sigmas == "zero",
            lower_order_final: flag("lower_order_final", true),
            euler_at_final: flag("euler_at_final", false),
            lambda_min_clipped: number("lambda_min_clipped").unwrap_or(f64::NEG_INFINITY),
            curve,
            lu_lambdas: flag("use_lu_lambdas", false),
            sigma_min: number("sigma_min"),
            sigma_max: number("sigma_max"),
            rounds_timesteps: file.get("beta_schedule") != Some(&json!("squaredcos_cap_v2")),
            order: order.unwrap_or(2) as usize,
            solver,
            extrapolates_noise,
        }
    }

    /// Refuses a sampler that would have to follow a setting it does not, by the setting's name.
    pub(super) fn check(&self, sampler: SamplerKind) -> Result<()> {
        let Some(refused) = self.refused.iter().find(|one| one.sampler == sampler) else {
            return Ok(());
        };
        let Refused { key, value, .. } = refused;
        let message = format!(
            "`{key}` is {value}, which is not implemented for the sampler `{}`",
            sampler.name()
        );
        let able = SamplerKind::ALL.into_iter();
        let able = able.filter(|other| self.refused.iter().all(|one| one.sampler != *other));
        let able: Vec<String> = able.map(|kind| format!("`{}`", kind.name())).collect();
        let hint = if able.is_empty() {
            format!(
                "change `{key}` in a copy of the file; training without samples does not read it"
            )
        } else {
            format!("the sampler {} does not read it", able.join(" or "))
        };
        Err(Error::weights(&self.path, message).with_hint(hint))
    }

    /// As the pipelines of Stable Diffusion 1 and 2 change it when they load it: an offset of 1 and no clipping,
    /// whatever the file says. That of SDXL leaves both as they are.
    pub(super) fn follow_pipeline(&mut self) {
        self.steps_offset = 1;
        self.refused.retain(|one| one.key != "clip_sample");
    }
}
