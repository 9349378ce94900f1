//! `preftune inspect`: what a run on texts or on pairs of images would learn from, before weights are loaded.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::inspect_pairs;
use super::train_text_data::{self, TextInputs};
use crate::config::{self, Config};
use crate::error::Result;
use crate::models::lm::tokenizer::Sequence;
use crate::trainer::text::{Example, Examples, scored};

#[derive(Args)]
pub(super) struct InspectArgs {
    /// Configuration file (TOML) of a run on texts or on pairs of images.
    config: PathBuf,
    /// Override a key, as in `--set data.max_length=512`; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Examples to show in full.
    #[arg(long, default_value_t = 2)]
    rows: usize,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &InspectArgs) -> Result<()> {
    if let Config::Pairs(config) = config::load_any(&args.config, &args.overrides)? {
        return inspect_pairs::run(&config, args.rows, args.json);
    }
    let config = config::load_text(&args.config, &args.overrides)?;
    let inputs = train_text_data::read(&config)?;
    if args.json {
        let report = json!({
            "objective": inputs.objective.name(),
            "train": summary(&inputs.train),
            "held_out": summary(&inputs.held_out),
            "examples": shown(&inputs, args.rows).map(|example| whole(&inputs, example)).collect::<Result<Vec<_>>>()?,
        });
        println!(
            "{}",
            serde_json::to_string_pretty(&report).unwrap_or_default()
        );
        return Ok(());
    }
    for example in shown(&inputs, args.rows) {
        println!("line {} (weight {})", example.line, example.judged.weight);
        for (place, sequence) in example.sequences.iter().enumerate() {
            let (prompt, answer) = parts(&inputs, sequence)?;
            if place == 0 {
                println!(
                    "  prompt, {} tokens, not scored: {prompt:?}",
                    sequence.prompt
                );
            }
            let reward = example.judged.rewards[place];
            println!(
                "  answer, {} tokens scored, reward {reward}: {answer:?}",
                scored(sequence)
            );
        }
    }
    for (name, examples) in [("training", &inputs.train), ("held out", &inputs.held_out)] {
        print_set(name, examples);
    }
    Ok(())
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
        let mask: Vec<u8> = (0..sequence.ids.len()).map(|at| u8::from(at >= sequence.prompt.max(1))).collect();
        Ok(json!({"prompt": prompt, "answer": answer, "ids": sequence.ids, "tokens": tokens, "completion_mask": mask}))
    });
    Ok(json!({
        "line": example.line,
        "rewards": example.judged.rewards,
        "weight": example.judged.weight,
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

fn quantile(sorted: &[usize], share: f64) -> usize {
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
            "median": quantile(&lengths, 0.5), "p95": quantile(&lengths, 0.95), "max": quantile(&lengths, 1.0),
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
        quantile(&lengths, 0.5),
        quantile(&lengths, 0.95),
        quantile(&lengths, 1.0)
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
