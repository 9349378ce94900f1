//! A run's settings, times and files: tables of the manifest and the configuration, a column for each run.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::read::Run;
use super::words;

/// Keys of the manifest that other parts of the page show.
const SHOWN_ELSEWHERE: &[&str] = &["preftune", "status", "labels", "seconds", "best"];
/// The text of a cell where a run says nothing.
const ABSENT: &str = "\u{2013}";
/// Phases in the order in which a run goes through them; others follow.
const PHASES: &[&str] = &["load", "negatives", "encode", "train"];

/// A line of a table: what it says, and what it says of each run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) cells: Vec<String>,
}

/// Rows by name, in the order in which names first appear.
struct Table {
    rows: Vec<Row>,
    columns: usize,
}

impl Table {
    fn new(columns: usize) -> Self {
        Self {
            rows: Vec::new(),
            columns,
        }
    }

    fn put(&mut self, name: &str, column: usize, cell: String) {
        let known = self.rows.iter().position(|row| row.name == name);
        let at = known.unwrap_or_else(|| {
            self.rows.push(Row {
                name: name.to_owned(),
                cells: vec![ABSENT.to_owned(); self.columns],
            });
            self.rows.len() - 1
        });
        self.rows[at].cells[column] = cell;
    }
}

/// The table of what was run: the manifest in words, then the entries of it that have none.
pub(super) fn what_was_run(runs: &[Run]) -> Vec<Row> {
    let mut table = Table::new(runs.len());
    for (column, run) in runs.iter().enumerate() {
        let mut used = SHOWN_ELSEWHERE.to_vec();
        for (name, keys, cell) in described(run) {
            used.extend(keys);
            if let Some(cell) = cell {
                table.put(name, column, cell);
            }
        }
        for (path, value) in words::leaves(&run.manifest) {
            let top = path.split('/').next().unwrap_or_default();
            if used.contains(&top) || is_hash(value) {
                continue;
            }
            if let Some(text) = words::scalar(value) {
                let name = words::sentence_case(path.strip_prefix("counts/").unwrap_or(&path));
                let name = name.replace("Unet ", "U-Net ").replace("Vae ", "VAE ");
                table.put(&name, column, text);
            }
        }
    }
    table.rows
}

type Described = (&'static str, &'static [&'static str], Option<String>);

/// Rows that put several keys into words: name, the manifest's keys in it, text.
fn described(run: &Run) -> Vec<Described> {
    let (manifest, config) = (&run.manifest, &run.config);
    let text = |value: &Value| value.as_str().map(words::without_paths);
    let count = |value: &Value| value.as_f64().map(words::number);
    let batch = || {
        let pairs = count(&config["train"]["batch"])?;
        let accumulation = config["train"]["accumulation"].as_u64().unwrap_or(1);
        Some(match accumulation {
            1 => pairs,
            many => format!("{pairs} \u{d7} {many} accumulated"),
        })
    };
    let steps = || {
        let made = words::number(run.steps()? as f64);
        Some(match run.planned_steps() {
            Some(planned) => format!("{made} of {}", words::number(planned as f64)),
            None => made,
        })
    };
    vec![
        (
            "Model",
            &["base_model", "template"],
            text(&manifest["base_model"])
                .or_else(|| text(&manifest["template"]))
                .or_else(|| text(&config["model"]["base"])),
        ),
        ("Autoencoder", &["vae"], text(&manifest["vae"])),
        ("Adapter", &["adapter", "rank", "alpha"], adapter(run)),
        ("Objective", &["objective"], objective(run)),
        ("Subject", &["subject"], super::image::subject(run)),
        (
            "Reward encoder",
            &["reward_encoder"],
            text(&manifest["reward_encoder"][0]),
        ),
        (
            "Device",
            &["device"],
            text(&manifest["device"]).map(|device| device.to_uppercase()),
        ),
        ("Precision", &["precision"], text(&manifest["precision"])),
        (
            "Trained parameters",
            &["trainable_parameters"],
            count(&manifest["trainable_parameters"]),
        ),
        (
            if run.unit() == "round" {
                "Rounds"
            } else {
                "Steps"
            },
            &["steps", "stopped_early"],
            steps(),
        ),
        ("Batch", &[], batch()),
        (
            "Learning rate",
            &[],
            count(&config["train"]["learning_rate"]),
        ),
        ("Seed", &[], count(&config["run"]["seed"])),
        (
            "Photos among themselves",
            &["oracle_image_similarity", "untuned_reward"],
            manifest["oracle_image_similarity"]
                .as_f64()
                .map(|value| format!("image similarity {}", words::score(value))),
        ),
    ]
}

/// The adapter in words.
pub(super) fn adapter(run: &Run) -> Option<String> {
    let manifest = &run.manifest;
    let kind = manifest["adapter"]
        .as_str()
        .or(run.config["adapter"]["kind"].as_str())?;
    Some(match kind {
        "full" => "all weights".to_owned(),
        "lora" => {
            let value = |key: &str| {
                let value = manifest[key]
                    .as_f64()
                    .or(run.config["adapter"][key].as_f64());
                value.map(|value| format!(", {key} {}", words::number(value)))
            };
            let (rank, alpha) = (value("rank"), value("alpha"));
            format!(
                "LoRA{}{}",
                rank.unwrap_or_default(),
                alpha.unwrap_or_default()
            )
        }
        kind => kind.to_owned(),
    })
}

/// The objective's name as papers write it.
pub(super) fn objective_name(run: &Run) -> Option<String> {
    let section = &run.config["objective"];
    if section["kind"].is_array() {
        // A sum; the manifest has it in words.
        return run.manifest["objective"].as_str().map(str::to_uppercase);
    }
    let kind = section["kind"].as_str()?;
    Some(match kind {
        "dreambooth" => "DreamBooth".to_owned(),
        // Most are abbreviations: RPO, DPO, KTO.
        kind => kind.to_uppercase(),
    })
}

/// The objective with the settings that it has.
fn objective(run: &Run) -> Option<String> {
    let settings = run.config["objective"].as_object()?;
    // The sections hold the settings of all objectives; these are RPO's alone.
    let of_rpo = [
        "beta",
        "preference_weight",
        "labels",
        "tau",
        "lambda",
        "shared_noise",
        "noise_bank",
    ];
    let kind = settings.get("kind").and_then(Value::as_str);
    // Of either, where they are asked for.
    let of_both = ["prior_weight", "dop_weight", "min_snr", "noise_offset"];
    let rest = settings.iter().filter(|(key, value)| {
        let (key, given) = (key.as_str(), value.as_f64() != Some(0.0));
        match kind {
            Some("rpo") => of_rpo.contains(&key) || of_both.contains(&key) && given,
            Some("dreambooth") => of_both.contains(&key) && given,
            _ => key != "kind",
        }
    });
    let rest = rest.filter_map(|(key, value)| {
        Some(format!(
            "{} {}",
            key.replace('_', " "),
            words::scalar(value)?
        ))
    });
    let text = [objective_name(run)?].into_iter().chain(rest);
    Some(text.collect::<Vec<_>>().join(", "))
}

/// Settings in which the runs differ, by key.
pub(super) fn differing_settings(runs: &[Run]) -> Vec<Row> {
    let mut table = Table::new(runs.len());
    for (column, run) in runs.iter().enumerate() {
        for (path, value) in words::leaves(&run.config) {
            let text = words::scalar(value).unwrap_or_default();
            table.put(&path.replace('/', "."), column, text);
        }
    }
    let differs = |row: &Row| row.cells.iter().any(|cell| *cell != row.cells[0]);
    table
        .rows
        .into_iter()
        .filter(|row| differs(row) && row.name != "run.output")
        .collect()
}

/// Versions and SHA-256 of everything that went into the runs and their evaluations.
pub(super) fn hashes(runs: &[Run]) -> Vec<Row> {
    let mut table = Table::new(runs.len());
    for (column, run) in runs.iter().enumerate() {
        if let Some(version) = run.manifest["preftune"].as_str() {
            table.put("preftune", column, version.to_owned());
        }
        let evaluations = run.evaluations.iter();
        let evaluations = evaluations.map(|evaluation| ("evaluation: ", &evaluation.figures));
        for (of, value) in std::iter::once(("", &run.manifest)).chain(evaluations) {
            for (path, value) in words::leaves(value) {
                if is_hash(value) {
                    let hash = value.as_str().unwrap_or_default().to_owned();
                    table.put(&format!("{of}{}", hashed(&path)), column, hash);
                }
            }
        }
    }
    table.rows
}

/// The name of a hashed file, from the path to its hash: `base_unet_sha256`, `encoders/clip/weights_sha256`,
/// `reward_encoder/1`.
fn hashed(path: &str) -> String {
    let is_index = |part: &&str| part.parse::<usize>().is_ok();
    let parts = path.split('/').filter(|part| !is_index(part));
    let words: Vec<&str> = parts.map(|part| part.trim_end_matches("_sha256")).collect();
    words.join(" ").replace('_', " ")
}

/// `true` if a value is a SHA-256 in hexadecimal digits.
fn is_hash(value: &Value) -> bool {
    value.as_str().is_some_and(|text| {
        text.len() == 64 && text.bytes().all(|letter| letter.is_ascii_hexdigit())
    })
}

/// Where a run's time went.
#[derive(Serialize)]
pub(super) struct Timing {
    run: String,
    total: String,
    /// Length of the bar beside that of the longest run.
    percent: f64,
    phases: Vec<Phase>,
    /// The time of a step.
    rate: Option<String>,
}

/// A part of a bar.
#[derive(Serialize)]
struct Phase {
    name: String,
    /// Which of the page's phase colours.
    colour: usize,
    time: String,
    percent: f64,
}

/// Seconds by phase; runs whose manifest has none are left out.
pub(super) fn timings(runs: &[Run]) -> Vec<Timing> {
    let seconds = |run: &Run| -> BTreeMap<(usize, String), f64> {
        let phases = run.manifest["seconds"].as_object().into_iter().flatten();
        let place = |name: &str| {
            PHASES
                .iter()
                .position(|phase| *phase == name)
                .unwrap_or(PHASES.len())
        };
        phases
            .filter_map(|(name, value)| Some(((place(name), name.clone()), value.as_f64()?)))
            .collect()
    };
    let all: Vec<_> = runs.iter().map(seconds).collect();
    let total = |phases: &BTreeMap<(usize, String), f64>| phases.values().sum::<f64>();
    let longest = all.iter().map(total).fold(f64::MIN_POSITIVE, f64::max);
    let mut colours: Vec<&String> = Vec::new();
    for (_, name) in all.iter().flat_map(BTreeMap::keys) {
        if !colours.contains(&name) {
            colours.push(name);
        }
    }
    let timing = |(run, phases): (&Run, &BTreeMap<(usize, String), f64>)| {
        let sum = total(phases);
        let phase = |((_, name), seconds): (&(usize, String), &f64)| Phase {
            name: name.clone(),
            colour: colours.iter().position(|known| *known == name).unwrap_or(0) % 6 + 1,
            time: words::duration(*seconds),
            percent: 100.0 * seconds / sum,
        };
        let training = phases.iter().find(|((_, name), _)| name == "train");
        let rate = training
            .zip(run.steps())
            .filter(|(_, steps)| *steps > 0)
            .map(|((_, seconds), steps)| {
                format!(
                    "{} s a {}, validation included",
                    words::number(seconds / steps as f64),
                    run.unit()
                )
            });
        (sum > 0.0).then(|| Timing {
            run: run.name.clone(),
            total: words::duration(sum),
            percent: 100.0 * sum / longest,
            phases: phases.iter().map(phase).collect(),
            rate,
        })
    };
    runs.iter().zip(&all).filter_map(timing).collect()
}
