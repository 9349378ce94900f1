//! Answers of language models before and after: those that rounds were judged by, and those of `preftune eval text`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::read::Run;
use super::words;
use crate::error::Result;
use crate::run::evaluation::ANSWERS_FILE;
use crate::run::recorder::samples_at;

/// Prompts shown at most.
const PROMPTS: usize = 6;
/// Letters of an answer or a prompt shown at most.
const LETTERS: usize = 1200;

/// Answers of two models to the same prompts, from the same seeds.
#[derive(Serialize)]
pub(super) struct Answers {
    title: String,
    columns: [String; 2],
    rows: Vec<Row>,
    note: String,
}

#[derive(Serialize)]
struct Row {
    prompt: String,
    /// Before and after.
    cells: [Answer; 2],
}

#[derive(Serialize)]
struct Answer {
    text: String,
    /// The scorer's reward for it, where it gives rewards.
    reward: Option<String>,
}

/// Of each run that has any.
///
/// # Errors
/// A file of answers that cannot be read. A line of one that is no answer is passed over: a kill may have cut it.
pub(super) fn answers(runs: &[Run]) -> Result<Vec<Answers>> {
    let mut found = Vec::new();
    for run in runs {
        let named = |what: String| {
            if runs.len() > 1 {
                format!("{}: {what}", run.name)
            } else {
                what
            }
        };
        if let Some(last) = last_round(&run.path) {
            let file = |round: u64| run.path.join(format!("round-{round}/judged.jsonl"));
            let (before, after) = (rows(&file(0))?, rows(&file(last))?);
            let columns = [
                "before the first round".to_owned(),
                format!("after round {last}"),
            ];
            let pairs = before.iter().zip(&after).map(|(before, after)| Row {
                prompt: prompt(before),
                cells: [before, after].map(|row| answer(&row["responses"][0], &row["rewards"][0])),
            });
            found.extend(shown(named("rounds".to_owned()), columns, pairs.collect()));
        }
        found.extend(validated(run, &named));
        let evaluated = rows(&run.path.join("eval/answers").join(ANSWERS_FILE))?;
        let columns = |row: &Value| {
            let of = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            [
                of("other_is").replace("base", "untuned"),
                "tuned".to_owned(),
            ]
        };
        if let Some(first) = evaluated.first() {
            let pairs = evaluated.iter().map(|row| Row {
                prompt: prompt(row),
                cells: [("other", "other_rewards"), ("answers", "rewards")]
                    .map(|(answers, rewards)| answer(&row[answers][0], &row[rewards][0])),
            });
            let pairs = pairs.collect();
            found.extend(shown(named("evaluation".to_owned()), columns(first), pairs));
        }
    }
    Ok(found)
}

/// Answers at the first validation and at that of the best weights.
fn validated(run: &Run, named: &dyn Fn(String) -> String) -> Option<Answers> {
    let best = run.manifest["best"][0].as_u64()?;
    let at = |step| rows(&samples_at(&run.path, step).join(ANSWERS_FILE)).unwrap_or_default();
    let (before, after) = (at(0), at(best));
    let pairs = before.iter().zip(&after).map(|(before, after)| Row {
        prompt: prompt(before),
        cells: [before, after].map(|row| answer(&row["text"], &Value::Null)),
    });
    let columns = ["untuned".to_owned(), format!("best weights (step {best})")];
    let all = before.len();
    let rows: Vec<Row> = pairs.collect();
    (best > 0 && !rows.is_empty()).then(|| Answers {
        title: named("validations".to_owned()),
        columns,
        note: format!(
            "{all} held-out prompts, answered with the likeliest tokens; long answers are cut off."
        ),
        rows,
    })
}

fn shown(title: String, columns: [String; 2], mut rows: Vec<Row>) -> Option<Answers> {
    let all = rows.len();
    rows.truncate(PROMPTS);
    (all > 0).then(|| Answers {
        title,
        columns,
        note: format!(
            "{} of {all} prompts, with the first answer of each model, both from the same seed.",
            rows.len()
        ),
        rows,
    })
}

/// The last round whose policy was judged.
fn last_round(run: &Path) -> Option<u64> {
    let entries = fs::read_dir(run).into_iter().flatten();
    let rounds = entries.filter_map(|entry| {
        let path: PathBuf = entry.ok()?.path();
        let number = path
            .file_name()?
            .to_str()?
            .strip_prefix("round-")?
            .parse()
            .ok()?;
        path.join("judged.jsonl").is_file().then_some(number)
    });
    rounds.max().filter(|round| *round > 0)
}

fn rows(path: &Path) -> Result<Vec<Value>> {
    let text = crate::files::read_text_if_there(path)?.unwrap_or_default();
    let rows = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    Ok(rows.collect())
}

/// Plain text, or the last thing that was said in a conversation.
fn prompt(row: &Value) -> String {
    let prompt = &row["prompt"];
    let last = prompt.as_array().and_then(|messages| messages.last());
    let text = prompt
        .as_str()
        .or(last.and_then(|last| last["content"].as_str()));
    let line = || {
        row["line"]
            .as_u64()
            .map(|line| format!("prompt in line {line}"))
    };
    cut(&text.map(str::to_owned).or_else(line).unwrap_or_default())
}

fn answer(text: &Value, reward: &Value) -> Answer {
    Answer {
        text: cut(text.as_str().unwrap_or_default()),
        reward: reward
            .as_f64()
            .map(|reward| format!("reward {}", words::score(reward))),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LETTERS) {
        Some((end, _)) => format!("{} \u{2026}", &text[..end]),
        None => text.to_owned(),
    }
}
