//! `preftune plan`: what a run will take, before it is started: weights, memory by part, work and time by phase.

use std::fmt::Display;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::device::resolve;
use super::plan_image_work::{Job, Work};
use super::{plan_image, plan_text, train_pairs_data, train_text_data};
use crate::config::{self, AdapterKind, Config, FirstMoment, TrainSection};
use crate::error::{Error, Result};

/// libtorch and the program itself, without a model: measured on Linux; a CUDA context is about as large on the GPU.
const PROGRAM: f64 = 215e6;

#[derive(Args)]
pub(super) struct PlanArgs {
    /// Configuration of a run that tunes a diffusion model or a language model (TOML).
    config: PathBuf,
    /// Override a key, as in `--set train.steps=200`; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Leave out the time, which is measured on pieces of the run and takes its memory.
    #[arg(long)]
    memory_only: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A part of the memory.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Part {
    name: &'static str,
    bytes: f64,
}

pub(super) fn part(name: &'static str, bytes: f64) -> Part {
    Part { name, bytes }
}

/// What a run will take: `work` counted as its manifest counts, seconds by phase.
#[derive(Serialize)]
pub(super) struct Plan<W, S> {
    pub(super) device: String,
    pub(super) precision: String,
    pub(super) parameters: u64,
    pub(super) trained: u64,
    /// Floating-point operations of a training step.
    pub(super) step_flops: f64,
    pub(super) work: W,
    /// What stays, and the highest of the phases; their sum is the peak.
    pub(super) memory: Vec<Part>,
    pub(super) seconds: Option<S>,
}

/// Seconds of a run.
pub(super) trait Timed {
    /// By phase, loading left out.
    fn phases(&self) -> Vec<(&'static str, f64)>;
}

/// A model that is trained, for the memory of what lasts through the run.
pub(super) struct Tuned<'a> {
    /// What it is called, and its frozen copy.
    pub(super) names: [&'static str; 2],
    pub(super) weights: f64,
    /// Numbers in the adapter that its section asks for.
    pub(super) adapted: f64,
    pub(super) adapter: AdapterKind,
    /// A copy of all weights stays beside it, frozen.
    pub(super) frozen_copy: bool,
    pub(super) train: &'a TrainSection,
    /// Bytes of a number in the precision of the run.
    pub(super) element: f64,
}

impl Tuned<'_> {
    /// The program, weights and what the optimiser keeps; gradients of all weights come and go with activations.
    pub(super) fn parts(&self) -> Vec<Part> {
        let moments = match self.train.first_moment {
            FirstMoment::Fp32 => 8.0,
            FirstMoment::Bf16 => 6.0,
        };
        let mut parts = vec![part("program and libtorch", PROGRAM)];
        let [model, copy] = self.names;
        let trained = match self.adapter {
            AdapterKind::Full => {
                parts.push(part(model, self.weights * 4.0));
                self.weights
            }
            AdapterKind::Lora => {
                parts.push(part(model, self.weights * self.element));
                parts.push(part("adapter", self.adapted * 4.0));
                parts.push(part("gradients of the adapter", self.adapted * 4.0));
                self.adapted
            }
        };
        if self.frozen_copy {
            parts.push(part(copy, self.weights * self.element));
        }
        parts.push(part("moments of AdamW", trained * moments));
        if self.train.ema > 0.0 {
            parts.push(part("running average of what is trained", trained * 4.0));
        }
        parts
    }
}

/// Validations of a run: that of the untuned model, one every so many steps, and one after the last.
pub(super) fn validations(every: u64, steps: u64) -> u64 {
    match every {
        0 => 0,
        every => 1 + steps.div_ceil(every),
    }
}

/// The highest of several phases: what one has freed, the next one uses.
pub(super) fn highest<const N: usize>(phases: [(&'static str, f64); N]) -> Option<Part> {
    let highest = phases
        .into_iter()
        .max_by(|one, other| one.1.total_cmp(&other.1));
    highest.map(|(name, bytes)| part(name, bytes))
}

pub(super) fn run(args: &PlanArgs) -> Result<()> {
    let config = config::load_any(&args.config, &args.overrides)?;
    let timed = !args.memory_only;
    match &config {
        Config::Image(config) => {
            let on = resolve(&config.run.device, config.run.precision)?;
            let job = Job::subject(config);
            let work = Work::subject(config, &job)?;
            print(args, plan_image::plan(&job, work, on, timed)?, "U-Net");
        }
        Config::Pairs(config) => {
            let on = resolve(&config.run.device, config.run.precision)?;
            let inputs = train_pairs_data::read(config)?;
            let job = Job::pairs(config, &inputs);
            let work = Work::pairs(config, &inputs, &job)?;
            print(args, plan_image::plan(&job, work, on, timed)?, "U-Net");
        }
        Config::Text(config) => {
            let on = resolve(&config.run.device, config.run.precision)?;
            let inputs = train_text_data::read(config)?;
            print(
                args,
                plan_text::plan(config, inputs, on, timed)?,
                "language model",
            );
        }
        _ => {
            return Err(Error::config(format!(
                "{}: not a run that tunes a diffusion model or a language model",
                args.config.display()
            ))
            .with_hint("`plan` knows runs on a subject, on pairs of images and on texts"));
        }
    }
    Ok(())
}

fn print<W: Serialize + Display, S: Serialize + Timed>(
    args: &PlanArgs,
    mut plan: Plan<W, S>,
    model: &str,
) {
    plan.memory.retain(|part| part.bytes > 0.0);
    let peak: f64 = plan.memory.iter().map(|part| part.bytes).sum();
    if args.json {
        let mut json = serde_json::to_value(&plan).unwrap_or_default();
        json["peak_bytes"] = peak.into();
        println!(
            "{}",
            serde_json::to_string_pretty(&json).unwrap_or_default()
        );
        return;
    }
    println!("device {}, {}", plan.device, plan.precision);
    let share = 100.0 * plan.trained as f64 / plan.parameters as f64;
    println!(
        "{model}: {:.1} M weights, {:.2} M trained ({share:.2} %); {:.2} TFLOP a step",
        plan.parameters as f64 / 1e6,
        plan.trained as f64 / 1e6,
        plan.step_flops / 1e12
    );
    println!("work: {}", plan.work);
    println!("\n{:<46} {:>9}", "memory", "GB");
    for part in &plan.memory {
        println!("{:<46} {:>9.3}", part.name, part.bytes / 1e9);
    }
    println!("{:<46} {:>9.3}", "peak", peak / 1e9);
    if let Some(seconds) = &plan.seconds {
        println!("\n{:<46} {:>9}", "time, without early stopping", "s");
        let phases = seconds.phases();
        for (name, value) in &phases {
            println!("{name:<46} {value:>9.1}");
        }
        let all: f64 = phases.iter().map(|(_, value)| value).sum();
        println!("{:<46} {all:>9.1}", "all but loading");
    }
}
