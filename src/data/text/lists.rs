//! Several answers to one prompt with their ranks or rewards, in the columns that published data sets have.

use serde_json::Value;

use super::columns::{align, lacks, prompt};
use super::message::Text;
use crate::data::columns::Columns;
use crate::data::left_out::shown;

/// Prompt, answers and their rewards.
pub(super) type Listed = (Text, Vec<Text>, Vec<f64>);

/// Columns that hold the answers.
pub(super) const ANSWERS: [&str; 4] = ["responses", "answers", "suffix", COMPLETIONS];
/// UltraFeedback's column of answers with what annotators gave them.
const COMPLETIONS: &str = "completions";

/// Prompt, samples and their rewards: as [`ranked`], but ranks alone are no rewards, and rewards may be equal.
pub(super) fn sampled(columns: &Columns) -> Result<Listed, String> {
    let there = |name| columns.has(name);
    if !["scores", "rewards", "suffix", COMPLETIONS]
        .into_iter()
        .any(there)
    {
        return Err(lacks(columns, "scores"));
    }
    listed(columns)
}

/// Prompt, answers and their rewards, which differ; `None` of a row of UltraFeedback whose answers got the same.
pub(super) fn ranked(columns: &Columns) -> Result<Option<Listed>, String> {
    let listed = listed(columns)?;
    let rewards = &listed.2;
    let same = |reward: &f64| (reward - rewards[0]).abs() < f64::EPSILON;
    match (rewards.iter().all(same), columns.has(COMPLETIONS)) {
        (false, _) => Ok(Some(listed)),
        (true, true) => Ok(None),
        (true, false) => Err("all answers have the same rank".to_owned()),
    }
}

/// Prompt, answers and their rewards: `responses`, best first, as `order` says or with `scores`; Nectar's `answers` with
/// `rank` (1 is best); PRO's `prefix`, `suffix` and `reward`; UltraFeedback's `completions`.
pub(super) fn listed(columns: &Columns) -> Result<Listed, String> {
    let (name, values, rewards) = if let Some(values) = list(columns, "responses")? {
        (
            "responses",
            values.clone(),
            of_responses(columns, values.len())?,
        )
    } else if let Some(values) = list(columns, "answers")? {
        let texts = fields(values, "answers", "answer")?;
        let count = values.len() as f64;
        let ranks = numbers(&fields(values, "answers", "rank")?, "rank")?.into_iter();
        ("answers", texts, ranks.map(|rank| count - rank).collect())
    } else if let (Some(values), Some(rewards)) =
        (list(columns, "suffix")?, list(columns, "reward")?)
    {
        ("suffix", values.clone(), numbers(rewards, "reward")?)
    } else if let Some(values) = list(columns, COMPLETIONS)? {
        let rewards = values.iter().map(rating).collect::<Result<_, _>>()?;
        (
            COMPLETIONS,
            fields(values, COMPLETIONS, "response")?,
            rewards,
        )
    } else {
        return Err(lacks(columns, "responses"));
    };
    if values.len() < 2 {
        return Err(format!(
            "`{name}` has {} answer: a ranking has two or more",
            values.len()
        ));
    }
    if values.len() != rewards.len() {
        return Err(format!(
            "`{name}` has {} answers, but there are {} rewards",
            values.len(),
            rewards.len()
        ));
    }
    let answers = values.iter().map(|value| Text::read(value, name));
    let answers: Vec<Text> = answers.collect::<Result<_, _>>()?;
    let prompt = match list(columns, "prefix")? {
        Some(turns) if name == "suffix" => {
            Text::Plain(turns.iter().filter_map(Value::as_str).collect())
        }
        _ => prompt(columns)?.ok_or_else(|| lacks(columns, "prompt"))?,
    };
    let (prompt, answers) = align(prompt, answers);
    Ok((prompt, answers, rewards))
}

/// Rewards of `responses`: what `scores` or `rewards` give, else ranks in the order that `order` names.
fn of_responses(columns: &Columns, count: usize) -> Result<Vec<f64>, String> {
    let best_first = match columns.get("order") {
        None | Some(Value::Null) => None,
        Some(Value::String(order)) if order == "best_first" => Some(true),
        Some(Value::String(order)) if order == "worst_first" => Some(false),
        Some(other) => {
            return Err(format!(
                "`order` is {}, neither `best_first` nor `worst_first`",
                shown(other)
            ));
        }
    };
    let name = if columns.has("scores") {
        "scores"
    } else {
        "rewards"
    };
    let Some(rewards) = list(columns, name)? else {
        let says_order = |name: &&str| {
            let name = name.to_lowercase();
            ["rank", "rating", "score", "reward", "preference"]
                .iter()
                .any(|word| name.contains(word))
        };
        let is_order = |name: &&str| {
            let value = columns.peek(name).and_then(Value::as_array);
            value.is_some_and(|values| values.len() == count && values.iter().all(Value::is_number))
        };
        if let Some(name) = columns.names().filter(says_order).find(is_order) {
            return Err(format!(
                "`{name}` has a number for each answer, and is not read: call it `scores` where more is better, or put the best \
                 answer first and leave it out"
            ));
        }
        let ranks = (0..count).map(|rank| rank as f64);
        return Ok(match best_first {
            Some(false) => ranks.collect(),
            _ => ranks.rev().collect(),
        });
    };
    let rewards = numbers(rewards, name)?;
    let follows = |pair: &[f64]| match best_first {
        None => true,
        Some(true) => pair[0] >= pair[1],
        Some(false) => pair[0] <= pair[1],
    };
    if !rewards.windows(2).all(follows) {
        return Err(format!("`{name}` are not in the order that `order` names"));
    }
    Ok(rewards)
}

/// The rating that UltraFeedback gives a completion (Cui et al. 2023, arXiv 2310.01377): its overall score, else its
/// fine-grained score, else the mean of the aspects that were rated.
fn rating(completion: &Value) -> Result<f64, String> {
    let score = |name: &str| completion[name].as_f64().filter(|score| score.is_finite());
    if let Some(score) = score("overall_score").or_else(|| score("fine-grained_score")) {
        return Ok(score);
    }
    // Ratings are numbers in words; an aspect that does not apply is "N/A".
    let aspects = completion["annotations"].as_object().into_iter().flatten();
    let ratings = aspects.filter_map(|(_, aspect)| match &aspect["Rating"] {
        Value::String(rating) => rating.trim().parse::<f64>().ok(),
        rating => rating.as_f64(),
    });
    let ratings: Vec<f64> = ratings.filter(|rating| rating.is_finite()).collect();
    if ratings.is_empty() {
        return Err(format!(
            "`{COMPLETIONS}` has an entry without `overall_score`, `fine-grained_score` or ratings in `annotations`"
        ));
    }
    Ok(ratings.iter().sum::<f64>() / ratings.len() as f64)
}

fn list<'a>(columns: &'a Columns, name: &str) -> Result<Option<&'a Vec<Value>>, String> {
    match columns.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(values)) => Ok(Some(values)),
        Some(other) => Err(format!("`{name}` is no list: {}", shown(other))),
    }
}

/// The field `key` of every entry.
fn fields(entries: &[Value], name: &str, key: &str) -> Result<Vec<Value>, String> {
    let field = |entry: &Value| {
        let field = entry.get(key).cloned();
        field.ok_or_else(|| format!("`{name}` has an entry without `{key}`"))
    };
    entries.iter().map(field).collect()
}

fn numbers(values: &[Value], name: &str) -> Result<Vec<f64>, String> {
    let number = |value: &Value| {
        let number = value.as_f64().filter(|number| number.is_finite());
        number.ok_or_else(|| format!("`{name}` has {}, which is no number", shown(value)))
    };
    values.iter().map(number).collect()
}
