//! A run's files. Nothing here knows the task of the run: every number of `metrics.jsonl` becomes a series,
//! and the manifest, the configuration and the evaluation stay JSON, so that a report outlives changes to them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::read_text_if_there;
use crate::run::evaluation::METRICS_FILE;

/// Fields that every row of `metrics.jsonl` holds beside its metrics.
const NOT_METRICS: [&str; 2] = ["step", "seconds"];
/// Kind of the rows that say what went wrong.
const ALARM: &str = "alarm";

/// The files of one run.
pub(super) struct Run {
    pub(super) path: PathBuf,
    /// The folder's name, or its whole path where two runs share the name.
    pub(super) name: String,
    /// `config.toml` as it was written; empty where there is none.
    pub(super) config_text: String,
    pub(super) config: Value,
    pub(super) manifest: Value,
    pub(super) evaluations: Vec<Evaluation>,
    /// In the order in which they first appear.
    pub(super) series: Vec<Series>,
    pub(super) alarms: Vec<Alarm>,
    /// `true` if the last line of `metrics.jsonl` is not whole, as a kill leaves it.
    pub(super) cut: bool,
    /// The largest step of any row.
    pub(super) last_step: Option<u64>,
}

/// The figures of one protocol of `preftune eval`.
pub(super) struct Evaluation {
    /// The folder of its file below `eval`; empty for `eval` itself.
    pub(super) name: String,
    pub(super) figures: Value,
}

/// One metric over the steps.
pub(super) struct Series {
    /// `train`, `validation`, or what else the rows call themselves.
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A row of kind `alarm`.
pub(super) struct Alarm {
    pub(super) step: Option<u64>,
    pub(super) during: String,
    pub(super) message: String,
}

/// The weights that were kept.
#[derive(Clone, Copy)]
pub(super) struct Best {
    pub(super) step: u64,
    pub(super) value: f64,
}

impl Run {
    /// Reads what there is; each file may be missing, but not all of them.
    ///
    /// # Errors
    /// Not a run's folder, or a file in it that is not what its name says.
    pub(super) fn read(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Err(Error::data(path, "no such folder")
                .with_hint("give the `run.output` of a `preftune train`"));
        }
        let text = |name: &str| read_text_if_there(&path.join(name));
        let (config, manifest) = (text("config.toml")?, text("manifest.json")?);
        let metrics = text("metrics.jsonl")?;
        if config.is_none() && manifest.is_none() && metrics.is_none() {
            return Err(not_a_run(path));
        }
        let config_text = config.unwrap_or_default();
        let mut run = Self {
            path: path.to_owned(),
            name: super::words::path(path),
            config: toml::from_str(&config_text).map_err(|error: toml::de::Error| {
                Error::data(path.join("config.toml"), error.message())
            })?,
            config_text,
            manifest: json(manifest, &path.join("manifest.json"))?,
            evaluations: evaluations(&path.join("eval"))?,
            series: Vec::new(),
            alarms: Vec::new(),
            cut: false,
            last_step: None,
        };
        run.take_rows(&metrics.unwrap_or_default())?;
        Ok(run)
    }

    fn take_rows(&mut self, text: &str) -> Result<()> {
        self.cut = !text.is_empty() && !text.ends_with('\n');
        let count = text.lines().count();
        for (index, line) in text.lines().enumerate() {
            match serde_json::from_str(line) {
                Ok(row) => self.take_row(&row),
                Err(_) if self.cut && index + 1 == count => {}
                Err(error) => {
                    let path = self.path.join("metrics.jsonl");
                    let message = format!("not a row of metrics: {error}");
                    return Err(Error::data_line(path, index + 1, message));
                }
            }
        }
        Ok(())
    }

    fn take_row(&mut self, row: &Map<String, Value>) {
        let text = |key: &str| {
            let text = row.get(key).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let step = row.get("step").and_then(Value::as_u64);
        self.last_step = self.last_step.max(step);
        let kind = text("kind");
        if kind == ALARM {
            self.alarms.push(Alarm {
                step,
                during: text("during"),
                message: text("message"),
            });
            return;
        }
        let Some(step) = step else { return };
        for (name, value) in row {
            let Some(value) = value.as_f64() else {
                continue;
            };
            if !NOT_METRICS.contains(&name.as_str()) {
                self.point(&kind, name, (step as f64, value));
            }
        }
    }

    fn point(&mut self, kind: &str, name: &str, point: (f64, f64)) {
        let mut all = self.series.iter_mut();
        match all.find(|series| series.kind == kind && series.name == name) {
            Some(series) => series.points.push(point),
            None => self.series.push(Series {
                kind: kind.to_owned(),
                name: name.to_owned(),
                points: vec![point],
            }),
        }
    }

    /// The points of a metric; none where the run has no such metric.
    pub(super) fn points(&self, kind: &str, name: &str) -> &[(f64, f64)] {
        let mut all = self.series.iter();
        all.find(|series| series.kind == kind && series.name == name)
            .map_or(&[], |series| &series.points)
    }

    /// The value of a metric at a step.
    pub(super) fn at(&self, kind: &str, name: &str, step: u64) -> Option<f64> {
        let mut points = self.points(kind, name).iter();
        points
            .find(|point| point.0 as u64 == step)
            .map(|point| point.1)
    }

    /// `finished`, `running`, `interrupted`, `failed`; empty without a manifest.
    pub(super) fn status(&self) -> &str {
        self.manifest["status"].as_str().unwrap_or_default()
    }

    /// Steps that the configuration asks for; where there are rounds, these are the steps.
    pub(super) fn planned_steps(&self) -> Option<u64> {
        let rounds = self.config["rounds"]["count"].as_u64();
        rounds.or(self.config["train"]["steps"].as_u64())
    }

    /// The unit that the numbers of its rows count.
    pub(super) fn unit(&self) -> &'static str {
        if self.config["rounds"].is_object() {
            "round"
        } else {
            "step"
        }
    }

    /// Steps made: the manifest knows it of a run that has ended, the rows of any other.
    pub(super) fn steps(&self) -> Option<u64> {
        let ended = self.manifest["steps"].as_u64().filter(|steps| *steps > 0);
        ended.or(self.last_step)
    }

    /// The best weights: what the manifest says, or of a run without an end the best validation reward so far.
    pub(super) fn best(&self) -> Option<Best> {
        let best = &self.manifest["best"];
        let written = || {
            Some(Best {
                step: best[0].as_u64()?,
                value: best[1].as_f64()?,
            })
        };
        written().or_else(|| {
            let rewards = self.points("validation", "reward").iter();
            let best = rewards.fold(None, |best: Option<(f64, f64)>, &(step, value)| {
                best.filter(|best| best.1 >= value).or(Some((step, value)))
            });
            best.map(|(step, value)| Best {
                step: step as u64,
                value,
            })
        })
    }
}

/// Gives each run the name of its folder, or its path where that is not one run's alone.
pub(super) fn name(runs: &mut [Run]) {
    let folder = |run: &Run| {
        let whole = run.path.canonicalize().unwrap_or_else(|_| run.path.clone());
        whole
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let names: Vec<Option<String>> = runs.iter().map(folder).collect();
    for (run, name) in runs.iter_mut().zip(&names) {
        if let Some(name) = name
            && names
                .iter()
                .filter(|other| other.as_ref() == Some(name))
                .count()
                == 1
        {
            run.name.clone_from(name);
        }
    }
}

/// The figures in `eval` and in the folders in it.
fn evaluations(folder: &Path) -> Result<Vec<Evaluation>> {
    let mut folders: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    folders.sort();
    folders.insert(0, folder.to_owned());
    let mut found = Vec::new();
    for place in folders.iter().filter(|place| place.is_dir()) {
        let file = place.join(METRICS_FILE);
        if let Some(text) = read_text_if_there(&file)? {
            let below = place.strip_prefix(folder).unwrap_or(place);
            found.push(Evaluation {
                name: below.to_string_lossy().into_owned(),
                figures: json(Some(text), &file)?,
            });
        }
    }
    Ok(found)
}

fn json(text: Option<String>, path: &Path) -> Result<Value> {
    let Some(text) = text else {
        return Ok(Value::Null);
    };
    serde_json::from_str(&text).map_err(|error| Error::data(path, format!("not JSON: {error}")))
}

fn not_a_run(path: &Path) -> Error {
    let is_run = |path: &Path| path.join("config.toml").is_file();
    let mut below: Vec<PathBuf> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| is_run(path))
        .collect();
    below.sort();
    let error = Error::data(
        path,
        "not a run folder: no `config.toml`, `manifest.json` or `metrics.jsonl` in it",
    );
    match below.first() {
        Some(run) => error.with_hint(format!(
            "it holds runs; name those to report, as in `preftune report {}`",
            run.display()
        )),
        None => error.with_hint("give the `run.output` of a `preftune train`"),
    }
}
