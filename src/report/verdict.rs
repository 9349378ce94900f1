//! The outcome of a run, in plain words.

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;

use super::read::{Alarm, Best, Run};
use super::{image, words};

/// Kinds of alarms of a run shown at most.
const ALARMS: usize = 12;

/// A run's head of the page.
#[derive(Serialize)]
pub(super) struct Verdict {
    pub(super) run: String,
    /// Number of its colour.
    pub(super) colour: usize,
    pub(super) path: String,
    /// The name of its steps.
    unit: &'static str,
    /// Sentences: the tuned model, the gain, the end.
    sentences: Vec<String>,
    /// Unfinished or damaged parts of it.
    unfinished: Vec<String>,
    figures: Vec<Figure>,
    /// One for each kind.
    alarms: Vec<Alarming>,
    more_alarms: usize,
}

/// A number to see at a glance.
#[derive(Serialize)]
struct Figure {
    name: String,
    value: String,
    note: String,
}

/// Alarms that differ in their figures alone.
#[derive(Serialize)]
struct Alarming {
    /// The step of the first, and of the last where there are more.
    step: String,
    count: usize,
    during: String,
    /// The last one's.
    message: String,
}

/// The verdict on the run with number `index` on the page.
pub(super) fn verdict(run: &Run, index: usize) -> Verdict {
    let sentences = [what(run), gain(run), likeness(run), end(run)];
    let mut alarms = alarms_by_kind(&run.alarms);
    let more_alarms = alarms.len().saturating_sub(ALARMS);
    alarms.truncate(ALARMS);
    Verdict {
        run: run.name.clone(),
        colour: index % super::plot::RUN_COLOURS + 1,
        path: words::path(&run.path),
        unit: run.unit(),
        sentences: sentences.into_iter().flatten().collect(),
        unfinished: unfinished(run),
        figures: figures(run),
        alarms,
        more_alarms,
    }
}

/// Alarms of one kind together, kinds in the order of their first: a run that explodes has one at every step.
fn alarms_by_kind(alarms: &[Alarm]) -> Vec<Alarming> {
    let mut kinds: IndexMap<(&str, String), Vec<&Alarm>> = IndexMap::new();
    for alarm in alarms {
        let kind = (
            alarm.during.as_str(),
            words::without_numbers(&alarm.message),
        );
        kinds.entry(kind).or_default().push(alarm);
    }
    let together = |of_kind: Vec<&Alarm>| {
        let [first, .., last] = of_kind.as_slice() else {
            return alarming(of_kind[0], None);
        };
        Alarming {
            count: of_kind.len(),
            ..alarming(last, first.step)
        }
    };
    kinds.into_values().map(together).collect()
}

fn alarming(alarm: &Alarm, since: Option<u64>) -> Alarming {
    let steps = since.into_iter().chain(alarm.step);
    let steps: Vec<String> = steps.map(|step| words::number(step as f64)).collect();
    Alarming {
        step: steps.join(" to "),
        count: 1,
        during: alarm.during.clone(),
        message: words::without_paths(&alarm.message),
    }
}

fn what(run: &Run) -> Option<String> {
    image::sentence(run).or_else(|| {
        let text = |value: &Value| value.as_str().map(words::without_paths);
        let (manifest, config) = (&run.manifest, &run.config);
        let model = text(&manifest["template"])
            .or_else(|| text(&manifest["base_model"]))
            .or_else(|| text(&config["model"]["base"]))?;
        Some(match text(&manifest["part"]) {
            Some(part) => format!(
                "The {} of {model} was trained from scratch.",
                part.replace("unet", "U-Net").replace("vae", "VAE")
            ),
            None => format!("A run on {model}."),
        })
    })
}

/// The reward before and after; of a run without one, where its first metric went.
fn gain(run: &Run) -> Option<String> {
    if let (Some(best), Some(untuned)) = (run.best(), untuned(run)) {
        return Some(reward(run, best, untuned));
    }
    let mut series = run.series.iter();
    let validated = series.find(|series| series.kind == "validation");
    let series = validated.or(run.series.first())?;
    let (first, last) = (series.points.first()?.1, series.points.last()?.1);
    let (title, _) = words::metric(&series.name);
    let kind = match series.kind.as_str() {
        "train" => "training",
        kind => kind,
    };
    Some(format!(
        "{} {} {}.",
        words::sentence_case(kind),
        title.to_lowercase(),
        words::change(first, last, words::number)
    ))
}

/// What the first validation is of: a run that goes on from tuned weights does not begin with the untuned model.
fn before_the_first(run: &Run) -> &'static str {
    if run.config["adapter"]["start"].is_string() {
        "at the start"
    } else {
        "untuned"
    }
}

fn reward(run: &Run, best: Best, untuned: f64) -> String {
    let (name, before) = match image::subject(run) {
        Some(_) => ("Its reward on held-out prompts", before_the_first(run)),
        None if run.unit() == "round" => {
            ("Its reward on held-out prompts", "before the first round")
        }
        None => ("Its validation reward", "before the first step"),
    };
    let unit = run.unit();
    let validations = run.points("validation", "reward").len();
    let untuned = words::score(untuned);
    if best.step > 0 && words::score(best.value) == untuned {
        return format!(
            "{name} did not change: {untuned} {before}, and {} at the best of {}, at {unit} {}.",
            words::score(best.value),
            words::count(validations, "validation"),
            words::number(best.step as f64),
        );
    }
    if best.step > 0 {
        let so_far = if run.status() == "finished" {
            ""
        } else {
            " so far"
        };
        return format!(
            "{name} rose from {untuned} ({before}) to {} at {unit} {}, the best of {}{so_far}.",
            words::score(best.value),
            words::number(best.step as f64),
            words::count(validations, "validation"),
        );
    }
    match validations.saturating_sub(1) {
        0 => format!("{name} is {untuned} {before}."),
        others => format!(
            "{name} was {untuned} {before}, and none of {} reached that.",
            words::count(others, "later validation")
        ),
    }
}

fn untuned(run: &Run) -> Option<f64> {
    let written = run.manifest["untuned_reward"].as_f64();
    written.or_else(|| run.at("validation", "reward", 0))
}

/// The two sides of the reward at the best step, one of which usually pays for the other.
fn likeness(run: &Run) -> Option<String> {
    let best = run.best().filter(|best| best.step > 0)?;
    let change = |name: &str| {
        let (_, before) = run.points("validation", name).first()?;
        Some((*before, run.at("validation", name, best.step)?))
    };
    let (image, text) = (change("image_similarity")?, change("text_similarity")?);
    let oracle = run.manifest["oracle_image_similarity"].as_f64();
    let oracle =
        oracle.map(|value| format!(" (the photos among themselves: {})", words::score(value)));
    Some(format!(
        "Likeness to the photos {}{}, agreement with the prompts {}.",
        words::change(image.0, image.1, words::score),
        oracle.unwrap_or_default(),
        words::change(text.0, text.1, words::score),
    ))
}

fn end(run: &Run) -> Option<String> {
    if run.status() != "finished" {
        return None;
    }
    let unit = run.unit();
    let steps = words::number(run.steps()? as f64);
    Some(match run.planned_steps() {
        Some(planned) if run.manifest["stopped_early"] == true => {
            format!(
                "Patience ended it at {unit} {steps} of {}.",
                words::number(planned as f64)
            )
        }
        _ => match run.steps()? {
            1 => format!("Its one {unit} was made."),
            _ => format!("All {steps} {unit}s were made."),
        },
    })
}

fn unfinished(run: &Run) -> Vec<String> {
    let step = run.steps().map(|step| words::number(step as f64));
    let of = run
        .planned_steps()
        .map(|planned| format!(" of {}", words::number(planned as f64)));
    let at = match &step {
        Some(step) => format!("at {} {step}{}", run.unit(), of.unwrap_or_default()),
        None => format!("before its first {}", run.unit()),
    };
    let mut lines = Vec::new();
    match run.status() {
        "finished" => {}
        "interrupted" => lines.push(format!("The run was interrupted {at}; preftune train with --resume continues it.")),
        "failed" => lines.push(format!("The run failed {at}.")),
        "running" => lines.push(format!("The run has not ended: it is at work or was killed {at}. What it has written so far is shown.")),
        "" => lines.push(format!("The run has no manifest: it was killed or is still starting, {at}.")),
        other => lines.push(format!("The run is {other}, {at}.")),
    }
    if run.best().is_none() && run.status() != "finished" {
        lines.push("It has no best weights yet.".to_owned());
    }
    if run.cut {
        lines.push("The last line of metrics.jsonl is cut off and was left out.".to_owned());
    }
    lines
}

fn figures(run: &Run) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut put = |name: &str, value: String, note: String| {
        figures.push(Figure {
            name: name.to_owned(),
            value,
            note,
        });
    };
    if let (Some(best), Some(untuned)) = (run.best(), untuned(run)) {
        let from = format!("from {}", words::score(untuned));
        put("reward", words::score(best.value), from);
        put(
            &format!("best {}", run.unit()),
            words::number(best.step as f64),
            String::new(),
        );
    }
    if let Some(steps) = run.steps() {
        let note = run
            .planned_steps()
            .map(|planned| format!("of {}", words::number(planned as f64)));
        put(
            &format!("{}s", run.unit()),
            words::number(steps as f64),
            note.unwrap_or_default(),
        );
    }
    let seconds: f64 = run.manifest["seconds"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, value)| value.as_f64())
        .sum();
    if seconds > 0.0 {
        let device = run.manifest["device"]
            .as_str()
            .unwrap_or_default()
            .to_uppercase();
        put("time", words::duration(seconds), device);
    }
    figures
}
