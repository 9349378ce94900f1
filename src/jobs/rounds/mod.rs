//! Rounds of sampling, scoring and training, each against the policy of the round before. Each phase keeps what it has done,
//! so that a run goes on where it was ended.

pub mod images;
mod records;
mod round;
mod shared;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::{Device, Kind};

use self::round::{JudgedAnswers, Round};
pub use self::shared::PolicyFigures;
use self::shared::Shared;
use super::inputs::{objective, sha256};
use super::interrupt::Interrupt;
use super::judge::scorer::{self, Scorer};
use super::judge::texts::weights_of;
use super::open::resolve;
use super::stopwatch::Stopwatch;
use super::{Display, Opened, RunOptions, open_folder};
use crate::config::{PairChoice, RoundsConfig, RoundsSection, ScorerKind};
use crate::data::groups;
use crate::data::text::{self, Prompt, Reading, Shape};
use crate::error::{Error, Result};
use crate::files::{absolute, read_text, write_atomically};
use crate::models::lm;
use crate::models::lm::reward;
use crate::ops::random::{derive_seed, permutation};
use crate::run::data_manifest::DataManifest;
use crate::run::folder::{explain_loss, require};
use crate::run::manifest::{self, FINISHED, Record, check_inputs};
use crate::run::rounds;
use crate::trainer::objective::Objective;
use crate::trainer::text::{Forms, open_tokenizer};

/// Checks of a configuration that take the tables of objectives and transforms.
pub(super) fn check(config: &RoundsConfig) -> Result<()> {
    objective(&config.objective)?;
    scorer::transform(&config.scorer).map(drop)
}

/// Makes all rounds of a configuration that are not made yet: the figures of each policy, the first one's included.
///
/// # Errors
/// Prompts or models that cannot be read, a scorer that fails, a folder that holds another run, a round that diverges or is
/// interrupted.
pub fn train(
    config: &RoundsConfig,
    options: RunOptions,
    display: &mut dyn Display,
    interrupt: &Interrupt,
) -> Result<Vec<PolicyFigures>> {
    let resume = by_one_process(options)?;
    let objective = objective(&config.objective)?;
    check_labels(config, &objective)?;
    let transform = scorer::transform(&config.scorer)?;
    let (train, held_out) = prompts(config, display)?;
    let base = &config.model.base;
    let tokenizer = open_tokenizer(base, config.chat())?;
    for warning in tokenizer.warnings() {
        display.say(&format!("warning: {warning}"));
    }
    let (device, kind) = resolve(&config.run.device, config.run.precision)?;
    let output = &config.run.output;
    // A round whose figures are gone is made again of what is left of it.
    let goes_on = |record: &Record| {
        let mut rounds = 0..=config.rounds.count;
        let gone = rounds.any(|number| !figures_file(output, number).exists());
        Ok(gone || record.steps < config.rounds.count)
    };
    let (_folder, earlier) =
        match open_folder::<DataManifest>(config, output, resume, display, goes_on)? {
            Opened::Finished(_) => return kept_figures(config, output),
            Opened::Folder(folder, earlier) => (folder, earlier),
        };
    let run = output.as_path();
    let mut manifest = describe(config, &objective, (device, kind), [&train, &held_out])?;
    if let Some(earlier) = &earlier {
        check_inputs(&manifest.record.inputs, &earlier.record.inputs, run)?;
    }
    let mut watch = Stopwatch::resume(earlier.as_ref().map(|earlier| &earlier.record.seconds));
    manifest::write(&manifest, run)?;
    let mut shared = Shared {
        config,
        objective,
        device,
        kind,
        interrupt,
        display,
        tokenizer,
        scorer: None,
        transform,
        baseline: BTreeMap::new(),
    };
    let judged = if held_out.is_empty() {
        &train
    } else {
        &held_out
    };
    let mut forms = Forms::default();
    for prompt in train.iter().chain(&held_out) {
        forms.add(&shared.tokenizer, &prompt.text, &[]);
    }
    for sentence in forms.in_words() {
        shared.display.say(&format!("words: {sentence}"));
    }
    for warning in forms.warnings() {
        shared.display.warn(&warning);
    }
    let outcome = make_rounds(&mut shared, run, &train, judged);
    if let Some(flips) = shared.scorer.as_ref().and_then(Scorer::flips) {
        shared.display.say(&flips.in_words());
    }
    let outcome = explain_loss(outcome, run);
    watch.lap("rounds");
    manifest.record.seconds = watch.seconds();
    conclude(&mut manifest.record, &outcome);
    let written = manifest::write(&manifest, run);
    let figures = outcome?;
    written?;
    Ok(figures)
}

/// Whether the rounds are to be continued.
///
/// # Errors
/// Several processes are to make them.
fn by_one_process(options: RunOptions) -> Result<bool> {
    let RunOptions { resume, peers, .. } = options;
    if peers.are_none() {
        Ok(resume)
    } else {
        Err(Error::config("rounds are made by one process"))
    }
}

fn figures_file(run: &Path, number: u64) -> PathBuf {
    rounds::folder(run, number).join(round::FIGURES)
}

/// The figures of all policies of finished rounds.
fn kept_figures(config: &RoundsConfig, run: &Path) -> Result<Vec<PolicyFigures>> {
    let figures = |number| {
        let file = figures_file(run, number);
        serde_json::from_str(&read_text(&file)?)
            .map_err(|error| Error::data(&file, format!("not a policy's figures: {error}")))
    };
    (0..=config.rounds.count).map(figures).collect()
}

/// Checks what the configuration alone cannot tell: that its settings suit the form in which the objective learns from
/// answers.
fn check_labels(config: &RoundsConfig, objective: &Objective) -> Result<()> {
    let name = objective.name();
    if config.labels.pairs == PairChoice::Percentile && objective.shape() != Shape::Pairs {
        let problem =
            format!("`labels.pairs = \"percentile\"`: `{name}` does not learn from pairs");
        return Err(Error::config(problem).with_hint("leave `labels.pairs` out"));
    }
    if objective.shape() == Shape::Sampled {
        let of_others = [
            ("labels.gold", config.labels.gold),
            ("rounds.replay", !config.rounds.replay.is_empty()),
        ];
        if let Some((key, _)) = of_others.iter().find(|(_, asked)| *asked) {
            return Err(Error::config(format!(
                "`{key}`: `{name}` weighs answers by the policy that has just written them"
            ))
            .with_hint(format!("leave `{key}` out")));
        }
    }
    Ok(())
}

/// Makes all rounds that are not made yet: what is known of each policy, the first one's included.
fn make_rounds(
    shared: &mut Shared,
    run: &Path,
    train: &[Prompt],
    judged: &[Prompt],
) -> Result<Vec<PolicyFigures>> {
    let config = shared.config;
    let mut measured: Vec<PolicyFigures> = Vec::new();
    let mut first: Vec<JudgedAnswers> = Vec::new();
    for number in 0..=config.rounds.count {
        let mut round = Round {
            number,
            folder: rounds::folder(run, number),
            from: rounds::policy(config, run, number.saturating_sub(1)),
            policy: rounds::policy(config, run, number),
        };
        require(run)?;
        std::fs::create_dir_all(&round.folder)
            .map_err(|source| Error::io("create", &round.folder, source))?;
        // A judge that waits does not know where the rounds are.
        let folder = round.folder.clone();
        let located = |error| match error {
            Error::Interrupted { checkpoint, .. } if checkpoint.as_os_str().is_empty() => {
                Error::Interrupted {
                    step: number,
                    checkpoint: folder.clone(),
                }
            }
            error => error,
        };
        let counts = if number == 0 {
            BTreeMap::new()
        } else {
            let prompts = draw_prompts(&config.rounds, config.run.seed, train, number);
            round.improve(shared, run, &prompts).map_err(&located)?
        };
        let figures = round.measure(shared, judged, &first, counts);
        let (own, answers) = figures.map_err(&located)?;
        if number == 0 {
            first = answers;
        }
        shared
            .display
            .say(&format!("policy {number}: {}", describe_figures(&own)));
        measured.push(own);
        write_metrics(run, &measured)?;
    }
    Ok(measured)
}

/// Prompts to learn from, and those that are held out.
fn prompts(config: &RoundsConfig, display: &mut dyn Display) -> Result<(Vec<Prompt>, Vec<Prompt>)> {
    let section = &config.data;
    let reading = Reading {
        columns: Some(&section.columns),
        ..Reading::default()
    };
    let read = if config.labels.gold {
        text::prompts_with_gold(&section.prompts, &reading)?
    } else {
        text::prompts(&section.prompts, &reading)?
    };
    for line in read.notes.lines() {
        display.say(&line);
    }
    let (train, held_out) = groups::split(
        read.rows,
        |prompt| prompt.held_out,
        |prompt| vec![prompt.text.to_value().to_string()],
        config.run.seed,
        section.validation_share,
    );
    if train.is_empty() {
        return Err(Error::data(
            &section.prompts,
            "all prompts are held out: none is left to learn from",
        ));
    }
    Ok((train, held_out))
}

/// The prompts of a round: the next ones of one random order, from its beginning again when it ends.
fn draw_prompts<P: Clone>(rounds: &RoundsSection, seed: u64, prompts: &[P], round: u64) -> Vec<P> {
    let Some(count) = rounds.prompts else {
        return prompts.to_vec();
    };
    let order = permutation(derive_seed(seed, "prompts", &[]), prompts.len());
    let begin = (round - 1) as usize * count;
    (begin..begin + count.min(prompts.len()))
        .map(|place| prompts[order[place % order.len()]].clone())
        .collect()
}

/// The manifest before the first round.
fn describe(
    config: &RoundsConfig,
    objective: &Objective,
    (device, kind): (Device, Kind),
    [train, held_out]: [&[Prompt]; 2],
) -> Result<DataManifest> {
    let base = lm::checkpoint(&config.model.base)?;
    let count = |prompts: &[Prompt]| prompts.len() as u64;
    let mut inputs = BTreeMap::from([
        ("base model".to_owned(), base.sha256()?),
        ("prompts".to_owned(), sha256(&config.data.prompts)?),
    ]);
    if config.scorer.kind == ScorerKind::Model {
        let weights = reward::sha256(&weights_of(&config.scorer.model)?)?;
        inputs.insert("scorer".to_owned(), weights);
    }
    let mut record = Record::of_inputs(inputs);
    record.begin(device, kind, &[]);
    Ok(DataManifest {
        record,
        base_model: absolute(&config.model.base),
        vae: None,
        objective: objective.name(),
        numbers: objective.numbers(),
        adapter: config.adapter.kind,
        reference: "the policy of the round before".to_owned(),
        examples: BTreeMap::from([
            ("prompts".to_owned(), count(train)),
            ("held out".to_owned(), count(held_out)),
        ]),
        left_out: Vec::new(),
    })
}

/// Notes how the rounds ended.
fn conclude(record: &mut Record, outcome: &Result<Vec<PolicyFigures>>) {
    match outcome {
        Ok(measured) => {
            FINISHED.clone_into(&mut record.status);
            record.steps = measured.len() as u64 - 1;
            let reward = |measured: &PolicyFigures| measured.metrics.get("reward").copied();
            record.untuned_reward = measured.first().and_then(reward);
            let rewards = measured.iter().enumerate();
            record.best = rewards
                .filter_map(|(round, measured)| Some((round as u64, reward(measured)?)))
                .max_by(|one, other| one.1.total_cmp(&other.1));
        }
        Err(Error::Interrupted { .. }) => "interrupted".clone_into(&mut record.status),
        Err(_) => "failed".clone_into(&mut record.status),
    }
}

/// A row for each policy, all anew: a kill leaves the rows of before.
fn write_metrics(run: &Path, measured: &[PolicyFigures]) -> Result<()> {
    let row = |(round, measured): (usize, &PolicyFigures)| {
        let mut row = Map::new();
        row.insert("kind".to_owned(), json!("validation"));
        row.insert("step".to_owned(), json!(round));
        let metrics = measured.metrics.iter();
        row.extend(metrics.map(|(name, value)| (name.clone(), json!(value))));
        Value::Object(row).to_string() + "\n"
    };
    let text: String = measured.iter().enumerate().map(row).collect();
    write_atomically(&run.join("metrics.jsonl"), text.as_bytes())
}

fn describe_figures(measured: &PolicyFigures) -> String {
    let metric = |(name, value): (&String, &f64)| format!("{name} {value:.4}");
    let metrics: Vec<String> = measured.metrics.iter().map(metric).collect();
    metrics.join("  ")
}
