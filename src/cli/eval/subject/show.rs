//! The figures for people and for programs.
//!
//! `metrics.json` of a run has the outline of the other protocol's: `mean`, `interval`, `oracle`, `base`, `gain` and
//! `prompts`, with figures grouped by encoder: `mean.reward.clip_i`, `mean.judge.harmonic_0.5`, `mean.dino.dino`.

use serde_json::{Map, Value, json};

use super::super::judges::{EncoderReport, Judges};
use super::super::sample::Sampling;
use super::estimates::Estimates;
use super::judged::{JudgedModel, SubjectArgs, roles, seen_prompts};
use super::summary::{Group, title};
use crate::cli::eval::plan::Plan;
use crate::cli::table;
use crate::eval::bootstrap::Bootstrap;
use crate::eval::subject::{
    CLIP_I, CLIP_T, Column, DINO, Estimate, IMAGE_SIMILARITY, TEXT_SIMILARITY,
};

/// Settings that all tables share.
pub(super) struct Shown<'a> {
    args: &'a SubjectArgs,
    columns: Vec<Column>,
    bootstrap: Bootstrap,
}

impl<'a> Shown<'a> {
    pub(super) fn new(args: &'a SubjectArgs, columns: Vec<Column>, bootstrap: Bootstrap) -> Self {
        Self {
            args,
            columns,
            bootstrap,
        }
    }

    /// Values by encoder and figure.
    fn by_encoder(&self, value: impl Fn(usize) -> Option<f64>) -> Value {
        let mut encoders: Map<String, Value> = Map::new();
        for (index, column) in self.columns.iter().enumerate() {
            let encoder = encoders.entry(&column.encoder).or_insert_with(|| json!({}));
            encoder[&column.figure] = json!(value(index));
        }
        Value::Object(encoders)
    }

    fn row(&self, row: &[f64]) -> Value {
        self.by_encoder(|column| Some(row[column]))
    }

    fn mean(&self, estimates: &[Estimate]) -> Value {
        self.by_encoder(|column| Some(estimates[column].mean))
    }

    /// `null` where there is none.
    fn interval(&self, estimates: &[Estimate]) -> Value {
        let end = |pick: fn((f64, f64)) -> f64| {
            self.by_encoder(|column| estimates[column].interval.map(pick))
        };
        match estimates.first().and_then(|estimate| estimate.interval) {
            Some(_) => json!({"low": end(|ends| ends.0), "high": end(|ends| ends.1)}),
            None => Value::Null,
        }
    }

    fn summary(&self, estimates: Option<&Vec<Estimate>>) -> Value {
        estimates.map_or(
            Value::Null,
            |estimates| json!({"mean": self.mean(estimates), "interval": self.interval(estimates)}),
        )
    }

    fn bootstrap(&self, over: &str) -> Value {
        json!({
            "over": over,
            "level": self.bootstrap.level,
            "resamples": self.bootstrap.resamples,
            "seed": self.bootstrap.seed,
        })
    }

    fn prompts(&self, plan: &Plan, rows: &[Vec<f64>]) -> Value {
        let prompt = |(prompt, row): (&String, &Vec<f64>)| json!({"prompt": prompt, "figures": self.row(row)});
        plan.prompts.iter().zip(rows).map(prompt).collect()
    }

    /// All that decides the images, in words.
    fn protocol(&self, plan: &Plan, size: (u32, u32)) -> Value {
        let drawing = &plan.drawing;
        json!({
            "name": "subject",
            "prompts": plan.prompts.len(),
            "images_per_prompt": drawing.per_prompt,
            "sampler": drawing.sampler.name(),
            "steps": drawing.steps,
            "guidance": drawing.guidance,
            "width": size.0,
            "height": size.1,
            "seed": drawing.seed,
            "lambda": self.args.lambda,
            "scores": "clip_i, clip_t, dino: raw cosines; similarities: (cosine + 1) / 2; harmonic_L: reward of an \
                       image at lambda L; mean over images, then prompts; prompts without the token",
        })
    }

    fn encoders(&self, plan: &Plan, judges: &Judges) -> Vec<(String, EncoderReport)> {
        let folders = std::iter::once(&plan.reward).chain(&self.args.judges);
        let dual = folders.map(|folder| judges.report(folder));
        let dual = roles(self.args).into_iter().zip(dual);
        let dino = judges.dino_report();
        dual.chain(dino.map(|report| (DINO.to_owned(), report)))
            .collect()
    }

    /// Everything about one model.
    pub(super) fn run_report(&self, plan: &Plan, judged: &JudgedModel, judges: &Judges) -> Value {
        let manifest = &plan.manifest;
        let encoders: Map<String, Value> = self
            .encoders(plan, judges)
            .into_iter()
            .map(|(role, report)| (role, json!(report)))
            .collect();
        let above: Vec<String> = self
            .above_oracle(judged)
            .map(|column| format!("{}.{}", column.encoder, column.figure))
            .collect();
        let estimates = &judged.estimates;
        let mut base = self.summary(estimates.base.as_ref());
        if let Some(rows) = &judged.base {
            base["images"] = json!(judged.base_folder);
            base["prompts"] = self.prompts(plan, rows);
        }
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
            "objective": plan.config.objective.kind,
            "seed": plan.config.run.seed,
            "step": plan.weights_step(),
            "best_step": manifest.record.best.map(|(step, _)| step),
            "protocol": self.protocol(plan, judged.size),
            "seen_prompts": seen_prompts(plan),
            "encoders": encoders,
            "images": plan.folder,
            "bootstrap": self.bootstrap(estimates.over),
            "mean": self.mean(&estimates.tuned),
            "interval": self.interval(&estimates.tuned),
            "oracle": self.by_encoder(|column| judged.oracle[column]),
            "above_oracle": above,
            "gain": self.summary(estimates.gain.as_ref()),
            "prompts": self.prompts(plan, &judged.tuned),
            "base": base,
        })
    }

    /// The likenesses by which images are closer to the photos than the photos are to each other.
    fn above_oracle(&self, judged: &JudgedModel) -> impl Iterator<Item = &Column> {
        let likeness = |column: &Column| [CLIP_I, DINO].contains(&column.figure.as_str());
        let tuned = judged.estimates.tuned.iter().map(|estimate| estimate.mean);
        self.columns
            .iter()
            .zip(tuned.zip(&judged.oracle))
            .filter(move |(column, (mean, oracle))| {
                likeness(column) && oracle.is_some_and(|oracle| *mean > oracle)
            })
            .map(|(column, _)| column)
    }

    /// Everything about all models.
    pub(super) fn report(
        &self,
        all: &[(Plan, JudgedModel)],
        groups: &[Group],
        judges: &Judges,
        sampling: &Sampling,
        seconds: f64,
    ) -> Value {
        let runs: Vec<Value> = all
            .iter()
            .map(|(plan, judged)| self.run_report(plan, judged, judges))
            .collect();
        let group = |group: &Group| {
            let members = group.members.iter().map(|(plan, _)| &plan.run);
            json!({
                "title": group.title(),
                "runs": members.collect::<Vec<_>>(),
                "step": group.members[0].0.step,
                "subjects": group.subjects,
                "bootstrap": self.bootstrap(group.estimates.over),
                "mean": self.mean(&group.estimates.tuned),
                "interval": self.interval(&group.estimates.tuned),
                "base": self.summary(group.estimates.base.as_ref()),
                "gain": self.summary(group.estimates.gain.as_ref()),
            })
        };
        let (images, texts) = judges.encodes();
        json!({
            "groups": groups.iter().map(group).collect::<Vec<_>>(),
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

    /// A table for each model and each group, and what the figures mean.
    pub(super) fn people(
        &self,
        all: &[(Plan, JudgedModel)],
        groups: &[Group],
        judges: &Judges,
    ) -> String {
        let model = |(plan, judged): &(Plan, JudgedModel)| {
            let above: Vec<String> = self
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
            let table = self.table(&judged.estimates, Some(&judged.oracle));
            format!("{}\n{table}{alarm}\n", title(plan))
        };
        let group = |group: &Group| {
            let table = self.table(&group.estimates, None);
            format!("{}\n{table}\n", group.title())
        };
        let models = all.iter().map(model);
        let text: String = models.chain(groups.iter().map(group)).collect();
        text + &self.legend(all, groups, judges)
    }

    fn table(&self, estimates: &Estimates, oracle: Option<&Vec<Option<f64>>>) -> String {
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
            let repeated = index > 0 && self.columns[index - 1].encoder == column.encoder;
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
        let rows: Vec<Vec<String>> = self.columns.iter().enumerate().map(row).collect();
        table::render(&header, &rows)
    }

    fn legend(&self, all: &[(Plan, JudgedModel)], groups: &[Group], judges: &Judges) -> String {
        let Some((plan, judged)) = all.first() else {
            return String::new();
        };
        let (width, height) = judged.size;
        let drawing = &plan.drawing;
        let mut text = format!(
            "{} prompts x {} images a model, {} with {} steps, guidance {}, {width}x{height}, seed {}\n\
             CLIP-I: likeness to the photos; CLIP-T: alignment with the prompt without the token; raw cosines\n\
             I, T: the same as (cosine + 1) / 2; r L: lambda-Harmonic reward at lambda L\n\
             photos: what the photos score among themselves\n\
             brackets: 95 % bootstrap interval over prompts",
            plan.prompts.len(),
            drawing.per_prompt,
            drawing.sampler.name(),
            drawing.steps,
            drawing.guidance,
            drawing.seed,
        );
        if groups.iter().any(|group| group.subjects > 1) {
            text += "; of several subjects, over subjects";
        }
        text += "\n";
        let lines = self.encoders(plan, judges);
        text.extend(lines.iter().map(|(role, encoder)| encoder.line(role)));
        text
    }
}

/// A figure as tables name it.
fn name(figure: &str) -> String {
    match figure {
        CLIP_I => "CLIP-I".to_owned(),
        CLIP_T => "CLIP-T".to_owned(),
        IMAGE_SIMILARITY => "I".to_owned(),
        TEXT_SIMILARITY => "T".to_owned(),
        DINO => "DINO".to_owned(),
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
