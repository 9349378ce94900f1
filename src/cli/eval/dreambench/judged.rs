//! The flags of `preftune eval dreambench`, and what is known of a judged run.

use std::path::PathBuf;

use clap::Args;

use crate::cli::eval::common::CommonArgs;
use crate::config::SamplerName;
use crate::eval::dreambench::{Oracle, SubjectScores};

#[derive(Args)]
pub(crate) struct DreambenchArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// CLIP for CLIP-I and CLIP-T; published numbers are openai/clip-vit-base-patch16's.
    #[arg(long, value_name = "FOLDER")]
    pub(super) clip: PathBuf,
    /// DreamBench clone for the 25 test prompts; the run's own where it is not given.
    #[arg(long, value_name = "FOLDER")]
    pub(super) dreambench: Option<PathBuf>,
    /// A file of prompts, one a line with `{token}` and `{class}`, instead of the 25.
    #[arg(long, value_name = "FILE", conflicts_with = "dreambench")]
    pub(super) prompts: Option<PathBuf>,
    /// Judge the untuned base model too, from the same noise.
    #[arg(long, overrides_with = "no_base")]
    pub(super) base: bool,
    /// Leave the untuned base model out; this is what is done unless `--base` is given.
    #[arg(long, overrides_with = "base")]
    no_base: bool,
    /// The sampler; these defaults are the paper's protocol.
    #[arg(long, value_enum, default_value = "ddim")]
    pub(super) sampler: SamplerName,
    /// Denoising steps.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(super) steps: u64,
    /// Classifier-free guidance; 1 is none.
    #[arg(long, default_value_t = 7.5)]
    pub(super) guidance: f64,
    /// Images denoised together.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(super) batch: u64,
}

/// The judgement of one run.
pub(super) struct JudgedRun {
    pub(super) oracle: Oracle,
    pub(super) scores: SubjectScores,
    pub(super) base: Option<SubjectScores>,
    /// Where the base model's images are.
    pub(super) base_folder: Option<PathBuf>,
    /// Width and height of the images.
    pub(super) size: (u32, u32),
}
