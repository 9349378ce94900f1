//! The figures for people.

use crate::cli::eval::common::encoder_line;
use crate::cli::table;
use crate::eval::subject::{
    CLASS_CLIP_T, CLASS_DRIFT, CLASS_KEPT, CLIP_I, CLIP_T, Column, DINO, DIV, Estimate,
    HYPERVOLUME, IMAGE_SIMILARITY, PRES, TEXT_SIMILARITY,
};
use crate::jobs::eval::subject::{Estimates, Group, JudgedModel, SubjectJudgement};

/// A table for each model and each group, and what the figures mean.
pub(super) fn people(judgement: &SubjectJudgement) -> String {
    let columns = &judgement.outline.columns;
    let model = |judged: &JudgedModel| {
        let above: Vec<String> = judgement
            .outline
            .above_oracle(judged)
            .map(|column| format!("{} by {}", name(&column.figure), column.encoder))
            .collect();
        let alarm = match above.as_slice() {
            [] => String::new(),
            above => format!(
                "copies? {}: above what the photos score among themselves\n",
                above.join(", ")
            ),
        };
        let table = table(columns, &judged.estimates, Some(&judged.oracle));
        format!("{}\n{table}{alarm}\n", judged.title)
    };
    let group = |group: &Group| {
        let table = table(columns, &group.estimates, None);
        format!("{}\n{table}\n", group.title)
    };
    let models = judgement.models.iter().map(model);
    let text: String = models.chain(judgement.groups.iter().map(group)).collect();
    text + &legend(judgement)
}

fn table(columns: &[Column], estimates: &Estimates, oracle: Option<&Vec<Option<f64>>>) -> String {
    let mut header = vec![String::new(), String::new()];
    if estimates.base.is_some() {
        header.push("untuned".to_owned());
    }
    header.push("tuned".to_owned());
    if estimates.gain.is_some() {
        header.push("gain".to_owned());
    }
    if oracle.is_some() {
        header.push("photos".to_owned());
    }
    let row = |(index, column): (usize, &Column)| {
        let repeated = index > 0 && columns[index - 1].encoder == column.encoder;
        let encoder = if repeated { "" } else { &column.encoder };
        let mut row = vec![encoder.to_owned(), name(&column.figure)];
        row.extend(
            estimates
                .base
                .as_ref()
                .map(|base| cell(&base[index], false)),
        );
        row.push(cell(&estimates.tuned[index], false));
        row.extend(estimates.gain.as_ref().map(|gain| cell(&gain[index], true)));
        row.extend(oracle.map(|oracle| {
            oracle[index].map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
        }));
        row
    };
    let rows: Vec<Vec<String>> = columns.iter().enumerate().map(row).collect();
    table::render(&header, &rows)
}

fn legend(judgement: &SubjectJudgement) -> String {
    let Some(judged) = judgement.models.first() else {
        return String::new();
    };
    let plan = &judged.plan;
    let (width, height) = judged.size;
    let drawing = &plan.drawing;
    let class = if columns_have(judgement, PRES) {
        "the class word alone: PRES, likeness to the photos (lower is better); class CLIP-T, alignment; class drift, distance from \
         the untuned model's images; class kept, 1 where the class word draws the subject no more than before; volume, CLIP-I x \
         CLIP-T x class kept\n"
    } else {
        ""
    };
    let mut text = format!(
        "{} prompts x {} images a model, {} with {} steps, guidance {}, {width}x{height}, seed {}\n\
         CLIP-I: likeness to the photos; CLIP-T: alignment with the prompt without the token; raw cosines\n\
         I, T: the same as (cosine + 1) / 2; r L: lambda-Harmonic reward at lambda L\n\
         DIV: how images of one prompt differ, 1 - cosine\n\
         {class}\
         photos: what the photos score among themselves\n\
         brackets: 95 % bootstrap interval over prompts",
        plan.prompts.len(),
        drawing.per_prompt,
        drawing.sampler.name(),
        drawing.steps,
        drawing.guidance,
        drawing.seed,
    );
    if judgement.groups.iter().any(|group| group.subjects > 1) {
        text += "; of several subjects, over subjects";
    }
    text += "\n";
    let lines = judged.encoders.iter();
    text.extend(lines.map(|(role, encoder)| encoder_line(role, encoder)));
    text
}

fn columns_have(judgement: &SubjectJudgement, figure: &str) -> bool {
    let mut columns = judgement.outline.columns.iter();
    columns.any(|column| column.figure == figure)
}

/// A figure as tables name it.
fn name(figure: &str) -> String {
    match figure {
        CLIP_I => "CLIP-I".to_owned(),
        CLIP_T => "CLIP-T".to_owned(),
        IMAGE_SIMILARITY => "I".to_owned(),
        TEXT_SIMILARITY => "T".to_owned(),
        DINO => "DINO".to_owned(),
        DIV => "DIV".to_owned(),
        PRES => "PRES".to_owned(),
        CLASS_CLIP_T => "class CLIP-T".to_owned(),
        CLASS_DRIFT => "class drift".to_owned(),
        CLASS_KEPT => "class kept".to_owned(),
        HYPERVOLUME => "volume".to_owned(),
        harmonic => harmonic.replace("harmonic_", "r "),
    }
}

/// A mean with its interval; three decimals, a number that rounds to nothing has no sign.
fn cell(estimate: &Estimate, signed: bool) -> String {
    let number = |value: f64| {
        let text = if signed {
            format!("{value:+.3}")
        } else {
            format!("{value:.3}")
        };
        match text.as_str() {
            "-0.000" | "+0.000" => "0.000".to_owned(),
            _ => text,
        }
    };
    let mean = number(estimate.mean);
    estimate.interval.map_or_else(
        || mean.clone(),
        |(low, high)| format!("{mean} [{}, {}]", number(low), number(high)),
    )
}
