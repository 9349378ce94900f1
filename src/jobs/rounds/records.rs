//! The training data of a round: records of the scored answers in the form that the objective takes, and records of
//! earlier rounds again.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::shared::Shared;
use crate::config::{LabelSection, PairChoice, RoundsSection};
use crate::data::text::{Prompt, Shape, Text, put_variables};
use crate::error::{Error, Result};
use crate::ops::random::{derive_seed, permutation};
use crate::rewards::pairs::{Candidates, Margins, Percentiles};
use crate::rewards::pool::{Pool, Verdict};
use crate::rewards::repetition::repetition;
use crate::trainer::text::as_asked;

/// The records that a round's own answers make, of a folder of rounds.
pub(crate) const OWN: &str = "records.jsonl";

/// A policy's answers to a prompt.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Answers {
    pub(crate) line: usize,
    pub(crate) responses: Vec<String>,
    /// `true` if each came to an end by itself.
    pub(crate) ended: Vec<bool>,
}

/// The answers that are scored beside each other: a policy's, and after them the one that the data bring along.
pub(crate) fn judged(prompt: &Prompt, answers: &Answers) -> Vec<String> {
    let gold = prompt.gold.iter().cloned();
    answers.responses.iter().cloned().chain(gold).collect()
}

/// A prompt as the policies are asked, which is the form in which they learn.
pub(crate) fn asked(shared: &Shared, prompt: &Prompt) -> Text {
    as_asked(&shared.tokenizer, &prompt.text).into_owned()
}

/// Records of a round's own answers, each with the line of its prompt.
pub(crate) fn own(
    shared: &Shared,
    prompts: &[Prompt],
    answers: &[Answers],
    verdicts: &[Verdict],
) -> Result<Vec<(usize, Value)>> {
    let mut all = Vec::new();
    for ((prompt, answers), verdict) in prompts.iter().zip(answers).zip(verdicts) {
        // A transform has divided by tau.
        let tau = shared.transform.map_or(shared.config.scorer.tau, |_| 1.0);
        let texts = judged(prompt, answers);
        let candidates = Candidates::new(
            Pool::new(verdict, tau),
            // Empty answers are no part of a record.
            (0..texts.len())
                .filter(|&place| !texts[place].trim().is_empty())
                .collect(),
            spoilt(shared, answers)?,
            prompt.gold.as_ref().map(|_| answers.responses.len()),
            margins(&shared.config.labels),
        );
        let question = asked(shared, prompt);
        let records = of_prompt(shared, &question, &texts, &candidates);
        all.extend(records.into_iter().map(|mut record| {
            put_variables(&mut record, &prompt.variables);
            (prompt.line, record)
        }));
    }
    Ok(all)
}

pub(super) fn margins(labels: &LabelSection) -> Margins {
    Margins {
        min_gap: labels.min_gap,
        min_reward: labels.min_reward,
        reward_gap: labels.reward_gap,
        own_reward_gap: labels.own_reward_gap,
    }
}

/// The answers that count as the worst: they repeat themselves or did not end.
fn spoilt(shared: &Shared, answers: &Answers) -> Result<Vec<usize>> {
    let labels = &shared.config.labels;
    let mut spoilt = Vec::new();
    for (place, response) in answers.responses.iter().enumerate() {
        let repeats = match labels.max_repetition {
            None => false,
            Some(most) => repetition(&shared.tokenizer.encode(response, false)?) > most,
        };
        if repeats || labels.must_end && !answers.ended[place] {
            spoilt.push(place);
        }
    }
    Ok(spoilt)
}

fn of_prompt(
    shared: &Shared,
    prompt: &Text,
    texts: &[String],
    candidates: &Candidates,
) -> Vec<Value> {
    let (labels, pool) = (&shared.config.labels, candidates.pool());
    let question = prompt.to_value();
    let answer = |place: usize| prompt.answered_by(&texts[place]).to_value();
    let ends = candidates.best_worst();
    match shared.objective.shape() {
        Shape::Pairs => {
            let pairs = pairs_of(labels, candidates);
            let differ = |&(chosen, rejected): &(usize, usize)| texts[chosen] != texts[rejected];
            let record = |(chosen, rejected)| {
                json!({
                    "prompt": question, "chosen": answer(chosen), "rejected": answer(rejected),
                    "chosen_probs_win": pool.wins[chosen], "chosen_probs_lose": pool.wins[rejected],
                    "chosen_score": pool.log_odds[chosen], "rejected_score": pool.log_odds[rejected],
                })
            };
            pairs.into_iter().filter(differ).map(record).collect()
        }
        Shape::Marked => ends
            .into_iter()
            .flat_map(|(best, worst)| [(best, true), (worst, false)])
            .map(|(place, good)| {
                json!({"prompt": question, "completion": answer(place), "label": good})
            })
            .collect(),
        Shape::Answers => ends
            .into_iter()
            .map(|(best, _)| json!({"prompt": question, "completion": answer(best)}))
            .collect(),
        Shape::Ranked | Shape::Sampled => ends
            .into_iter()
            .map(|_| {
                let there = candidates.among();
                let answers: Vec<Value> = there.iter().map(|&place| answer(place)).collect();
                let rewards: Vec<f64> = there.iter().map(|&place| pool.rewards[place]).collect();
                json!({"prompt": question, "responses": answers, "scores": rewards})
            })
            .collect(),
    }
}

/// The pairs of a prompt's candidates that are learnt from, the better one first.
pub(super) fn pairs_of(labels: &LabelSection, candidates: &Candidates) -> Vec<(usize, usize)> {
    match labels.pairs {
        PairChoice::BestWorst => candidates.best_worst().into_iter().collect(),
        PairChoice::All => candidates.pairs(),
        PairChoice::Percentile => candidates.far_apart(Percentiles {
            positive: labels.positive,
            negative: labels.negative,
        }),
    }
}

/// Lines of the records of rounds before `round` that are learnt from again, drawn by the run's seed.
pub(crate) fn replayed(
    rounds: &RoundsSection,
    seed: u64,
    run: &Path,
    round: u64,
) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (earlier, share) in (1..round).rev().zip(&rounds.replay) {
        let path = run.join(format!("round-{earlier}")).join(OWN);
        let text =
            std::fs::read_to_string(&path).map_err(|source| Error::io("read", &path, source))?;
        let lines: Vec<&str> = text.lines().collect();
        let seed = derive_seed(seed, "replay", &[round, earlier]);
        // The addend makes up for shares such as 0.29, which are a little less in binary.
        let count = (share * lines.len() as f64 + 1e-9) as usize;
        let mut drawn = permutation(seed, lines.len());
        drawn.truncate(count);
        drawn.sort_unstable();
        all.extend(
            drawn
                .into_iter()
                .map(|place| lines[place].to_owned() + "\n"),
        );
    }
    Ok(all)
}
