//! `preftune iterate`: rounds of sampling, scoring and training, each against the policy of the round before. Each phase
//! keeps what it has done, so that a run goes on where it was ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tch::{Device, Kind};

use super::device::resolve;
use super::interrupt::Interrupt;
use super::iterate_round::{Judged, Round};
use super::progress::Progress;
use super::scorer::{self, Scorer};
use super::stopwatch::Stopwatch;
use super::text_rewards::weights_of;
use super::train_text_data::{self, drawn};
use super::{table, train_reward_data};
use crate::config::{self, AdapterKind, IterateConfig, PairChoice, ScorerKind};
use crate::data::text::{self, Prompt, Shape};
use crate::error::{Error, Result};
use crate::files::{absolute, write_atomically};
use crate::models::lm::LmConfig;
use crate::models::lm::reward;
use crate::models::lm::tokenizer::TextTokenizer;
use crate::models::weights::Checkpoint;
use crate::ops::random::{derive_seed, permutation};
use crate::rewards::comparable::Choice;
use crate::rewards::transform::Reference;
use crate::run::data_manifest::DataManifest;
use crate::run::folder::RunFolder;
use crate::run::manifest::{self, FINISHED, Record};
use crate::trainer::objective::Objective;

#[derive(Args)]
pub(super) struct IterateArgs {
    /// Configuration file (TOML) with a section `[rounds]`.
    config: PathBuf,
    /// Override a key, as in `--set rounds.count=2`; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Run folder; short for `--set run.output=...`.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Continue interrupted rounds where they were.
    #[arg(long)]
    resume: bool,
    /// No progress, errors only.
    #[arg(long)]
    quiet: bool,
}

/// What is known of a policy.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Measured {
    /// Means over held-out prompts and counts of the round that made it.
    pub(super) metrics: BTreeMap<String, f64>,
    /// Bootstrap intervals of some of them.
    pub(super) intervals: BTreeMap<String, (f64, f64)>,
}

/// What all rounds share.
pub(super) struct Shared<'a> {
    pub(super) config: &'a IterateConfig,
    pub(super) objective: Objective,
    pub(super) device: Device,
    pub(super) kind: Kind,
    pub(super) interrupt: &'a Interrupt,
    pub(super) display: Progress,
    pub(super) quiet: bool,
    /// That of all policies.
    pub(super) tokenizer: TextTokenizer,
    /// Started when it is needed first.
    pub(super) scorer: Option<Scorer>,
    /// What is done to rewards before answers are learnt from.
    pub(super) transform: Option<(Choice, Reference)>,
    /// With a transform: rewards of the first policy's answers, `[answer][output]`, by the prompts' lines.
    pub(super) baseline: BTreeMap<usize, Vec<Vec<f64>>>,
}

pub(super) fn run(args: &IterateArgs) -> Result<()> {
    let mut overrides = args.overrides.clone();
    overrides.extend(args.output.iter().map(|output| {
        let output = toml::Value::String(output.to_string_lossy().into_owned());
        format!("run.output={output}")
    }));
    let config = config::load_iterate(&args.config, &overrides)?;
    let objective = train_text_data::objective(&config.objective)?;
    check_labels(&config, &objective)?;
    let transform = scorer::transform(&config.scorer)?;
    let (train, held_out) = prompts(&config)?;
    let base = &config.model.base;
    let tokenizer = TextTokenizer::open(base, LmConfig::open(base)?.vocab_size)?;
    let (device, kind) = resolve(&config.run.device, config.run.precision)?;
    let interrupt = Interrupt::install()?;
    let folder = RunFolder::create(&config.run.output, &config, args.resume)?;
    let mut manifest = describe(&config, &objective, (device, kind), [&train, &held_out])?;
    let mut watch = Stopwatch::start();
    if let Ok(earlier) = manifest::read::<DataManifest>(folder.path()) {
        manifest.check_inputs(&earlier, folder.path())?;
        watch.resume(&earlier.record.seconds);
    }
    manifest::write(&manifest, folder.path())?;
    let mut shared = Shared {
        config: &config,
        objective,
        device,
        kind,
        interrupt: &interrupt,
        display: Progress::new(args.quiet),
        quiet: args.quiet,
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
    let outcome = rounds(&mut shared, folder.path(), &train, judged);
    watch.lap("rounds");
    manifest.record.seconds = watch.seconds();
    conclude(&mut manifest.record, &outcome);
    let written = manifest::write(&manifest, folder.path());
    let measured = outcome?;
    written?;
    show(&config, &measured);
    Ok(())
}

/// What a configuration cannot know: the form in which its objective learns from answers.
fn check_labels(config: &IterateConfig, objective: &Objective) -> Result<()> {
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
fn rounds(
    shared: &mut Shared,
    run: &Path,
    train: &[Prompt],
    judged: &[Prompt],
) -> Result<Vec<Measured>> {
    let config = shared.config;
    let mut measured: Vec<Measured> = Vec::new();
    let mut first: Vec<Judged> = Vec::new();
    for number in 0..=config.rounds.count {
        let mut round = Round {
            number,
            folder: run.join(format!("round-{number}")),
            from: policy(config, run, number.saturating_sub(1)),
            policy: policy(config, run, number),
        };
        std::fs::create_dir_all(&round.folder)
            .map_err(|source| Error::io("create", &round.folder, source))?;
        let counts = if number == 0 {
            BTreeMap::new()
        } else {
            round.improve(shared, run, &of_round(config, train, number))?
        };
        let (own, answers) = round.measure(shared, judged, &first, counts)?;
        if number == 0 {
            first = answers;
        }
        shared
            .display
            .say(&format!("policy {number}: {}", in_words(&own)));
        measured.push(own);
        write_metrics(run, &measured)?;
    }
    Ok(measured)
}

/// The folder of the policy that a round made; of round 0, the first model.
fn policy(config: &IterateConfig, run: &Path, round: u64) -> PathBuf {
    let folder = run.join(format!("round-{round}"));
    match config.adapter.kind {
        _ if round == 0 => config.model.base.clone(),
        AdapterKind::Lora => folder.join("model"),
        AdapterKind::Full => folder.join("train").join("best"),
    }
}

/// The newest policy that the rounds in a folder have made.
pub(super) fn last_policy(config: &IterateConfig, run: &Path) -> Result<PathBuf> {
    let rounds = (1..=config.rounds.count).rev();
    let mut policies = rounds.map(|round| policy(config, run, round));
    policies.find(|folder| folder.exists()).ok_or_else(|| {
        Error::data(run, "has made no policy yet")
            .with_hint("continue the rounds: `preftune iterate --resume`")
    })
}

/// Prompts to learn from, and those that are held out.
fn prompts(config: &IterateConfig) -> Result<(Vec<Prompt>, Vec<Prompt>)> {
    let section = &config.data;
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    let all = if config.labels.gold {
        text::prompts_with_gold(&section.prompts)?
    } else {
        text::prompts(&section.prompts)?
    };
    for prompt in all {
        let drawn = || drawn(config.run.seed, prompt.line, section.validation_share);
        if prompt.held_out.unwrap_or_else(drawn) {
            held_out.push(prompt);
        } else {
            train.push(prompt);
        }
    }
    if train.is_empty() {
        return Err(Error::data(
            &section.prompts,
            "all prompts are held out: none is left to learn from",
        ));
    }
    Ok((train, held_out))
}

/// The prompts of a round: the next ones of one random order, from its beginning again when it ends.
fn of_round(config: &IterateConfig, prompts: &[Prompt], round: u64) -> Vec<Prompt> {
    let Some(count) = config.rounds.prompts else {
        return prompts.to_vec();
    };
    let order = permutation(derive_seed(config.run.seed, "prompts", &[]), prompts.len());
    let begin = (round - 1) as usize * count;
    (begin..begin + count.min(prompts.len()))
        .map(|place| prompts[order[place % order.len()]].clone())
        .collect()
}

/// What is known before the first round.
fn describe(
    config: &IterateConfig,
    objective: &Objective,
    (device, kind): (Device, Kind),
    [train, held_out]: [&[Prompt]; 2],
) -> Result<DataManifest> {
    let base = Checkpoint::open_component(&config.model.base, "model", None)?;
    let count = |prompts: &[Prompt]| prompts.len() as u64;
    let mut inputs = BTreeMap::from([
        ("base model".to_owned(), base.sha256()),
        (
            "prompts".to_owned(),
            train_reward_data::sha256(&config.data.prompts)?,
        ),
    ]);
    if config.scorer.kind == ScorerKind::Model {
        let weights = reward::sha256(&weights_of(&config.scorer.model)?)?;
        inputs.insert("scorer".to_owned(), weights);
    }
    Ok(DataManifest {
        record: Record::begin(device, kind, &[]),
        base_model: absolute(&config.model.base),
        objective: objective.name(),
        numbers: objective.numbers(),
        adapter: config.adapter.kind,
        reference: "the policy of the round before".to_owned(),
        inputs,
        examples: BTreeMap::from([
            ("prompts".to_owned(), count(train)),
            ("held out".to_owned(), count(held_out)),
        ]),
    })
}

/// Notes how the rounds ended.
fn conclude(record: &mut Record, outcome: &Result<Vec<Measured>>) {
    match outcome {
        Ok(measured) => {
            FINISHED.clone_into(&mut record.status);
            record.steps = measured.len() as u64 - 1;
            let reward = |measured: &Measured| measured.metrics.get("reward").copied();
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
fn write_metrics(run: &Path, measured: &[Measured]) -> Result<()> {
    let row = |(round, measured): (usize, &Measured)| {
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

fn in_words(measured: &Measured) -> String {
    let metric = |(name, value): (&String, &f64)| format!("{name} {value:.4}");
    let metrics: Vec<String> = measured.metrics.iter().map(metric).collect();
    metrics.join("  ")
}

fn show(config: &IterateConfig, measured: &[Measured]) {
    let columns = ["reward", "win_rate", "kl", "length", "records"];
    let header: Vec<String> = ["round"]
        .into_iter()
        .chain(columns)
        .map(str::to_owned)
        .collect();
    let cell = |measured: &Measured, name: &str| {
        let Some(value) = measured.metrics.get(name) else {
            return String::new();
        };
        match measured.intervals.get(name) {
            Some((low, high)) => format!("{value:.3} [{low:.3}, {high:.3}]"),
            None if value.fract() == 0.0 => format!("{value}"),
            None => format!("{value:.3}"),
        }
    };
    let rows: Vec<Vec<String>> = measured
        .iter()
        .enumerate()
        .map(|(round, measured)| {
            let cells = columns.iter().map(|name| cell(measured, name));
            [round.to_string()].into_iter().chain(cells).collect()
        })
        .collect();
    print!("{}", table::render(&header, &rows));
    println!("win rate against the first policy; intervals by drawing prompts anew");
    let run = &config.run.output;
    let last = policy(config, run, config.rounds.count);
    println!("last policy: {}", last.display());
    println!(
        "try it:      preftune generate --model {} --prompt \"...\"",
        run.display()
    );
}
