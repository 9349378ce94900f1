//! A tuned language model on pairs of answers, beside the model that it was tuned from; and by answers of both, where a
//! scorer is given.

mod answers;
pub mod figure;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tch::{Device, Kind};

use self::answers::{Contest, Contested};
use self::figure::{BASE, Figure, TUNED};
use crate::config;
use crate::data::left_out::counted;
use crate::data::text::{self, Reading, Record, Shape};
use crate::error::{Error, Result};
use crate::eval::bootstrap::Bootstrap;
use crate::eval::calibration::expected_calibration_error;
use crate::files::{write_atomically, write_json};
use crate::hub::name_model;
use crate::jobs::Display;
pub use crate::jobs::judge::scorer::Flips;
use crate::jobs::open::text::{Loaded, open};
use crate::jobs::text::data::{HELD_OUT, read};
use crate::models::lm::LanguageModel;
use crate::ops::stable::sigmoid;
use crate::run::data_manifest::DataManifest;
use crate::run::evaluation::{ANSWERS_FILE, METRICS_FILE};
use crate::run::manifest;
use crate::trainer::text::{Compared, Examples, compare};

/// A run and the pairs that its model is judged on.
#[derive(Clone, Debug)]
pub struct PairsProtocol {
    /// Folder of a text run.
    pub run: PathBuf,
    /// Pairs; what the run held out where they are not given.
    pub data: Option<PathBuf>,
    /// Answers in a forward pass, at least 1.
    pub batch: usize,
    /// Where models compute.
    pub device: Device,
    /// Type of their passes.
    pub kind: Kind,
}

/// A run whose model writes answers, another model that does, and who judges them.
#[derive(Clone, Debug)]
pub struct AnswersProtocol {
    /// Folder of a text run.
    pub run: PathBuf,
    /// The model that it plays against; the one that it was tuned from where it is not given.
    pub against: Option<PathBuf>,
    /// Records with the prompts.
    pub prompts: PathBuf,
    /// The configuration whose sections `[scorer]` and `[generate]` say who judges and how answers are sampled.
    pub scorer: PathBuf,
    /// Keys of it that are set anew, as in `generate.validation_samples=4`.
    pub overrides: Vec<String>,
    /// Seed of the answers.
    pub seed: u64,
    /// Where models compute.
    pub device: Device,
    /// Type of their passes.
    pub kind: Kind,
}

/// The judgement of a tuned language model.
#[derive(Clone, Debug)]
pub struct TextJudgement {
    /// Means with their intervals.
    pub figures: Vec<Figure>,
    /// How many pairs or prompts the means are over.
    pub count: usize,
    /// How far a scorer that compares went by the order of answers.
    pub flips: Option<Flips>,
    /// All of it with its protocol, as the run's `eval` keeps it.
    pub report: Value,
}

/// The pairs of a file that is given, and how many of its rows are not judged; says what it leaves out.
///
/// # Errors
/// The file cannot be read, or has no pair.
fn given_pairs(path: &Path, display: &mut dyn Display) -> Result<(Vec<Record>, usize)> {
    let reading = Reading {
        drops_invalid: true,
        ..Reading::default()
    };
    let mut read = text::read_with(path, Shape::Pairs, &reading)?;
    read.notes.check(&reading)?;
    read.notes.judge(&[]);
    let (rows, learnt) = text::held_out_alone(read.rows);
    let others = read.notes.left_out.rows() + learnt;
    let mut lines = read.notes.lines();
    let name = path.display();
    if learnt > 0 {
        lines.push(format!(
            "`{name}`: only the {} that `split` or the names of its files hold out are judged; {} are not",
            counted(rows.len(), "pair"),
            counted(learnt, "other")
        ));
    } else if read.notes.used.iter().any(|used| used == "split") {
        lines.push(format!(
            "`{name}`: `split` holds none of the pairs out: all are judged"
        ));
    }
    for line in lines {
        display.say(&line);
    }
    if rows.is_empty() {
        return Err(Error::data(
            path,
            "no row in it has a better and a worse answer",
        ));
    }
    Ok((rows, others))
}

/// Judges a run's model by its preferences among pairs and by how far it went from its base, and keeps the figures in
/// `eval/pairs` of the run.
///
/// # Errors
/// A run, a model or pairs that cannot be read; a run that held no pairs out, or holds out others by now.
pub fn judge_pairs(protocol: &PairsProtocol, display: &mut dyn Display) -> Result<TextJudgement> {
    let (device, kind) = (protocol.device, protocol.kind);
    let manifest: DataManifest = manifest::read(&protocol.run)?;
    let config = config::load_text(&protocol.run.join("config.toml"), &[])?;
    let Loaded {
        model, tokenizer, ..
    } = open(&protocol.run, device, kind)?;
    for warning in tokenizer.warnings() {
        display.warn(warning);
    }
    // Rows of the file that is given which are not judged.
    let mut not_judged = 0;
    let examples = if let Some(path) = &protocol.data {
        let (rows, others) = given_pairs(path, display)?;
        not_judged = others;
        Examples::encode(&rows, &tokenizer, &config.data)?
    } else {
        let inputs = read(&config)?;
        if inputs.objective.shape() != Shape::Pairs {
            let problem = format!(
                "the run's data for `{}` are no pairs",
                inputs.objective.name()
            );
            return Err(Error::config(problem).with_hint("give pairs by `--data FILE`"));
        }
        // Others may have been learnt from.
        if inputs.hashes.get(HELD_OUT) != manifest.record.inputs.get(HELD_OUT) {
            let problem =
                "the run's data no longer hold out the records that the run was not trained on";
            return Err(Error::config(problem).with_hint(
                "the data or the version of preftune have changed: give pairs by `--data FILE`",
            ));
        }
        inputs.held_out
    };
    for warning in examples.forms.warnings() {
        display.warn(&warning);
    }
    for (line, reason) in &examples.dropped {
        display.say(&format!("left out, line {line}: {reason}"));
    }
    if examples.examples.is_empty() {
        return Err(Error::config("there are no pairs to judge on")
            .with_hint("the run held nothing out: give pairs by `--data FILE`"));
    }
    let base = LanguageModel::open(&manifest.base_model, device, kind, kind)?;
    let mut advance = |done, total| {
        display.advance("compare", done, total);
        Ok(())
    };
    let compared = compare(
        &model,
        &base,
        &examples.examples,
        protocol.batch,
        &mut advance,
    )?;
    let mut figures = figures(&compared);
    figures.extend(calibration(&compared, &manifest));
    let report = json!({
        "run": protocol.run,
        "protocol": {
            "pairs": examples.examples.len(), "left_out": examples.dropped.len() + not_judged,
            "data": protocol.data.as_deref().map_or("held out".into(), Path::to_string_lossy), "base": name_model(&manifest.base_model),
        },
        "bootstrap": describe_bootstrap("pairs"),
        "figures": figures.iter().map(Figure::json).collect::<Vec<_>>(),
    });
    write(&protocol.run, "pairs", &report)?;
    Ok(TextJudgement {
        figures,
        count: examples.examples.len(),
        flips: None,
        report,
    })
}

/// Judges answers of a run's model and of another to the same prompts from the same seeds, and keeps them in
/// `eval/answers` of the run.
///
/// # Errors
/// A run, a model, a scorer or prompts that cannot be read; a scorer that fails.
pub fn judge_answers(
    protocol: &AnswersProtocol,
    display: &mut dyn Display,
) -> Result<TextJudgement> {
    let manifest: DataManifest = manifest::read(&protocol.run)?;
    let against = protocol.against.as_deref();
    let contest = Contest {
        model: &protocol.run,
        other: against.unwrap_or(&manifest.base_model),
        role: if against.is_some() { "other" } else { BASE },
        prompts: &protocol.prompts,
        scoring: &config::load_scoring(&protocol.scorer, &protocol.overrides)?,
        seed: protocol.seed,
        device: (protocol.device, protocol.kind),
    };
    let Contested {
        figures,
        prompts: count,
        answers,
        flips,
    } = contest.figures(display)?;
    let report = json!({
        "run": protocol.run,
        "protocol": {
            "prompts": count, "against": contest.other, "scorer": protocol.scorer,
            "samples": contest.scoring.generate.validation_samples, "seed": protocol.seed,
        },
        "bootstrap": describe_bootstrap("prompts"),
        "figures": figures.iter().map(Figure::json).collect::<Vec<_>>(),
        "both_orders": flips,
    });
    write(&protocol.run, "answers", &report)?;
    let file = protocol.run.join("eval/answers").join(ANSWERS_FILE);
    write_atomically(&file, answers.as_bytes())?;
    Ok(TextJudgement {
        figures,
        count,
        flips,
        report,
    })
}

/// Keeps what was found with the run, for its page.
fn write(run: &Path, name: &str, report: &Value) -> Result<()> {
    let folder = run.join("eval").join(name);
    std::fs::create_dir_all(&folder).map_err(|source| Error::io("create", &folder, source))?;
    write_json(&folder.join(METRICS_FILE), report)
}

/// The record of how intervals are made.
fn describe_bootstrap(over: &str) -> Value {
    let bootstrap = Bootstrap::default();
    json!({"over": over, "level": bootstrap.level, "resamples": bootstrap.resamples, "seed": bootstrap.seed})
}

/// How well `sigmoid(beta h)`, the model's own probability that the chosen answer is the better one, comes true; of
/// objectives with a `beta` and a reference.
fn calibration(compared: &[Compared], manifest: &DataManifest) -> Option<Figure> {
    let beta = manifest
        .numbers
        .get("beta")
        .filter(|_| manifest.reference != "none")?;
    let ratio = |one: &Compared| one.tuned - one.base;
    let pairs = compared.chunks_exact(2);
    let probabilities: Vec<f64> = pairs
        .map(|pair| sigmoid(beta * (ratio(&pair[0]) - ratio(&pair[1]))))
        .collect();
    Some(Figure {
        name: "calibration error",
        model: TUNED,
        value: expected_calibration_error(&probabilities),
        interval: None,
    })
}

/// Figures of pairs whose chosen and rejected answers follow each other.
fn figures(compared: &[Compared]) -> Vec<Figure> {
    let pairs = || compared.chunks_exact(2).map(|pair| (pair[0], pair[1]));
    let ratio = |one: Compared| one.tuned - one.base;
    let ahead = |lead: f64| f64::from(u8::from(lead > 0.0));
    vec![
        Figure::new(
            "accuracy",
            pairs().map(|(chosen, rejected)| ahead(ratio(chosen) - ratio(rejected))),
        ),
        Figure::new(
            "margin (nats)",
            pairs().map(|(chosen, rejected)| ratio(chosen) - ratio(rejected)),
        ),
        Figure::new(
            "chosen more likely",
            pairs().map(|(chosen, rejected)| ahead(chosen.tuned - rejected.tuned)),
        ),
        Figure::new(
            "chosen more likely",
            pairs().map(|(chosen, rejected)| ahead(chosen.base - rejected.base)),
        )
        .of_model(BASE),
        Figure::new(
            "log-ratio of chosen",
            pairs().map(|(chosen, _)| ratio(chosen)),
        ),
        Figure::new(
            "log-ratio of rejected",
            pairs().map(|(_, rejected)| ratio(rejected)),
        ),
        Figure::new(
            "KL a token, chosen",
            pairs().map(|(chosen, _)| chosen.kl / chosen.length),
        ),
        Figure::new(
            "KL a token, rejected",
            pairs().map(|(_, rejected)| rejected.kl / rejected.length),
        ),
    ]
}
