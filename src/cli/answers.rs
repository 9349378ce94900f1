//! `preftune score` and `preftune label` of answers that a language model has written: their rewards, how they compare with
//! those of another model, and pairs to learn from.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::cli::output::print_json;
use crate::cli::progress::{tell, warn_of};
use crate::cli::table::{self, quoted};
use crate::data::text::answers::{self, Answered};
use crate::data::text::{Read, Text, put_variables};
use crate::error::{Error, Result};
use crate::eval::bootstrap::{Bootstrap, mean};
use crate::files::write_atomically;
use crate::jobs::judge::texts::TextJudge;
use crate::rewards::bradley_terry::probability;

#[derive(Args)]
#[command(next_help_heading = "Answers of language models")]
pub(super) struct AnswerArgs {
    /// Files of answers as `preftune generate --out FILE.jsonl` writes them, or other records of prompts with answers, in
    /// place of images. Of several files, `score` compares each with the first.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "reward")]
    #[arg(conflicts_with_all = ["data", "references", "images", "encoder", "prompt", "prompts"])]
    pub(super) answers: Vec<PathBuf>,
}

/// Answers with their rewards, prompt by prompt.
struct Rewarded {
    answered: Vec<Answered>,
    /// `[prompt][answer][output]`
    outputs: Vec<Vec<Vec<f64>>>,
    /// The first output, which is the reward.
    rewards: Vec<Vec<f64>>,
}

fn read(path: &Path, judge: &TextJudge, quiet: bool) -> Result<Rewarded> {
    let Read {
        rows: answered,
        notes,
    } = answers::read(path)?;
    tell(&notes, quiet);
    warn_of(&judge.warnings_on(answered.iter().map(|one| &one.prompt)));
    let opinion = |one: &Answered| {
        let texts: Vec<Text> = one.answers.iter().map(|given| given.text.clone()).collect();
        let opinion = judge.of_answers(&one.prompt, &one.variables, &texts)?;
        Ok(opinion.rewards())
    };
    let outputs: Vec<Vec<Vec<f64>>> = answered.iter().map(opinion).collect::<Result<_>>()?;
    let first = |answers: &Vec<Vec<f64>>| answers.iter().map(|outputs| outputs[0]).collect();
    Ok(Rewarded {
        answered,
        rewards: outputs.iter().map(first).collect(),
        outputs,
    })
}

/// A mean over prompts with its interval.
fn figure(clusters: &[Vec<f64>]) -> Value {
    json!({"mean": mean(clusters), "interval": Bootstrap::default().interval(clusters)})
}

// What an argument `requires` clap does not ask for where something that is given excludes it, and the argument would be
// left unused: each below excludes it too.

/// Files that `score` writes beside its table.
#[derive(Args)]
#[command(next_help_heading = "Answers of language models")]
pub(super) struct ScoredArgs {
    /// Write every answer with its `reward`, JSON lines that all verbs read as answers.
    #[arg(long, value_name = "FILE", requires = "answers", conflicts_with_all = ["data", "images"])]
    out: Option<PathBuf>,
    /// Of the answers to each prompt, write the best so many alone (best of n).
    #[arg(long, value_name = "N", requires = "out", value_parser = clap::value_parser!(u64).range(1..))]
    #[arg(conflicts_with_all = ["data", "images"])]
    top: Option<u64>,
}

/// Rewards of every file, and of the later ones beside the first.
pub(super) fn score(
    args: &AnswerArgs,
    scored: &ScoredArgs,
    judge: &TextJudge,
    csv: Option<&Path>,
    (as_json, quiet): (bool, bool),
) -> Result<()> {
    let mut files = Vec::new();
    let mut first: Option<Rewarded> = None;
    let mut written = Written::default();
    for path in &args.answers {
        let own = read(path, judge, quiet)?;
        written.add(path, &own, judge);
        let count: usize = own.rewards.iter().map(Vec::len).sum();
        let mut row = json!({
            "file": path, "prompts": own.rewards.len(), "answers": count, "reward": figure(&own.rewards),
        });
        if let Some(first) = &first {
            let [differences, wins] = beside(&own, first, path)?;
            row["difference"] = figure(&differences);
            row["win_rate"] = figure(&wins);
        }
        files.push(row);
        first.get_or_insert(own);
    }
    if let Some(path) = csv {
        write_atomically(path, written.csv(&judge.outputs).as_bytes())?;
    }
    let out = scored.out.as_deref();
    let kept = out.map(|out| written.write(out, scored.top)).transpose()?;
    if as_json {
        let mut report = json!({"files": files});
        if let (Some(out), Some((answers, left_out))) = (out, kept) {
            report["out"] = json!({"file": out, "answers": answers, "empty_left_out": left_out});
        }
        print_json(&report);
        return Ok(());
    }
    let header = ["answers", "count", "reward", "difference", "win rate"].map(str::to_owned);
    let rows = files.iter().map(|row| {
        vec![
            row["file"].as_str().unwrap_or_default().to_owned(),
            row["answers"].to_string(),
            in_words(&row["reward"]),
            in_words(&row["difference"]),
            in_words(&row["win_rate"]),
        ]
    });
    print!("{}", table::render(&header, &rows.collect::<Vec<_>>()));
    println!("means over prompts; 95 % intervals by drawing prompts anew");
    if let (Some(out), Some((answers, left_out))) = (out, kept) {
        let empty = match left_out {
            0 => String::new(),
            left_out => format!("; {left_out} empty ones are left out"),
        };
        println!("{}: {answers} answers{empty}", out.display());
    }
    Ok(())
}

/// Every answer of all files with its rewards, those to one prompt together.
#[derive(Default)]
struct Written {
    prompts: Vec<(Answered, Vec<One>)>,
}

struct One {
    file: PathBuf,
    row: Value,
    words: String,
    empty: bool,
    rewards: Vec<f64>,
}

impl Written {
    fn add(&mut self, path: &Path, all: &Rewarded, judge: &TextJudge) {
        for (answered, outputs) in all.answered.iter().zip(&all.outputs) {
            let ones = answered
                .answers
                .iter()
                .zip(outputs)
                .map(|(given, rewards)| One {
                    file: path.to_owned(),
                    row: answered.scored_row(given, &judge.outputs, rewards),
                    words: in_cell(&given.text),
                    empty: given.text.is_empty(),
                    rewards: rewards.clone(),
                });
            let same = |known: &Answered| {
                known.prompt == answered.prompt && known.variables == answered.variables
            };
            match self.prompts.iter_mut().find(|(known, _)| same(known)) {
                Some((_, known)) => known.extend(ones),
                None => self.prompts.push((answered.clone(), ones.collect())),
            }
        }
    }

    /// Writes the answers, of each prompt the best `top` that say anything where that is given; how many, and how many were
    /// empty and left out.
    fn write(&self, out: &Path, top: Option<u64>) -> Result<(usize, usize)> {
        let (mut lines, mut count, mut left_out) = (String::new(), 0, 0);
        for (_, ones) in &self.prompts {
            let mut ones: Vec<&One> = ones.iter().collect();
            if let Some(top) = top {
                let all = ones.len();
                ones.retain(|one| !one.empty);
                left_out += all - ones.len();
                ones.sort_by(|one, other| other.rewards[0].total_cmp(&one.rewards[0]));
                ones.truncate(top as usize);
            }
            count += ones.len();
            lines.extend(ones.iter().map(|one| one.row.to_string() + "\n"));
        }
        write_atomically(out, lines.as_bytes())?;
        Ok((count, left_out))
    }

    fn csv(&self, outputs: &[String]) -> String {
        let names = ["file", "prompt", "text"].map(str::to_owned).into_iter();
        let names = names.chain(outputs.iter().map(|output| quoted(output)));
        let mut text = names.collect::<Vec<_>>().join(",") + "\n";
        for (answered, ones) in &self.prompts {
            for one in ones {
                let cells = [
                    &one.file.to_string_lossy(),
                    in_cell(&answered.prompt).as_str(),
                    &one.words,
                ]
                .map(quoted);
                let rewards = one.rewards.iter().map(f64::to_string);
                let cells: Vec<String> = cells.into_iter().chain(rewards).collect();
                text += &(cells.join(",") + "\n");
            }
        }
        text
    }
}

/// Words, or the JSON of messages that are more than the words of one.
fn in_cell(text: &Text) -> String {
    match text {
        Text::Instructed { .. } => text.to_value().to_string(),
        Text::Chat(messages) if messages.len() > 1 => text.to_value().to_string(),
        text => text
            .words()
            .map_or_else(|| text.to_value().to_string(), str::to_owned),
    }
}

fn in_words(figure: &Value) -> String {
    let Some(mean) = figure["mean"].as_f64() else {
        return "-".to_owned();
    };
    let end = |place: usize| figure["interval"][place].as_f64();
    match (end(0), end(1)) {
        (Some(low), Some(high)) => format!("{mean:.3} ({low:.3} to {high:.3})"),
        _ => format!("{mean:.3}"),
    }
}

/// For each prompt of both: the difference of mean rewards, and how often an answer has more than one of the first file's (a
/// tie is half).
fn beside(own: &Rewarded, first: &Rewarded, path: &Path) -> Result<[Vec<Vec<f64>>; 2]> {
    let (mut differences, mut wins) = (Vec::new(), Vec::new());
    for (answered, rewards) in own.answered.iter().zip(&own.rewards) {
        let found = first.answered.iter().position(|known| {
            known.prompt == answered.prompt && known.variables == answered.variables
        });
        let Some(place) = found else {
            continue;
        };
        let base = &first.rewards[place];
        let mean = |rewards: &[f64]| rewards.iter().sum::<f64>() / rewards.len() as f64;
        differences.push(vec![mean(rewards) - mean(base)]);
        let pairs = rewards
            .iter()
            .flat_map(|own| base.iter().map(move |base| (own, base)));
        let won = pairs.map(|(own, base)| f64::from(own.total_cmp(base) as i8) / 2.0 + 0.5);
        wins.push(won.collect());
    }
    if differences.is_empty() {
        return Err(Error::data(path, "shares no prompt with the first file")
            .with_hint("have both models answer the same prompts with the same `--system`"));
    }
    Ok([differences, wins])
}

#[derive(Args)]
#[command(next_help_heading = "Answers of language models")]
pub(super) struct PairArgs {
    /// Pairs for each prompt: best with worst answer, second best with second worst, and so on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000), requires = "answers")]
    #[arg(conflicts_with_all = ["data", "images"])]
    per_prompt: u64,
    /// Least difference of rewards of a pair.
    #[arg(long, default_value_t = 0.1, requires = "answers", conflicts_with_all = ["data", "images"])]
    min_gap: f64,
}

/// Pairs of the better and the worse answer to each prompt as training data, with their difference of rewards in units of
/// `tau` where a `margin` is asked for.
pub(super) fn label(
    args: &AnswerArgs,
    pairs: &PairArgs,
    judge: &TextJudge,
    (tau, margin): (f64, bool),
    out: &Path,
    (as_json, quiet): (bool, bool),
) -> Result<()> {
    if !(pairs.min_gap.is_finite() && pairs.min_gap > 0.0) {
        return Err(Error::config("`--min-gap` must be above 0"));
    }
    let (mut lines, mut count, mut prompts, mut alike) = (String::new(), 0_u64, 0_u64, 0_u64);
    let mut gaps = 0.0;
    for path in &args.answers {
        let all = read(path, judge, quiet)?;
        for (answered, rewards) in all.answered.iter().zip(&all.rewards) {
            prompts += 1;
            let mut order: Vec<usize> = (0..rewards.len()).collect();
            order.sort_by(|&one, &other| rewards[other].total_cmp(&rewards[one]));
            let opposite = order.iter().zip(order.iter().rev());
            for (&better, &worse) in opposite.take((order.len() / 2).min(pairs.per_prompt as usize))
            {
                let (high, low) = (rewards[better], rewards[worse]);
                let text = |place: usize| &answered.answers[place].text;
                let empty = text(better).is_empty() || text(worse).is_empty();
                if high - low < pairs.min_gap || empty {
                    alike += 1;
                    continue;
                }
                let side = |place: usize| text(place).to_value();
                let mut record = json!({
                    "prompt": null, "chosen": side(better), "rejected": side(worse), "chosen_score": high,
                    "rejected_score": low, "chosen_prob": probability(high, low, tau),
                });
                answered.prompt.put(&mut record);
                if margin {
                    record["margin"] = json!((high - low) / tau);
                }
                put_variables(&mut record, &answered.variables);
                lines += &(record.to_string() + "\n");
                count += 1;
                gaps += high - low;
            }
        }
    }
    if count == 0 {
        return Err(Error::data(
            &args.answers[0],
            format!(
                "no two answers to a prompt differ by `--min-gap` {}",
                pairs.min_gap
            ),
        )
        .with_hint(
            "sample more answers to each prompt (`generate --count`), at a higher temperature",
        ));
    }
    write_atomically(out, lines.as_bytes())?;
    if as_json {
        let report = json!({
            "out": out, "prompts": prompts, "pairs": count, "alike": alike, "mean_gap": gaps / count as f64,
        });
        print_json(&report);
    } else {
        println!(
            "{}: {count} pairs of {prompts} prompts, mean difference {:.3}; {alike} left out as too much alike",
            out.display(),
            gaps / count as f64
        );
    }
    Ok(())
}
