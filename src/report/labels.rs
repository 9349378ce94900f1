//! Preference labels: what the manifest says that they are worth.

use serde::Serialize;
use serde_json::Value;

use super::plot::{self, Bar, Ink};
use super::read::Run;
use super::words;
use crate::error::{Error, Result};

/// Keys of the figures of labels, their names, and `true` if they are shares.
const NAMES: &[(&str, &str, bool)] = &[
    ("pairs", "Pairs", false),
    (
        "mean_probability",
        "Mean probability that the photo is preferred",
        false,
    ),
    (
        "mean_entropy_bits",
        "Mean entropy in bits (1 is a coin)",
        false,
    ),
    ("coin_flips", "Coin flips (within .02 of one half)", true),
    ("mean_gap", "Mean reward of photo less generated", false),
    ("gap_deviation", "Its standard deviation", false),
];

/// Labels of one run.
#[derive(Serialize)]
pub(super) struct Labels {
    run: String,
    figures: Vec<(String, String)>,
    histograms: Vec<Histogram>,
}

impl Labels {
    /// The histograms as files of their own, by name.
    pub(super) fn alone(&self) -> Vec<(String, String)> {
        let drawing = |histogram: &Histogram| {
            let svg = plot::alone(&histogram.svg, plot::size(), &histogram.title, &[]);
            (format!("labels {}", self.run), svg)
        };
        self.histograms.iter().map(drawing).collect()
    }
}

#[derive(Serialize)]
struct Histogram {
    title: String,
    svg: String,
}

/// Of each run that has any.
pub(super) fn labels(runs: &[Run]) -> Result<Vec<Labels>> {
    let mut found = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let Some(map) = run.manifest["labels"].as_object() else {
            continue;
        };
        let mut labels = Labels {
            run: run.name.clone(),
            figures: Vec::new(),
            histograms: Vec::new(),
        };
        for (key, value) in map {
            if let Some(bars) = bars(value) {
                let title = match key.as_str() {
                    "histogram" => "Pairs by reward of photo less generated".to_owned(),
                    key => words::sentence_case(key),
                };
                let svg = plot::bars(&bars, Ink::Run(index), &title).map_err(|error| {
                    let file = run.path.join("manifest.json");
                    Error::data(file, format!("`labels.{key}` cannot be drawn: {error}"))
                })?;
                labels.histograms.push(Histogram { title, svg });
            } else if let Some(figure) = figure(key, value) {
                labels.figures.push(figure);
            }
        }
        found.push(labels);
    }
    Ok(found)
}

fn figure(key: &str, value: &Value) -> Option<(String, String)> {
    let known = NAMES.iter().find(|(name, _, _)| *name == key);
    let share = known.is_some_and(|(_, _, share)| *share);
    let text = match value.as_f64() {
        Some(value) if share => format!("{:.0} %", 100.0 * value),
        Some(value) if value.fract() != 0.0 => words::score(value),
        _ => words::scalar(value)?,
    };
    let name = known.map_or_else(
        || words::sentence_case(key),
        |(_, name, _)| (*name).to_owned(),
    );
    Some((name, text))
}

/// A list of `{from, to, count}` as bars.
fn bars(value: &Value) -> Option<Vec<Bar>> {
    let bars = value.as_array().filter(|bars| !bars.is_empty())?;
    bars.iter()
        .map(|bar| {
            let end = |key: &str| bar[key].as_f64();
            Some((end("from")?, end("to")?, end("count")?))
        })
        .collect()
}
