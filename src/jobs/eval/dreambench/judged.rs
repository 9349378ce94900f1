//! A judged run.

use std::path::PathBuf;

use crate::eval::dreambench::{Oracle, SubjectScores};
use crate::jobs::eval::judges::EncoderReport;
use crate::jobs::eval::plan::EvalPlan;

/// The judgement of one run.
pub struct JudgedRun {
    /// The run with the weights that were judged.
    pub plan: EvalPlan,
    /// The encoders by their role: `clip`, `dino`, `reward`.
    pub encoders: Vec<(&'static str, EncoderReport)>,
    /// Scores of the photos among themselves.
    pub oracle: Oracle,
    /// Scores of the tuned model.
    pub scores: SubjectScores,
    /// Scores of its base.
    pub base: Option<SubjectScores>,
    /// Folder of the base model's images.
    pub base_folder: Option<PathBuf>,
    /// Width and height of the images.
    pub size: (u32, u32),
}
