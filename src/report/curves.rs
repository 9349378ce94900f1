//! The curves of `metrics.jsonl`, whatever metrics it holds: a panel for each, the runs over one another.

use serde::Serialize;

use super::plot::{self, Ink, Line, Mark, Plot};
use super::read::Run;
use super::words;
use crate::error::{Error, Result};

/// Rows from which on a line is smoothed; fewer are each worth seeing.
const SMOOTHED_FROM: usize = 24;
/// A line is noisy if its way up and down is longer than this many times its range.
const NOISY: f64 = 3.0;
/// Rows by windows of the moving average.
const WINDOWS: usize = 10;
/// Points of a line at most: more than a panel has pixels only makes the page larger.
const MOST_POINTS: usize = 600;

/// The panels of one kind of row.
#[derive(Serialize)]
pub(super) struct Group {
    title: String,
    note: String,
    panels: Vec<Panel>,
    /// Metrics that never change, with their values.
    constant: Vec<(String, String)>,
    /// Metrics whose curve is that of another, or that one upside down: what they are, in words.
    same: Vec<(String, String)>,
}

impl Group {
    /// Its drawings as files of their own, by name; `runs` are the names of the lines where there are several.
    pub(super) fn alone(&self, runs: &[(usize, &str)]) -> Vec<(String, String)> {
        let drawing = |panel: &Panel| {
            let title = format!("{}: {}", self.title, panel.title.to_lowercase());
            let svg = plot::alone(&panel.svg, plot::size(), &title, runs);
            (format!("{} {}", self.title, panel.key), svg)
        };
        self.panels.iter().map(drawing).collect()
    }
}

/// One metric.
#[derive(Serialize)]
struct Panel {
    /// The metric's name in the file.
    key: String,
    title: String,
    note: String,
    svg: String,
}

/// A height worth knowing in a panel, such as what the best possible model would reach.
pub(super) struct Level {
    pub(super) kind: &'static str,
    pub(super) name: &'static str,
    pub(super) at: f64,
    pub(super) word: &'static str,
}

/// All panels: validation first, for it says what was gained.
pub(super) fn groups(runs: &[Run], levels: &[Level]) -> Result<Vec<Group>> {
    let mut kinds: Vec<&str> = Vec::new();
    for series in runs.iter().flat_map(|run| &run.series) {
        if !kinds.contains(&series.kind.as_str()) {
            kinds.push(&series.kind);
        }
    }
    kinds.sort_by_key(|kind| *kind != "validation");
    let groups = kinds
        .into_iter()
        .map(|kind| group(runs, kind, levels))
        .collect::<Result<Vec<Group>>>()?;
    let worth = |group: &Group| !group.panels.is_empty() || !group.constant.is_empty();
    Ok(groups.into_iter().filter(worth).collect())
}

fn group(runs: &[Run], kind: &str, levels: &[Level]) -> Result<Group> {
    let mut names: Vec<&str> = Vec::new();
    for series in runs.iter().flat_map(|run| &run.series) {
        if series.kind == kind && !names.contains(&series.name.as_str()) {
            names.push(&series.name);
        }
    }
    let (mut panels, mut constant, mut same) = (Vec::new(), Vec::new(), Vec::new());
    let mut drawn: Vec<&str> = Vec::new();
    let mut smooth = false;
    for name in names {
        let (title, note) = words::metric(name);
        if let Some(value) = never_changes(runs, kind, name) {
            constant.push((title, words::number(value)));
            continue;
        }
        if let Some((known, sign)) = drawn
            .iter()
            .find_map(|known| Some((known, likeness(runs, kind, known, name)?)))
        {
            let known = words::metric(known).0.to_lowercase();
            same.push((title, format!("{sign}{known}")));
            continue;
        }
        drawn.push(name);
        let (mut lines, mut last) = (Vec::new(), 1);
        for (index, run) in runs.iter().enumerate() {
            let points = run.points(kind, name);
            if !points.is_empty() {
                // All panels of a run have the same axis, so that they can be read one under the other.
                last = last.max(run.last_step.unwrap_or_default());
            }
            let of_run = lines_of(points, index);
            smooth |= of_run.len() > 1;
            lines.extend(of_run);
        }
        let marks = marks(runs, kind, name, levels);
        let x = (0.0, last as f64);
        let plot = Plot { lines, marks, x };
        let svg = plot.svg(&title).map_err(|error| {
            let file = runs[0].path.join("metrics.jsonl");
            Error::data(file, format!("`{name}` cannot be drawn: {error}"))
        })?;
        panels.push(Panel {
            key: name.to_owned(),
            title,
            note,
            svg,
        });
    }
    let note = if smooth {
        "Bold: moving average over a tenth of the rows. Faint: every row.".to_owned()
    } else {
        String::new()
    };
    Ok(Group {
        title: match kind {
            "train" => "Training".to_owned(),
            kind => words::sentence_case(kind),
        },
        note,
        panels,
        constant,
        same,
    })
}

/// The word before the name of `known`, which says that `other` has its points in every run, or these with the opposite
/// sign; `None` where it has other points.
fn likeness(runs: &[Run], kind: &str, known: &str, other: &str) -> Option<&'static str> {
    let with = |sign: f64| {
        runs.iter().all(|run| {
            let (known, other) = (run.points(kind, known), run.points(kind, other));
            let same = |(one, two): (&(f64, f64), &(f64, f64))| {
                one.0.total_cmp(&two.0).is_eq()
                    && (one.1 - sign * two.1).abs() <= f64::EPSILON * one.1.abs()
            };
            known.len() == other.len() && known.iter().zip(other).all(same)
        })
    };
    if with(1.0) {
        Some("")
    } else if with(-1.0) {
        Some("minus ")
    } else {
        None
    }
}

/// The value of a metric that has more than one row and always the same value, in all runs.
fn never_changes(runs: &[Run], kind: &str, name: &str) -> Option<f64> {
    let points = runs.iter().flat_map(|run| run.points(kind, name));
    let mut values: Vec<f64> = points.map(|point| point.1).collect();
    let several = values.len() > 1;
    values.dedup();
    (several && values.len() == 1).then(|| values[0])
}

/// A line with a mark at each point; where there are many points a plain one, or where they are noisy a smooth one over
/// a faint one.
fn lines_of(points: &[(f64, f64)], run: usize) -> Vec<Line> {
    let line = |points: Vec<(f64, f64)>, faint: bool, dots: bool| Line {
        points,
        ink: Ink::Run(run),
        faint,
        dots,
    };
    if points.len() < SMOOTHED_FROM {
        return vec![line(points.to_vec(), false, true)];
    }
    if !is_noisy(points) {
        return vec![line(extremes(points), false, false)];
    }
    let smooth = moving_average(points, points.len() / WINDOWS);
    let every = smooth.len().div_ceil(MOST_POINTS);
    let last = smooth.last().copied();
    let thinned = smooth.into_iter().step_by(every).chain(last).collect();
    vec![
        line(extremes(points), true, false),
        line(thinned, false, false),
    ]
}

/// `true` if a line goes up and down more than a few times its range: a schedule does not, a loss does.
fn is_noisy(points: &[(f64, f64)]) -> bool {
    let values = points.iter().map(|point| point.1);
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let greatest = values.fold(f64::NEG_INFINITY, f64::max);
    let steps = points.windows(2).map(|pair| (pair[1].1 - pair[0].1).abs());
    steps.sum::<f64>() > NOISY * (greatest - least)
}

/// Means over `window` points around each, fewer at the ends.
fn moving_average(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    let half = window / 2;
    let mut sums = vec![0.0];
    for (_, value) in points {
        sums.push(sums[sums.len() - 1] + value);
    }
    let mean = |(index, point): (usize, &(f64, f64))| {
        let from = index.saturating_sub(half);
        let to = (index + half + 1).min(points.len());
        (point.0, (sums[to] - sums[from]) / (to - from) as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

/// The points, or where there are too many the least and the greatest of each stretch, in their order.
fn extremes(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let stretch = |points: &[(f64, f64)]| {
        let by_value = |one: &&(f64, f64), two: &&(f64, f64)| one.1.total_cmp(&two.1);
        let least = points.iter().min_by(by_value).copied();
        let greatest = points.iter().max_by(by_value).copied();
        let mut pair: Vec<(f64, f64)> = least.into_iter().chain(greatest).collect();
        pair.sort_by(|one, two| one.0.total_cmp(&two.0));
        pair
    };
    points
        .chunks(points.len().div_ceil(MOST_POINTS / 2))
        .flat_map(stretch)
        .collect()
}

/// The best weights' point in every panel of the metrics that they were chosen among; of a single run also the steps
/// of its best and its early end, which several would clutter.
fn marks(runs: &[Run], kind: &str, name: &str, levels: &[Level]) -> Vec<Mark> {
    let mut marks = Vec::new();
    let levels = levels.iter();
    for level in levels.filter(|level| level.kind == kind && level.name == name) {
        marks.push(Mark::Level {
            at: level.at,
            word: level.word.to_owned(),
        });
    }
    if kind != "validation" {
        return marks;
    }
    for (index, run) in runs.iter().enumerate() {
        let best = run.best().map(|best| best.step);
        if let Some((step, value)) = best.and_then(|step| Some((step, run.at(kind, name, step)?))) {
            marks.push(Mark::Point {
                at: (step as f64, value),
                ink: Ink::Run(index),
            });
        }
    }
    if let [run] = runs {
        if let Some(best) = run.best() {
            marks.push(Mark::Step {
                at: best.step as f64,
                word: format!("best: {}", words::number(best.step as f64)),
            });
        }
        if run.manifest["stopped_early"] == true
            && let Some(step) = run.steps()
        {
            marks.push(Mark::Step {
                at: step as f64,
                word: "stopped early".to_owned(),
            });
        }
    }
    marks
}
