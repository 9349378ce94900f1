//! `preftune eval subject`: a run on prompts that it has not seen, beside its untuned base, by its own reward encoder
//! and by others.

mod show;

use std::path::PathBuf;

use clap::Args;

use super::common::CommonArgs;
use crate::cli::model::named;
use crate::cli::progress::Progress;
use crate::config::SamplerName;
use crate::error::Result;
use crate::jobs::eval::subject::{SubjectProtocol, judge};

#[derive(Args)]
pub(crate) struct SubjectArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// A file of prompts, one a line with `{token}` and `{class}`, that were used neither in training nor in
    /// validation; a built-in list where it is not given.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// An encoder of images and texts that the run was not tuned for; may be repeated.
    #[arg(long = "judge", value_name = "FOLDER")]
    #[arg(value_parser = named())]
    judges: Vec<PathBuf>,
    /// Shares of likeness to the photos in the reward, between 0 and 1.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    #[arg(default_value = "0.3,0.5,0.7", value_name = "NUMBERS")]
    lambda: Vec<f64>,
    /// Judge the weights of these checkpoints instead of the best ones.
    #[arg(long, value_delimiter = ',', value_name = "STEPS")]
    checkpoint: Vec<u64>,
    /// Judge the untuned base model too, from the same noise; this is what is done unless `--no-base` is given.
    #[arg(long, overrides_with = "no_base")]
    base: bool,
    /// Leave the untuned base model out.
    #[arg(long, overrides_with = "base")]
    no_base: bool,
    /// Leave out the images of the class word alone, which show whether it draws the subject by now.
    #[arg(long)]
    no_class: bool,
    /// The sampler; the run's own where it is not given.
    #[arg(long, value_enum)]
    sampler: Option<SamplerName>,
    /// Denoising steps; the run's own where they are not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1000))]
    steps: Option<u64>,
    /// Classifier-free guidance, 1 is none; the run's own where it is not given.
    #[arg(long)]
    guidance: Option<f64>,
    /// Images denoised together; the run's own number where it is not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: Option<u64>,
}

pub(super) fn run(args: &SubjectArgs) -> Result<()> {
    args.common.json.check()?;
    let protocol = SubjectProtocol {
        images: args.common.settings()?,
        prompts: args.prompts.clone(),
        judges: args.judges.clone(),
        lambda: args.lambda.clone(),
        checkpoints: args.checkpoint.clone(),
        base: !args.no_base,
        class_alone: !args.no_class,
        sampler: args.sampler,
        steps: args.steps.map(|steps| steps as usize),
        guidance: args.guidance,
        batch: args.batch.map(|batch| batch as usize),
    };
    let judgement = judge(&protocol, &mut Progress::new(args.common.quiet))?;
    if args.common.json.write(&judgement.report())? {
        print!("{}", show::people(&judgement));
    }
    Ok(())
}
