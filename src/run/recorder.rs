//! Takes the trainer's events and writes them down: `metrics.jsonl`, TensorBoard events, samples, checkpoints.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::checkpoint::{self, BestWeights};
use super::evaluation::ANSWERS_FILE;
use super::folder::require;
use super::tfevents::EventWriter;
use crate::data::png;
use crate::error::{Error, Result};
use crate::files::{read_text_if_there, write_atomically};
use crate::trainer::event::{Event, Metrics, Observer, Progress, Snapshot, Validation};

/// Images of a validation that go into TensorBoard's events, which hold them a second time.
const EVENT_IMAGES: usize = 8;

/// Shows people what is done; the command line brings one.
pub trait Display {
    /// An event of the training.
    fn show(&mut self, event: &Event);

    /// A line worth reading.
    fn say(&mut self, line: &str);

    /// Warnings, to be known before numbers are believed; shown even where little is.
    fn warn(&mut self, warning: &str) {
        self.say(&format!("warning: {warning}"));
    }

    /// `done` of `total` units of a phase.
    fn advance(&mut self, phase: &'static str, done: u64, total: u64);
}

/// The folder of what a validation drew or wrote.
pub fn samples_at(run: &Path, step: u64) -> PathBuf {
    run.join("samples").join(format!("step-{step:06}"))
}

/// Steps at whose validation something was drawn or written, in no order.
pub fn sampled_steps(run: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(run.join("samples")).into_iter().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_prefix("step-")?.parse().ok()
        })
        .collect()
}

/// Name of the file of a validation's image of this number, in the folder of [`samples_at`].
pub fn sample_file(index: usize) -> String {
    format!("{index:03}.png")
}

/// Writes a run down.
pub struct Recorder<'a> {
    run: &'a Path,
    best: BestWeights,
    keep: usize,
    events: EventWriter,
    started: Instant,
    display: &'a mut dyn Display,
    interrupted: &'a dyn Fn() -> bool,
}

impl<'a> Recorder<'a> {
    /// A recorder for a run that continues from `progress`: later rows of an interrupted attempt are dropped.
    pub fn new(
        run: &'a Path,
        progress: &Progress,
        best: BestWeights,
        keep: usize,
        display: &'a mut dyn Display,
        interrupted: &'a dyn Fn() -> bool,
    ) -> Result<Self> {
        cut_metrics(&run.join("metrics.jsonl"), progress)?;
        let events = EventWriter::create(run)?;
        Ok(Self {
            run,
            best,
            keep,
            events,
            started: Instant::now(),
            display,
            interrupted,
        })
    }

    fn row(&mut self, kind: &str, step: u64, metrics: &Metrics) -> Result<()> {
        let mut row = Map::new();
        row.insert("kind".to_owned(), json!(kind));
        row.insert("step".to_owned(), json!(step));
        for (name, value) in metrics {
            row.insert(name.clone(), json!(value));
            self.events
                .scalar(step, &format!("{kind}/{name}"), *value)?;
        }
        self.append(row)
    }

    fn append(&self, mut row: Map<String, Value>) -> Result<()> {
        row.insert(
            "seconds".to_owned(),
            json!(self.started.elapsed().as_secs_f64()),
        );
        let path = self.run.join("metrics.jsonl");
        let mut line = Value::Object(row).to_string();
        line.push('\n');
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .map_err(|source| Error::io("write", &path, source))
    }

    fn samples(&mut self, step: u64, validation: &Validation) -> Result<()> {
        if validation.samples.is_empty() && validation.answers.is_empty() {
            return Ok(());
        }
        let folder = samples_at(self.run, step);
        fs::create_dir_all(&folder).map_err(|source| Error::io("create", &folder, source))?;
        if !validation.answers.is_empty() {
            let rows = validation.answers.iter();
            let rows: Vec<String> = rows.map(|answer| answer.to_row().to_string()).collect();
            let text = rows.join("\n") + "\n";
            write_atomically(&folder.join(ANSWERS_FILE), text.as_bytes())?;
        }
        for (index, sample) in validation.samples.iter().enumerate() {
            let text = [
                ("prompt", sample.prompt.clone()),
                ("seed", sample.seed.to_string()),
            ];
            let path = folder.join(sample_file(index));
            png::write(&path, &sample.image, &text)?;
            if index < EVENT_IMAGES {
                let png = fs::read(&path).map_err(|source| Error::io("read", &path, source))?;
                let tag = format!("validation/{index:03} {}", sample.prompt);
                let size = sample.image.dimensions();
                self.events.image(step, &tag, size, &png)?;
            }
        }
        Ok(())
    }
}

impl Observer for Recorder<'_> {
    fn interrupted(&self) -> bool {
        (self.interrupted)()
    }

    fn event(&mut self, event: &Event) -> Result<()> {
        if !matches!(event, Event::Progress { .. }) {
            require(self.run)?;
        }
        match event {
            Event::Progress { .. } | Event::Finished { .. } => {}
            Event::Step { step, metrics } => self.row("train", *step, metrics)?,
            Event::Validated {
                step, validation, ..
            } => {
                self.samples(*step, validation)?;
                self.row("validation", *step, &validation.metrics)?;
            }
            Event::Alarm {
                step,
                during,
                message,
            } => {
                let row =
                    json!({"kind": "alarm", "step": step, "during": during, "message": message});
                self.append(row.as_object().cloned().unwrap_or_default())?;
            }
        }
        self.display.show(event);
        Ok(())
    }

    fn checkpoint(&mut self, snapshot: &Snapshot) -> Result<PathBuf> {
        require(self.run)?;
        checkpoint::store(self.run, snapshot, self.keep)
    }

    fn best(&mut self, snapshot: &Snapshot) -> Result<()> {
        require(self.run)?;
        self.best.store(self.run, snapshot)
    }
}

/// Keeps the rows that a run had written by the time of the checkpoint with this progress.
///
/// At the checkpoint's own step, the training row is older than the checkpoint; what the validation wrote is so
/// only where the checkpoint says that the validation was made. Otherwise it will be made again.
fn cut_metrics(path: &Path, progress: &Progress) -> Result<()> {
    let Some(text) = read_text_if_there(path)? else {
        return Ok(());
    };
    let validated = progress.validated == Some(progress.step);
    let older = |line: &&str| {
        let row: Value = serde_json::from_str(line).unwrap_or_default();
        let from_training = row["kind"] == "train" || row["during"] == "train";
        row["step"].as_u64().is_some_and(|at| {
            at < progress.step || at == progress.step && (from_training || validated)
        })
    };
    let kept: String = text
        .lines()
        .filter(older)
        .flat_map(|line| [line, "\n"])
        .collect();
    write_atomically(path, kept.as_bytes())
}
