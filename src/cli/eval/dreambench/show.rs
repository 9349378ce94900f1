//! The figures for people.

use crate::cli::eval::common::encoder_line;
use crate::cli::table;
use crate::eval::dreambench::{Figures, Oracle, Summary};
use crate::jobs::eval::dreambench::{DreambenchJudgement, JudgedRun};

type Column = (&'static str, fn(&Figures) -> Option<f64>);

const COLUMNS: [Column; 14] = [
    ("DINO", |figures| figures.dino),
    ("CLIP-I", |figures| Some(figures.clip_i)),
    ("CLIP-T", |figures| Some(figures.clip_t)),
    ("CLIP-T+", |figures| Some(figures.clip_t_with_token)),
    ("I", |figures| Some(figures.image_similarity)),
    ("T", |figures| Some(figures.text_similarity)),
    ("r .3", |figures| Some(figures.harmonic_3)),
    ("r .5", |figures| Some(figures.harmonic_5)),
    ("r .7", |figures| Some(figures.harmonic_7)),
    ("DIV", |figures| figures.div),
    ("PRES", |figures| figures.pres),
    ("PRES CLIP", |figures| figures.pres_clip),
    ("kept", |figures| figures.class_kept),
    ("volume", |figures| figures.hypervolume),
];

/// Three decimals; a negative number that rounds to nothing has no sign.
fn number(value: Option<f64>) -> String {
    let text = value.map(|value| format!("{value:.3}"));
    text.map_or_else(|| "-".to_owned(), |text| text.replace("-0.000", "0.000"))
}

/// The table, what its columns mean, and the encoders.
pub(super) fn people(judgement: &DreambenchJudgement) -> String {
    let DreambenchJudgement { runs, totals, .. } = judgement;
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
    for judged in runs {
        rows.push(named(&judged.plan.label, cells(&judged.scores.mean)));
    }
    let summary_rows = |name: &str, summary: &Summary| {
        let mut rows = vec![named(name, cells(&summary.mean))];
        if let Some(interval) = &summary.interval {
            rows.push(named("  95 % from", cells(&interval.low)));
            rows.push(named("  95 % to", cells(&interval.high)));
        }
        rows
    };
    if runs.len() > 1 {
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
    table::render(&header, &rows) + &alarms(runs) + "\n" + &legend(runs)
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
fn alarms(runs: &[JudgedRun]) -> String {
    let line = |judged: &JudgedRun| {
        let exceeded = judged.oracle.exceeded_by(&judged.scores.mean);
        let figures: Vec<String> = exceeded
            .iter()
            .map(|(name, figure, oracle)| format!("{name} {figure:.3} is above {oracle:.3}"))
            .collect();
        let figures = figures.join(" and ");
        let line = format!(
            "copies? {}: {figures}, what the photos score among themselves\n",
            judged.plan.label
        );
        (!exceeded.is_empty()).then_some(line)
    };
    runs.iter().filter_map(line).collect()
}

fn legend(runs: &[JudgedRun]) -> String {
    let Some(judged) = runs.first() else {
        return String::new();
    };
    let plan = &judged.plan;
    let drawing = &plan.drawing;
    let (width, height) = judged.size;
    let mut text = format!(
        "{} prompts x {} images a subject, {} with steps {}, guidance {}, {width}x{height}, seed {}\n\
         CLIP-T: prompt without the token; CLIP-T+: prompt as drawn, as in published numbers\n\
         I, T, r: similarities and lambda-Harmonic reward at lambda .3, .5, .7 by the reward encoder\n",
        plan.prompts.len(),
        drawing.per_prompt,
        drawing.sampler.name(),
        drawing.steps,
        drawing.guidance,
        drawing.seed,
    );
    if drawing.per_prompt > 1 {
        text += "DIV: how images of one prompt differ, 1 - cosine by CLIP\n";
    }
    if judged.scores.mean.pres_clip.is_some() {
        text += "the class word alone: PRES, likeness to the photos by DINO and by CLIP (lower is better)\n";
    }
    if judged.scores.mean.class_kept.is_some() {
        text += "kept: 1 where the class word draws the subject no more than before; volume: CLIP-I x CLIP-T x kept\n";
    }
    if runs.len() > 1 {
        text += "95 %: bootstrap over subjects\n";
    }
    let lines = judged.encoders.iter();
    text.extend(lines.map(|(role, encoder)| encoder_line(role, encoder)));
    text
}
