//! A judged model, and what is known of it beforehand.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::estimates::Estimates;
use crate::config::PromptList;
use crate::data::prompts;
use crate::jobs::eval::judges::EncoderReport;
use crate::jobs::eval::plan::{EvalPlan, subject_kind};
use crate::run::manifest::SubjectRecord;

/// The judgement of one model.
pub struct JudgedModel {
    /// The run with the weights that were judged.
    pub plan: EvalPlan,
    /// The model in words.
    pub title: String,
    /// Prompts that the run was trained or validated on too, as far as its lists can still be read.
    pub seen_prompts: Vec<String>,
    /// The encoders by their role: `reward`, `judge`, `judge_2` and so on, `dino`.
    pub encoders: Vec<(String, EncoderReport)>,
    /// Scores of the photos among themselves. `[columns]`
    pub oracle: Vec<Option<f64>>,
    /// Scores of the tuned model. `[prompts][columns]`
    pub tuned: Vec<Vec<f64>>,
    /// Scores of its base. `[prompts][columns]`
    pub base: Option<Vec<Vec<f64>>>,
    /// Folder of the base model's images.
    pub base_folder: Option<PathBuf>,
    /// Means over the prompts with their intervals.
    pub estimates: Estimates,
    /// Width and height of the images.
    pub size: (u32, u32),
}

/// Names of the encoders of images and texts: `reward`, `judge`, `judge_2` and so on.
pub(super) fn roles(judges: usize) -> Vec<String> {
    let judge = |number: usize| match number {
        1 => "judge".to_owned(),
        number => format!("judge_{number}"),
    };
    std::iter::once("reward".to_owned())
        .chain((1..=judges).map(judge))
        .collect()
}

/// The prompts that the run was trained or validated on too, as far as its lists can still be read.
pub(super) fn seen_prompts(plan: &EvalPlan) -> Vec<String> {
    let SubjectRecord { token, class, .. } = &plan.manifest.subject;
    let config = &plan.config;
    let kind = subject_kind(config, class);
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
    let seen = drawn.filter(|prompt| known.contains(*prompt));
    seen.cloned().collect()
}
