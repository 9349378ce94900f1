//! A judgement as programs read it.
//!
//! `metrics.json` of a run has the outline of the other protocol's: `mean`, `interval`, `oracle`, `base`, `gain` and
//! `prompts`, with figures grouped by encoder: `mean.reward.clip_i`, `mean.judge.harmonic_0.5`, `mean.dino.dino`.

use serde_json::{Map, Value, json};

use super::judged::JudgedModel;
use super::summary::Group;
use crate::eval::bootstrap::Bootstrap;
use crate::eval::subject::{CLIP_I, Column, DINO, Estimate};
use crate::hub::name_model;
use crate::jobs::eval::judges::Counts;
use crate::jobs::eval::plan::EvalPlan;

/// The columns of all figures, and how their intervals are made.
#[derive(Clone, Debug)]
pub struct Outline {
    /// An encoder's quantity each.
    pub columns: Vec<Column>,
    /// Shares of likeness to the photos in the reward.
    pub lambda: Vec<f64>,
    /// How intervals are made.
    pub bootstrap: Bootstrap,
}

impl Outline {
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

    fn prompts(&self, plan: &EvalPlan, rows: &[Vec<f64>]) -> Value {
        let prompt = |(prompt, row): (&String, &Vec<f64>)| json!({"prompt": prompt, "figures": self.row(row)});
        plan.prompts.iter().zip(rows).map(prompt).collect()
    }

    /// All that decides the images, in words.
    fn protocol(&self, plan: &EvalPlan, size: (u32, u32)) -> Value {
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
            "lambda": self.lambda,
            "scores": "clip_i, clip_t, dino: raw cosines; similarities: (cosine + 1) / 2; harmonic_L: reward of an \
                       image at lambda L; mean over images, then prompts; prompts without the token; div: 1 - cosine between images of a prompt; pres, class_clip_t, \
                       class_drift: images of the class word alone, beside photos, prompt, and the untuned model's from the same \
                       noise; class_kept: 1 - (pres - untuned) / (1 - untuned), between 0 and 1; hypervolume: clip_i x clip_t x \
                       class_kept",
        })
    }

    /// Everything about one model.
    pub(super) fn model_report(&self, judged: &JudgedModel) -> Value {
        let plan = &judged.plan;
        let manifest = &plan.manifest;
        let encoders: Map<String, Value> = judged
            .encoders
            .iter()
            .map(|(role, report)| (role.clone(), json!(report)))
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
            "base_model": name_model(&manifest.base_model),
            "base_unet_sha256": manifest.base_unet_sha256,
            "weights_sha256": plan.weights_sha256,
            "status": manifest.record.status,
            "objective": plan.config.objective.kind,
            "seed": plan.config.run.seed,
            "step": plan.weights_step(),
            "best_step": manifest.record.best.map(|(step, _)| step),
            "protocol": self.protocol(plan, judged.size),
            "seen_prompts": judged.seen_prompts,
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
    pub fn above_oracle(&self, judged: &JudgedModel) -> impl Iterator<Item = &Column> {
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
        models: &[JudgedModel],
        groups: &[Group],
        counts: Counts,
        seconds: f64,
    ) -> Value {
        let runs = models.iter().map(|judged| self.model_report(judged));
        let group = |group: &Group| {
            json!({
                "title": group.title,
                "runs": group.runs,
                "step": group.step,
                "subjects": group.subjects,
                "bootstrap": self.bootstrap(group.estimates.over),
                "mean": self.mean(&group.estimates.tuned),
                "interval": self.interval(&group.estimates.tuned),
                "base": self.summary(group.estimates.base.as_ref()),
                "gain": self.summary(group.estimates.gain.as_ref()),
            })
        };
        json!({
            "groups": groups.iter().map(group).collect::<Vec<_>>(),
            "counts": counts,
            "seconds": seconds,
            "runs": runs.collect::<Vec<_>>(),
        })
    }
}
