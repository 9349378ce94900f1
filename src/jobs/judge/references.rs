//! Rewards of answers that others are compared with (`--reference-data`). They are computed once: a file beside the reward
//! model keeps them by what was asked and answered, for one state of its weights and precision.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::data::text::{self, Record, Text};
use crate::error::{Error, Result};
use crate::jobs::judge::texts::TextJudge;
use crate::models::weights::hex;
use crate::run::recorder::Display;
use crate::run::rows::Rows;

/// The folder in a reward model's.
const FOLDER: &str = "references";

/// Rewards that are kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Hash of a prompt and its answers.
    key: String,
    /// `[answer][output]`
    rewards: Vec<Vec<f64>>,
}

/// For each of the judged `records` of a file the rewards of the answers that `path` has to the same prompt,
/// `[record][answer][output]`, by the model of the folder `reward`.
pub(crate) fn rewards_of_references(
    judge: &TextJudge,
    reward: &Path,
    path: &Path,
    (judged, records): (&Path, &[Record]),
    display: &mut dyn Display,
) -> Result<Vec<Vec<Vec<f64>>>> {
    if judge.compares() {
        return Err(Error::config(
            "`--reference-data`: a general preference model gives no rewards to make reference values of",
        ));
    }
    if !reward.exists() {
        return Err(Error::config(
            "`--reference-data` keeps rewards in a reward model's folder, and `sentiment` has none",
        ));
    }
    let (_, read) = text::read_any(path)?;
    for line in read.notes.lines() {
        display.say(&line);
    }
    let references = read.rows;
    let folder = reward.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(|source| Error::io("create", &folder, source))?;
    let file = folder.join(format!("{}.jsonl", &judge.fingerprint()?[..32]));
    let (mut file, kept) = Rows::open::<Kept>(&file, 1, usize::MAX)?;
    let mut kept: HashMap<String, Vec<Vec<f64>>> = kept
        .into_iter()
        .map(|kept| (kept.key, kept.rewards))
        .collect();
    let mut of_prompts: BTreeMap<String, Vec<Vec<f64>>> = BTreeMap::new();
    let mut scored = 0;
    for reference in &references {
        let key = key(reference);
        let rewards = if let Some(rewards) = kept.get(&key) {
            rewards.clone()
        } else {
            let rewards = judge.of_record(path, reference)?;
            file.add(&[Kept {
                key: key.clone(),
                rewards: rewards.clone(),
            }])?;
            kept.insert(key, rewards.clone());
            scored += 1;
            rewards
        };
        let prompt = reference.prompt.to_value().to_string();
        of_prompts.entry(prompt).or_default().extend(rewards);
    }
    display.say(&format!(
        "reference values: {} records, {scored} scored, {} kept from before",
        references.len(),
        references.len() - scored
    ));
    let own = records.iter().map(|record| {
        let rewards = of_prompts.get(&record.prompt.to_value().to_string());
        rewards.cloned().ok_or_else(|| {
            let problem = format!("`{}` has no answer to this prompt", path.display());
            Error::data_line(judged, record.line, problem)
                .with_hint("every prompt needs answers in `--reference-data`")
        })
    });
    own.collect()
}

fn key(record: &Record) -> String {
    let answers: Vec<_> = record.answers.iter().map(Text::to_value).collect();
    let asked = json!([record.prompt.to_value(), answers]).to_string();
    hex(&Sha256::digest(asked))
}
