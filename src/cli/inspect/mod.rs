//! `preftune inspect`: what a run on texts or on pairs of images would learn from, before weights are loaded.

mod pairs;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::configuration::ConfigArgs;
use crate::cli::output::print_json;
use crate::cli::progress::{warn, warn_of};
use crate::config::{Config, TextConfig};
use crate::data::text::Notes;
use crate::error::Result;
use crate::jobs;
use crate::jobs::text::data::TextInputs;
use crate::models::lm::tokenizer::Sequence;
use crate::trainer::text::{Example, Examples, scored};

#[derive(Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Examples to show in full.
    #[arg(long, default_value_t = 2)]
    rows: usize,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let config = match args.config.load()? {
        Config::Text(config) => config,
        Config::Pairs(config) => return pairs::run(&config, args.rows, args.json),
        other => {
            return Err(other.refuse(&args.config.config, "one on texts or on pairs of images"));
        }
    };
    // Faults are shown before they refuse the data.
    let inputs = jobs::text::data::look(&config)?;
    warn(&inputs.tokenizer);
    warn_of(&inputs.train.forms.and(&inputs.held_out.forms).warnings());
    if args.json {
        let report = json!({
            "objective": inputs.objective.name(),
            "train": summary(&inputs.train),
            "held_out": summary(&inputs.held_out),
            "prompts": {
                "train": inputs.overlap.train, "held_out": inputs.overlap.held_out, "on_both_sides": inputs.overlap.shared,
            },
            "words": inputs.train.forms.and(&inputs.held_out.forms).counts(),
            "files": inputs.notes.iter().map(file).collect::<Vec<_>>(),
            "examples": shown(&inputs, args.rows).map(|example| whole(&inputs, example)).collect::<Result<Vec<_>>>()?,
        });
        print_json(&report);
        return conclude(&inputs, &config);
    }
    for example in shown(&inputs, args.rows) {
        println!("line {} (weight {})", example.line, example.labels.weight);
        for (place, sequence) in example.sequences.iter().enumerate() {
            let (prompt, answer) = parts(&inputs, sequence)?;
            if place == 0 {
                println!(
                    "  prompt, {} tokens, not scored: {prompt:?}",
                    sequence.prompt
                );
            }
            let reward = example.labels.rewards[place];
            println!(
                "  answer, {} tokens scored, reward {reward}: {answer:?}",
                scored(sequence)
            );
            for range in &sequence.skipped {
                let text = inputs
                    .tokenizer
                    .decode(&sequence.ids[range.clone()], false)?;
                println!("    of it not scored, {} tokens: {text:?}", range.len());
            }
        }
    }
    for sentence in inputs.train.forms.and(&inputs.held_out.forms).in_words() {
        println!("words: {sentence}");
    }
    for (name, examples) in [("training", &inputs.train), ("held out", &inputs.held_out)] {
        print_set(name, examples);
    }
    for line in inputs.lines() {
        println!("{line}");
    }
    conclude(&inputs, &config)
}

/// Refuses data that training refuses. That they do not go with the run's settings is a warning, for it is the data that are
/// looked at.
fn conclude(inputs: &TextInputs, config: &TextConfig) -> Result<()> {
    inputs.check(config)?;
    if let Err(problem) = inputs.check_batch(config) {
        warn_of(&[format!("training would stop: {problem}")]);
    }
    Ok(())
}

/// The JSON record of a file.
fn file(notes: &Notes) -> Value {
    let reasons = notes.left_out.reasons.iter().map(|reason| {
        json!({"reason": reason.reason, "rows": reason.rows, "first": reason.first.to_string(), "fault": reason.is_fault})
    });
    json!({
        "path": notes.path.to_string_lossy(),
        "rows": notes.rows,
        "files": notes.files.len(),
        "unused_columns": notes.unused,
        "left_out": reasons.collect::<Vec<_>>(),
    })
}

fn shown(inputs: &TextInputs, rows: usize) -> impl Iterator<Item = &Example> {
    inputs.train.examples.iter().take(rows)
}

/// Prompt and answer as the model reads them, special tokens written out.
fn parts(inputs: &TextInputs, sequence: &Sequence) -> Result<(String, String)> {
    let (prompt, answer) = sequence.ids.split_at(sequence.prompt);
    let decode = |ids| inputs.tokenizer.decode(ids, false);
    Ok((decode(prompt)?, decode(answer)?))
}

fn whole(inputs: &TextInputs, example: &Example) -> Result<Value> {
    let sequences = example.sequences.iter().map(|sequence| {
        let (prompt, answer) = parts(inputs, sequence)?;
        let tokens: Vec<Option<String>> = sequence.ids.iter().map(|&id| inputs.tokenizer.token(id)).collect();
        let mask: Vec<u8> = (0..sequence.ids.len()).map(|at| u8::from(sequence.scored().any(|scored| scored == at))).collect();
        Ok(json!({"prompt": prompt, "answer": answer, "ids": sequence.ids, "tokens": tokens, "completion_mask": mask}))
    });
    Ok(json!({
        "line": example.line,
        "rewards": example.labels.rewards,
        "weight": example.labels.weight,
        "sequences": sequences.collect::<Result<Vec<Value>>>()?,
    }))
}

/// Sorted lengths of all sequences in tokens.
fn lengths(examples: &Examples) -> Vec<usize> {
    let sequences = examples
        .examples
        .iter()
        .flat_map(|example| &example.sequences);
    let mut lengths: Vec<usize> = sequences.map(|sequence| sequence.ids.len()).collect();
    lengths.sort_unstable();
    lengths
}

/// The value at the place nearest to this share of sorted values.
fn nearest_rank(sorted: &[usize], share: f64) -> usize {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * share).round() as usize)
        .copied()
        .unwrap_or_default()
}

fn summary(examples: &Examples) -> Value {
    let lengths = lengths(examples);
    let dropped = examples
        .dropped
        .iter()
        .map(|(line, reason)| json!({"line": line, "reason": reason}));
    json!({
        "examples": examples.examples.len(),
        "tokens": lengths.iter().sum::<usize>(),
        "length": {
            "median": nearest_rank(&lengths, 0.5), "p95": nearest_rank(&lengths, 0.95), "max": nearest_rank(&lengths, 1.0),
        },
        "truncated": examples.truncated,
        "dropped": dropped.collect::<Vec<_>>(),
    })
}

fn print_set(name: &str, examples: &Examples) {
    let lengths = lengths(examples);
    println!(
        "{name}: {} examples, {} tokens; lengths: median {}, 95 % at most {}, longest {}",
        examples.examples.len(),
        lengths.iter().sum::<usize>(),
        nearest_rank(&lengths, 0.5),
        nearest_rank(&lengths, 0.95),
        nearest_rank(&lengths, 1.0)
    );
    if !examples.truncated.is_empty() {
        println!(
            "  cut off at `data.max_length`: {} (lines {})",
            examples.truncated.len(),
            some(&examples.truncated)
        );
    }
    for (line, reason) in examples.dropped.iter().take(10) {
        println!("  left out: line {line}: {reason}");
    }
    if examples.dropped.len() > 10 {
        println!("  left out: {} more", examples.dropped.len() - 10);
    }
}

/// The first few of many lines.
fn some(lines: &[usize]) -> String {
    let mut text: Vec<String> = lines.iter().take(8).map(usize::to_string).collect();
    if lines.len() > 8 {
        text.push("...".to_owned());
    }
    text.join(", ")
}
