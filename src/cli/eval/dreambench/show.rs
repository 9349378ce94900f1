//! The figures for people and for programs.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::super::judges::{EncoderReport, Judges};
use super::super::sample::Sampling;
use super::judged::{DreambenchArgs, JudgedRun};
use crate::cli::eval::plan::Plan;
use crate::cli::table;
use crate::eval::bootstrap::Bootstrap;
use crate::eval::dreambench::{Figures, Oracle, Summary, summarize};

const TOKEN_NOTE: &str = "clip_t: prompt without the token; clip_t_with_token: prompt as drawn";

/// Means over subjects.
#[derive(Serialize)]
pub(super) struct Totals {
    tuned: Summary,
    oracle: Oracle,
    base: Option<Summary>,
    /// Tuned less base, subject by subject.
    gain: Option<Summary>,
}

impl Totals {
    pub(super) fn new(all: &[(Plan, JudgedRun)], bootstrap: &Bootstrap) -> Self {
        // Runs of one subject are one cluster.
        let mut subjects: Vec<Vec<&JudgedRun>> = Vec::new();
        let mut names = Vec::new();
        for (plan, judged) in all {
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

/// The encoders that judge a run.
fn encoders(
    args: &DreambenchArgs,
    plan: &Plan,
    judges: &Judges,
) -> Vec<(&'static str, EncoderReport)> {
    let mut reports = vec![("clip", judges.report(&args.clip))];
    reports.extend(judges.dino_report().map(|report| ("dino", report)));
    reports.push(("reward", judges.report(&plan.reward)));
    reports
}

/// All that decides the images of a run, in words.
fn protocol(args: &DreambenchArgs, plan: &Plan, judged: &JudgedRun) -> Value {
    json!({
        "prompts": plan.prompts.len(),
        "images_per_prompt": args.common.images_per_prompt,
        "sampler": args.sampler.name(),
        "steps": args.steps,
        "guidance": args.guidance,
        "width": judged.size.0,
        "height": judged.size.1,
        "seed": args.common.seed,
        "scores": "raw cosines; mean over photos and images, then prompts, then subjects",
        "token": TOKEN_NOTE,
    })
}

/// Everything about one run.
pub(super) fn run_report(
    args: &DreambenchArgs,
    plan: &Plan,
    judged: &JudgedRun,
    judges: &Judges,
) -> Value {
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
        "base_model": manifest.base_model,
        "base_unet_sha256": manifest.base_unet_sha256,
        "weights_sha256": plan.weights_sha256,
        "status": manifest.record.status,
        "best_step": manifest.record.best.map(|(step, _)| step),
        "protocol": protocol(args, plan, judged),
        "encoders": encoders(args, plan, judges).into_iter().collect::<BTreeMap<_, _>>(),
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
    args: &DreambenchArgs,
    all: &[(Plan, JudgedRun)],
    totals: &Totals,
    judges: &Judges,
    sampling: &Sampling,
    bootstrap: &Bootstrap,
    seconds: f64,
) -> Value {
    let runs: Vec<Value> = all
        .iter()
        .map(|(plan, judged)| run_report(args, plan, judged, judges))
        .collect();
    let (images, texts) = judges.encodes();
    json!({
        "subjects": totals.tuned.subjects,
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
        "counts": {
            "images_sampled": sampling.sampled,
            "images_reused": sampling.reused,
            "unet_sample_forwards": sampling.sample_forwards,
            "images_encoded": images,
            "texts_encoded": texts,
        },
        "seconds": seconds,
        "runs": runs,
    })
}

type Column = (&'static str, fn(&Figures) -> Option<f64>);

const COLUMNS: [Column; 9] = [
    ("DINO", |figures| figures.dino),
    ("CLIP-I", |figures| Some(figures.clip_i)),
    ("CLIP-T", |figures| Some(figures.clip_t)),
    ("CLIP-T+", |figures| Some(figures.clip_t_with_token)),
    ("I", |figures| Some(figures.image_similarity)),
    ("T", |figures| Some(figures.text_similarity)),
    ("r .3", |figures| Some(figures.harmonic_3)),
    ("r .5", |figures| Some(figures.harmonic_5)),
    ("r .7", |figures| Some(figures.harmonic_7)),
];

/// Three decimals; a negative number that rounds to nothing has no sign.
fn number(value: Option<f64>) -> String {
    let text = value.map(|value| format!("{value:.3}"));
    text.map_or_else(|| "-".to_owned(), |text| text.replace("-0.000", "0.000"))
}

/// The table, what its columns mean, and the encoders.
pub(super) fn people(
    args: &DreambenchArgs,
    all: &[(Plan, JudgedRun)],
    totals: &Totals,
    judges: &Judges,
) -> String {
    let columns: Vec<Column> = COLUMNS
        .into_iter()
        .filter(|(_, read)| read(&totals.tuned.mean).is_some())
        .collect();
    let cells = |figures: &Figures| {
        columns
            .iter()
            .map(|(_, read)| number(read(figures)))
            .collect::<Vec<_>>()
    };
    let named = |name: &str, cells: Vec<String>| [vec![name.to_owned()], cells].concat();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (plan, judged) in all {
        rows.push(named(&plan.label, cells(&judged.scores.mean)));
    }
    let summary_rows = |name: &str, summary: &Summary| {
        let mut rows = vec![named(name, cells(&summary.mean))];
        if let Some(interval) = &summary.interval {
            rows.push(named("  95 % from", cells(&interval.low)));
            rows.push(named("  95 % to", cells(&interval.high)));
        }
        rows
    };
    if all.len() > 1 {
        rows.extend(summary_rows(
            &format!("mean of {} subjects", totals.tuned.subjects),
            &totals.tuned,
        ));
    }
    rows.push(named(
        "photos themselves",
        oracle_cells(&columns, &totals.oracle),
    ));
    if let Some(base) = &totals.base {
        rows.push(named("untuned model", cells(&base.mean)));
    }
    if let Some(gain) = &totals.gain {
        rows.extend(summary_rows("gain by tuning", gain));
    }
    let header = named(
        "",
        columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
    );
    table::render(&header, &rows) + &alarms(all) + "\n" + &legend(args, all, judges)
}

fn oracle_cells(columns: &[Column], oracle: &Oracle) -> Vec<String> {
    let cell = |name: &str| match name {
        "DINO" => number(oracle.dino),
        "CLIP-I" => number(oracle.clip_i),
        "I" => number(oracle.image_similarity),
        _ => "-".to_owned(),
    };
    columns.iter().map(|(name, _)| cell(name)).collect()
}

/// A line for each run whose images are closer to the photos than the photos are to each other.
fn alarms(all: &[(Plan, JudgedRun)]) -> String {
    let line = |(plan, judged): &(Plan, JudgedRun)| {
        let exceeded = judged.oracle.exceeded_by(&judged.scores.mean);
        let figures: Vec<String> = exceeded
            .iter()
            .map(|(name, figure, oracle)| format!("{name} {figure:.3} is above {oracle:.3}"))
            .collect();
        let figures = figures.join(" and ");
        let line = format!(
            "copies? {}: {figures}, what the photos score among themselves\n",
            plan.label
        );
        (!exceeded.is_empty()).then_some(line)
    };
    all.iter().filter_map(line).collect()
}

fn legend(args: &DreambenchArgs, all: &[(Plan, JudgedRun)], judges: &Judges) -> String {
    let Some((plan, judged)) = all.first() else {
        return String::new();
    };
    let (width, height) = judged.size;
    let mut text = format!(
        "{} prompts x {} images a subject, {} with steps {}, guidance {}, {width}x{height}, seed {}\n\
         CLIP-T: prompt without the token; CLIP-T+: prompt as drawn, as in published numbers\n\
         I, T, r: similarities and lambda-Harmonic reward at lambda .3, .5, .7 by the reward encoder\n",
        plan.prompts.len(),
        args.common.images_per_prompt,
        args.sampler.name(),
        args.steps,
        args.guidance,
        args.common.seed,
    );
    if all.len() > 1 {
        text += "95 %: bootstrap over subjects\n";
    }
    let lines = encoders(args, plan, judges);
    text.extend(lines.iter().map(|(role, encoder)| encoder.line(role)));
    text
}
