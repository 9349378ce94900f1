//! The flags of `preftune eval subject`, and what is known of a judged model.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;

use super::estimates::Estimates;
use crate::cli::eval::common::CommonArgs;
use crate::cli::eval::plan::Plan;
use crate::config::{PromptList, SamplerName, SubjectConfig};
use crate::data::prompts;
use crate::data::subject::Kind;
use crate::run::manifest::SubjectRecord;

#[derive(Args)]
pub(crate) struct SubjectArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// A file of prompts, one a line with `{token}` and `{class}`, that were used neither in training nor in
    /// validation; a built-in list where it is not given.
    #[arg(long, value_name = "FILE")]
    pub(super) prompts: Option<PathBuf>,
    /// An encoder of images and texts that the run was not tuned for; may be repeated.
    #[arg(long = "judge", value_name = "FOLDER")]
    pub(super) judges: Vec<PathBuf>,
    /// Shares of likeness to the photos in the reward, between 0 and 1.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    #[arg(default_value = "0.3,0.5,0.7", value_name = "NUMBERS")]
    pub(super) lambda: Vec<f64>,
    /// Judge the weights of these checkpoints instead of the best ones.
    #[arg(long, value_delimiter = ',', value_name = "STEPS")]
    pub(super) checkpoint: Vec<u64>,
    /// Judge the untuned base model too, from the same noise; this is what is done unless `--no-base` is given.
    #[arg(long, overrides_with = "no_base")]
    base: bool,
    /// Leave the untuned base model out.
    #[arg(long, overrides_with = "base")]
    pub(super) no_base: bool,
    /// The sampler; the run's own where it is not given.
    #[arg(long, value_enum)]
    pub(super) sampler: Option<SamplerName>,
    /// Denoising steps; the run's own where they are not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(super) steps: Option<u64>,
    /// Classifier-free guidance, 1 is none; the run's own where it is not given.
    #[arg(long)]
    pub(super) guidance: Option<f64>,
    /// Images denoised together; the run's own number where it is not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(super) batch: Option<u64>,
}

/// The judgement of one model.
pub(super) struct JudgedModel {
    /// Scores of the photos among themselves, column by column.
    pub(super) oracle: Vec<Option<f64>>,
    /// A row for each prompt.
    pub(super) tuned: Vec<Vec<f64>>,
    pub(super) base: Option<Vec<Vec<f64>>>,
    /// Where the base model's images are.
    pub(super) base_folder: Option<PathBuf>,
    /// Means over the prompts with their intervals.
    pub(super) estimates: Estimates,
    /// Width and height of the images.
    pub(super) size: (u32, u32),
}

/// Names of the encoders of images and texts: `reward`, `judge`, `judge_2` and so on.
pub(super) fn roles(args: &SubjectArgs) -> Vec<String> {
    let judge = |number: usize| match number {
        1 => "judge".to_owned(),
        number => format!("judge_{number}"),
    };
    std::iter::once("reward".to_owned())
        .chain((1..=args.judges.len()).map(judge))
        .collect()
}

/// The prompts that the run was trained or validated on too, as far as its lists can still be read.
pub(super) fn seen_prompts(plan: &Plan) -> Vec<&String> {
    let SubjectRecord { token, class, .. } = &plan.manifest.subject;
    let config = &plan.config;
    let kind = kind(config, class);
    let templates = |list: Option<&PromptList>, built_in: &[&str]| match list {
        Some(PromptList::List(list)) => list.clone(),
        Some(PromptList::File(file)) => prompts::read(file).unwrap_or_default(),
        None => built_in.iter().map(|&text| text.to_owned()).collect(),
    };
    let training = templates(config.negatives.prompts.as_ref(), prompts::training(kind));
    let validation = templates(
        config.validation.prompts.as_ref(),
        prompts::validation(kind),
    );
    let fill = |template: &String| prompts::fill(template, token, class);
    let known: BTreeSet<String> = training.iter().chain(&validation).map(fill).collect();
    let drawn = plan.prompts.iter();
    drawn.filter(|prompt| known.contains(*prompt)).collect()
}

pub(super) fn kind(config: &SubjectConfig, class: &str) -> Kind {
    match config.subject.live {
        Some(true) => Kind::Live,
        Some(false) => Kind::Object,
        None => Kind::of_class(class),
    }
}
