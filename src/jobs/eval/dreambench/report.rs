//! Means over subjects, and what is kept of a judgement, for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::judged::JudgedRun;
use crate::eval::bootstrap::Bootstrap;
use crate::eval::dreambench::{Figures, Oracle, Summary, summarize};
use crate::hub::name_model;
use crate::jobs::eval::judges::Counts;
use crate::jobs::eval::plan::EvalPlan;

const TOKEN_NOTE: &str = "clip_t: prompt without the token; clip_t_with_token: prompt as drawn";

/// Means over subjects.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Of the tuned models.
    pub tuned: Summary,
    /// Of the photos among themselves.
    pub oracle: Oracle,
    /// Of the untuned models.
    pub base: Option<Summary>,
    /// Tuned less base, subject by subject.
    pub gain: Option<Summary>,
}

impl Totals {
    pub(super) fn new(runs: &[JudgedRun], bootstrap: &Bootstrap) -> Self {
        // Runs of one subject are one cluster.
        let mut subjects: Vec<Vec<&JudgedRun>> = Vec::new();
        let mut names = Vec::new();
        for judged in runs {
            let plan = &judged.plan;
            if let Some(known) = names.iter().position(|name| *name == plan.subject()) {
                subjects[known].push(judged);
            } else {
                names.push(plan.subject());
                subjects.push(vec![judged]);
            }
        }
        let summary = |read: &dyn Fn(&JudgedRun) -> Option<Figures>| {
            let figures: Option<Vec<Vec<Figures>>> = subjects
                .iter()
                .map(|runs| runs.iter().map(|judged| read(judged)).collect())
                .collect();
            figures.map(|figures| summarize(&figures, bootstrap))
        };
        let base = |judged: &JudgedRun| judged.base.as_ref().map(|base| base.mean);
        let oracles: Vec<Oracle> = subjects.iter().map(|runs| runs[0].oracle).collect();
        let tuned: Vec<Vec<Figures>> = subjects
            .iter()
            .map(|runs| runs.iter().map(|judged| judged.scores.mean).collect())
            .collect();
        Self {
            tuned: summarize(&tuned, bootstrap),
            oracle: Oracle::mean(&oracles),
            base: summary(&base),
            gain: summary(&|judged| Some(judged.scores.mean.minus(&base(judged)?))),
        }
    }
}

/// All that decides the images of a run, in words.
fn protocol(judged: &JudgedRun) -> Value {
    let EvalPlan {
        prompts, drawing, ..
    } = &judged.plan;
    json!({
        "prompts": prompts.len(),
        "images_per_prompt": drawing.per_prompt,
        "sampler": drawing.sampler.name(),
        "steps": drawing.steps,
        "guidance": drawing.guidance,
        "width": judged.size.0,
        "height": judged.size.1,
        "seed": drawing.seed,
        "scores": "raw cosines; mean over photos and images, then prompts, then subjects",
        "token": TOKEN_NOTE,
    })
}

/// Everything about one run.
pub(super) fn run_report(judged: &JudgedRun) -> Value {
    let plan = &judged.plan;
    let manifest = &plan.manifest;
    let copies: Vec<&str> = judged
        .oracle
        .exceeded_by(&judged.scores.mean)
        .iter()
        .map(|copy| copy.0)
        .collect();
    json!({
        "preftune": env!("CARGO_PKG_VERSION"),
        "run": plan.run,
        "subject": manifest.subject.name,
        "class": manifest.subject.class,
        "token": manifest.subject.token,
        "photos": manifest.subject.photos,
        "base_model": name_model(&manifest.base_model),
        "base_unet_sha256": manifest.base_unet_sha256,
        "weights_sha256": plan.weights_sha256,
        "status": manifest.record.status,
        "best_step": manifest.record.best.map(|(step, _)| step),
        "protocol": protocol(judged),
        "encoders": judged.encoders.iter().map(|(role, report)| (*role, report)).collect::<BTreeMap<_, _>>(),
        "images": plan.folder,
        "mean": judged.scores.mean,
        "oracle": judged.oracle,
        "above_oracle": copies,
        "prompts": judged.scores.prompts,
        "base": judged.base.as_ref().map(|base| json!({
            "images": judged.base_folder,
            "mean": base.mean,
            "prompts": base.prompts,
        })),
    })
}

/// Everything about all runs.
pub(super) fn report(
    (runs, missing): (&[JudgedRun], &[String]),
    totals: &Totals,
    bootstrap: &Bootstrap,
    counts: Counts,
    seconds: f64,
) -> Value {
    let runs: Vec<Value> = runs.iter().map(run_report).collect();
    json!({
        "subjects": totals.tuned.subjects,
        "missing_subjects": missing,
        "mean": totals.tuned.mean,
        "interval": totals.tuned.interval,
        "oracle": totals.oracle,
        "base": totals.base,
        "gain": totals.gain,
        "bootstrap": {
            "over": "subjects",
            "level": bootstrap.level,
            "resamples": bootstrap.resamples,
            "seed": bootstrap.seed,
        },
        "counts": counts,
        "seconds": seconds,
        "runs": runs,
    })
}
