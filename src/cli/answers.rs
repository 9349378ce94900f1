//! `preftune score` and `preftune label` of answers that a language model has written: their rewards, how they compare with
//! those of another model, and pairs to learn from.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::table;
use super::text_rewards::TextJudge;
use crate::data::text::answers::{self, Answered};
use crate::data::text::{Text, put_variables};
use crate::error::{Error, Result};
use crate::eval::bootstrap::{Bootstrap, mean};
use crate::files::write_atomically;
use crate::rewards::bradley_terry::probability;

#[derive(Args)]
#[command(next_help_heading = "Answers of language models")]
pub(super) struct AnswerArgs {
    /// Files of answers as `preftune generate --out FILE.jsonl` writes them, in place of images. `score` compares the others
    /// with the first.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "reward")]
    #[arg(conflicts_with_all = ["data", "references", "images", "encoder", "prompt", "prompts"])]
    pub(super) answers: Vec<PathBuf>,
}

/// Answers with their rewards, prompt by prompt.
struct Rewarded {
    answered: Vec<Answered>,
    /// The answers in the form of their prompt.
    texts: Vec<Vec<Text>>,
    rewards: Vec<Vec<f64>>,
}

fn read(path: &Path, judge: &TextJudge) -> Result<Rewarded> {
    let answered = answers::read(path)?;
    let (mut texts, mut rewards) = (Vec::new(), Vec::new());
    for one in &answered {
        let prompt =
            Text::read(&one.prompt, "prompt").map_err(|problem| Error::data(path, problem))?;
        let answers = one.answers.iter();
        let answers: Vec<Text> = answers.map(|one| prompt.answered_by(&one.text)).collect();
        let opinion = judge.of_answers(&prompt, &one.variables, &answers)?;
        let outputs = opinion.rewards();
        rewards.push(outputs.iter().map(|outputs| outputs[0]).collect());
        texts.push(answers);
    }
    Ok(Rewarded {
        answered,
        texts,
        rewards,
    })
}

/// A mean over prompts with its interval.
fn figure(clusters: &[Vec<f64>]) -> Value {
    json!({"mean": mean(clusters), "interval": Bootstrap::default().interval(clusters)})
}

/// Rewards of every file, and of the later ones beside the first.
pub(super) fn score(args: &AnswerArgs, judge: &TextJudge, as_json: bool) -> Result<()> {
    let mut files = Vec::new();
    let mut first: Option<Rewarded> = None;
    for path in &args.answers {
        let own = read(path, judge)?;
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
    if as_json {
        let report = json!({"files": files});
        println!(
            "{}",
            serde_json::to_string_pretty(&report).unwrap_or_default()
        );
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
    Ok(())
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
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    per_prompt: u64,
    /// Least difference of rewards of a pair.
    #[arg(long, default_value_t = 0.1)]
    min_gap: f64,
}

/// Pairs of the better and the worse answer to each prompt as training data.
pub(super) fn label(
    args: &AnswerArgs,
    pairs: &PairArgs,
    judge: &TextJudge,
    tau: f64,
    out: &Path,
    as_json: bool,
) -> Result<()> {
    if !(pairs.min_gap.is_finite() && pairs.min_gap > 0.0) {
        return Err(Error::config("`--min-gap` must be above 0"));
    }
    let (mut lines, mut count, mut prompts, mut alike) = (String::new(), 0_u64, 0_u64, 0_u64);
    let mut gaps = 0.0;
    for path in &args.answers {
        let all = read(path, judge)?;
        for ((answered, texts), rewards) in all.answered.iter().zip(&all.texts).zip(&all.rewards) {
            prompts += 1;
            let mut order: Vec<usize> = (0..rewards.len()).collect();
            order.sort_by(|&one, &other| rewards[other].total_cmp(&rewards[one]));
            let opposite = order.iter().zip(order.iter().rev());
            for (&better, &worse) in opposite.take((order.len() / 2).min(pairs.per_prompt as usize))
            {
                let (high, low) = (rewards[better], rewards[worse]);
                let text = |place: usize| answered.answers[place].text.as_str();
                let empty = text(better).is_empty() || text(worse).is_empty();
                if high - low < pairs.min_gap || empty {
                    alike += 1;
                    continue;
                }
                let side = |place: usize| texts[place].to_value();
                let mut record = json!({
                    "prompt": answered.prompt, "chosen": side(better), "rejected": side(worse),
                    "chosen_score": high, "rejected_score": low, "chosen_prob": probability(high, low, tau),
                });
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
        println!(
            "{}",
            serde_json::to_string_pretty(&report).unwrap_or_default()
        );
    } else {
        println!(
            "{}: {count} pairs of {prompts} prompts, mean difference {:.3}; {alike} left out as too much alike",
            out.display(),
            gaps / count as f64
        );
    }
    Ok(())
}
