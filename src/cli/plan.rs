//! `preftune plan`: the needs of a run before it is started: weights, memory by part, work and time by phase.

use std::fmt::Display;

use clap::Args;
use serde::Serialize;

use crate::cli::configuration::ConfigArgs;
use crate::cli::output::print_json;
use crate::config::Config;
use crate::error::Result;
use crate::jobs;
use crate::jobs::plan::{Plan, Timed};

#[derive(Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Leave out the time, which is measured on pieces of the run and takes its memory.
    #[arg(long)]
    memory_only: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PlanArgs) -> Result<()> {
    let config = args.config.load()?;
    let timed = !args.memory_only;
    if timed {
        eprintln!(
            "timing pieces of the run on random weights, which takes minutes for a large model on a CPU; `--memory-only` leaves it out"
        );
    }
    match &config {
        Config::Subject(config) => print(args, jobs::plan::subject(config, timed)?, "U-Net"),
        Config::Pairs(config) => print(args, jobs::plan::pairs(config, timed)?, "U-Net"),
        Config::Text(config) => print(args, jobs::plan::text(config, timed)?, "language model"),
        other => {
            let taken = "one on a subject, on pairs of images or on texts";
            return Err(other.refuse(&args.config.config, taken));
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
        print_json(&json);
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
