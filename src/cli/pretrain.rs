//! `preftune pretrain`: a part of a small text-to-image model, or a language model, from scratch to weights that
//! everything else loads.

use clap::Args;

use crate::cli::configuration::ConfigArgs;
use crate::cli::processes::require_one;
use crate::cli::progress::Progress;
use crate::cli::shell::{listen, with_command_to_resume};
use crate::cli::train::{TRY_TEXT, print_weights};
use crate::config::Config;
use crate::error::Result;
use crate::jobs::interrupt::Interrupt;
use crate::jobs::{self, RunOptions};

#[derive(Args)]
pub(super) struct PretrainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Continue an interrupted run from its last checkpoint.
    #[arg(long)]
    resume: bool,
    /// No progress, errors only.
    #[arg(long)]
    quiet: bool,
}

pub(super) fn run(args: &PretrainArgs) -> Result<()> {
    require_one("pretrain")?;
    with_command_to_resume(train(args, &listen()?))
}

fn train(args: &PretrainArgs, interrupt: &Interrupt) -> Result<()> {
    let mut display = Progress::new(args.quiet);
    let options = RunOptions {
        resume: args.resume,
        ..RunOptions::default()
    };
    let mut config = args.config.load()?;
    if let Config::Text(_) = config {
        // Everything of a run on texts but the weights that it starts from.
        let from_scratch = "model.from_scratch=true".to_owned();
        config = args.config.load_with(&[from_scratch])?;
    }
    match config {
        Config::Text(config) => {
            let manifest = jobs::text::train(&config, options, &mut display, interrupt)?;
            print_weights(&config.run.output, &manifest.record, Some(TRY_TEXT));
        }
        Config::Pretrain(config) => {
            let manifest = jobs::pretrain::train(&config, options, &mut display, interrupt)?;
            print_weights(&config.run.output, &manifest.record, None);
        }
        other => {
            let taken = "one that trains a part, or a language model, from scratch";
            return Err(other.refuse(&args.config.config, taken));
        }
    }
    Ok(())
}
