//! `preftune eval dreambench`: the paper's protocol.

mod show;

use std::path::PathBuf;

use clap::Args;

use super::common::CommonArgs;
use crate::cli::model::named;
use crate::cli::progress::Progress;
use crate::config::SamplerName;
use crate::error::Result;
use crate::jobs::eval::dreambench::{DreambenchProtocol, judge};

#[derive(Args)]
pub(crate) struct DreambenchArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// CLIP for CLIP-I and CLIP-T; published numbers are openai/clip-vit-base-patch16's.
    #[arg(long, value_name = "FOLDER")]
    #[arg(value_parser = named())]
    clip: PathBuf,
    /// DreamBench clone for the 25 test prompts; the run's own where it is not given.
    #[arg(long, value_name = "FOLDER")]
    dreambench: Option<PathBuf>,
    /// A file of prompts, one a line with `{token}` and `{class}`, instead of the 25.
    #[arg(long, value_name = "FILE", conflicts_with = "dreambench")]
    prompts: Option<PathBuf>,
    /// Judge the untuned base model too, from the same noise.
    #[arg(long, overrides_with = "no_base")]
    base: bool,
    /// Leave the untuned base model out; this is what is done unless `--base` is given.
    #[arg(long, overrides_with = "base")]
    no_base: bool,
    /// Judge images of the class word alone too, which show whether it draws the subject by now.
    #[arg(long)]
    class: bool,
    /// The sampler; these defaults are the paper's protocol.
    #[arg(long, value_enum, default_value = "ddim")]
    sampler: SamplerName,
    /// Denoising steps.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    steps: u64,
    /// Classifier-free guidance; 1 is none.
    #[arg(long, default_value_t = 7.5)]
    guidance: f64,
    /// Images denoised together.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: u64,
}

pub(super) fn run(args: &DreambenchArgs) -> Result<()> {
    args.common.json.check()?;
    let protocol = DreambenchProtocol {
        images: args.common.settings()?,
        clip: args.clip.clone(),
        dreambench: args.dreambench.clone(),
        prompts: args.prompts.clone(),
        base: args.base,
        class_alone: args.class,
        sampler: args.sampler,
        steps: args.steps as usize,
        guidance: args.guidance,
        batch: args.batch as usize,
    };
    let judgement = judge(&protocol, &mut Progress::new(args.common.quiet))?;
    if args.common.json.write(&judgement.report())? {
        print!("{}", show::people(&judgement));
    }
    Ok(())
}
