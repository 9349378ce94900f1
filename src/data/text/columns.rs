//! From the columns of published data sets to prompts and answers.

use serde_json::{Map, Value};

use super::message::Text;
use super::split;

type Columns = Map<String, Value>;

const CHOSEN: &[&str] = &["chosen", "chosen_response"];
const REJECTED: &[&str] = &["rejected", "rejected_response"];
const PROMPT: &[&str] = &["prompt", "question", "instruction", "conversations"];
const COMPLETION: &[&str] = &["completion", "response", "output"];
const MARK: &[&str] = &["label", "kto_tag"];

/// The first of these columns that is there.
fn find<'a>(columns: &'a Columns, names: &[&'static str]) -> Option<(&'static str, &'a Value)> {
    let found = names
        .iter()
        .find_map(|&name| Some((name, columns.get(name)?)));
    found.filter(|(_, value)| !value.is_null())
}

fn text(columns: &Columns, names: &[&'static str]) -> Result<Text, String> {
    let (name, value) = find(columns, names).ok_or_else(|| missing(columns, names[0]))?;
    Text::read(value, name)
}

fn missing(columns: &Columns, name: &str) -> String {
    let known: Vec<String> = columns.keys().map(|key| format!("`{key}`")).collect();
    format!("column `{name}` is missing; there are {}", known.join(", "))
}

/// The prompt, Alpaca's `input` added to its instruction; `None` where there is no such column.
fn prompt(columns: &Columns) -> Result<Option<Text>, String> {
    let Some((name, value)) = find(columns, PROMPT) else {
        return Ok(None);
    };
    let prompt = Text::read(value, name)?;
    let input = columns.get("input").and_then(Value::as_str).unwrap_or("");
    Ok(Some(match prompt {
        Text::Plain(prompt) if name == "instruction" && !input.is_empty() => {
            Text::Plain(format!("{prompt}\n{input}"))
        }
        prompt => prompt,
    }))
}

/// Prompt and answers of one kind: a prompt in words before answers that are messages becomes a message, an answer in
/// words after a prompt of messages too. Answers that repeat the prompt's messages lose them.
fn align(prompt: Text, answers: Vec<Text>) -> (Text, Vec<Text>) {
    let chat = |text: &Text| matches!(text, Text::Chat(_));
    if !chat(&prompt) && !answers.iter().any(chat) {
        return (prompt, answers);
    }
    let prompt = prompt.into_chat("user");
    let answers = answers.into_iter().map(|answer| {
        let messages = answer.into_chat("assistant");
        match messages.strip_prefix(prompt.as_slice()) {
            Some(rest) if !prompt.is_empty() => Text::Chat(rest.to_vec()),
            _ => Text::Chat(messages),
        }
    });
    let answers = answers.collect();
    (Text::Chat(prompt), answers)
}

/// Prompt, chosen and rejected answer.
pub(super) fn pair(columns: &Columns) -> Result<(Text, Text, Text), String> {
    let (chosen, rejected) = (text(columns, CHOSEN)?, text(columns, REJECTED)?);
    if chosen == rejected {
        return Err("the chosen and the rejected answer are identical".to_owned());
    }
    let Some(prompt) = prompt(columns)? else {
        return split::pair(chosen, rejected);
    };
    // Whole conversations beside the prompt in words (UltraFeedback): they say what the prompt was.
    let whole = |text: &Text| matches!(text, Text::Chat(messages) if messages.len() > 1);
    if matches!(prompt, Text::Plain(_)) && whole(&chosen) && whole(&rejected) {
        return split::pair(chosen, rejected);
    }
    let (prompt, mut answers) = align(prompt, vec![chosen, rejected]);
    let rejected = answers.pop().ok_or("no answers")?;
    let chosen = answers.pop().ok_or("no answers")?;
    Ok((prompt, chosen, rejected))
}

/// A prompt alone; messages that end with an answer lose it.
pub(super) fn question(columns: &Columns) -> Result<Text, String> {
    let prompt = prompt(columns)?.ok_or_else(|| missing(columns, PROMPT[0]))?;
    Ok(match prompt {
        Text::Chat(mut messages) => {
            if messages
                .last()
                .is_some_and(|last| last["role"] == "assistant")
            {
                messages.pop();
            }
            Text::Chat(messages)
        }
        prompt @ Text::Plain(_) => prompt,
    })
}

/// Prompt and completion.
pub(super) fn completion(columns: &Columns) -> Result<(Text, Text), String> {
    let answer = text(columns, COMPLETION)?;
    let prompt = prompt(columns)?.ok_or_else(|| missing(columns, "prompt"))?;
    let (prompt, mut answers) = align(prompt, vec![answer]);
    Ok((prompt, answers.pop().ok_or("no answers")?))
}

/// Whether an answer is desirable.
pub(super) fn mark(columns: &Columns) -> Result<bool, String> {
    let (name, value) = find(columns, MARK).ok_or_else(|| missing(columns, MARK[0]))?;
    match value {
        Value::Bool(mark) => Ok(*mark),
        Value::Number(number) if number.as_u64().is_some_and(|number| number < 2) => {
            Ok(number.as_u64() == Some(1))
        }
        other => Err(format!("`{name}` is {other}, neither true nor false")),
    }
}

/// Prompt and an answer to imitate: a completion, the chosen answer of a pair, the last turn of a chat, or text alone.
pub(super) fn answer(columns: &Columns) -> Result<(Text, Text), String> {
    if find(columns, COMPLETION).is_some() {
        return completion(columns);
    }
    if find(columns, CHOSEN).is_some() {
        let (prompt, chosen, _) = pair(columns)?;
        return Ok((prompt, chosen));
    }
    for name in ["messages", "conversations"] {
        if let Some(value) = columns.get(name) {
            let messages = Text::read(value, name)?.into_chat("assistant");
            return split::last_turn(messages, name);
        }
    }
    match columns.get("text") {
        Some(value) => Ok((Text::Plain(String::new()), Text::read(value, "text")?)),
        None => Err(missing(columns, COMPLETION[0])),
    }
}

type Listed = (Text, Vec<Text>, Vec<f64>);

/// Prompt, samples and their rewards: as [`ranked`], but ranks alone are no rewards, and rewards may be equal.
pub(super) fn sampled(columns: &Columns) -> Result<Listed, String> {
    let there = |name| columns.contains_key(name);
    if !(there("scores") || there("rewards") || there("suffix")) {
        return Err(missing(columns, "scores"));
    }
    listed(columns)
}

/// Prompt, answers and their rewards, which differ.
pub(super) fn ranked(columns: &Columns) -> Result<Listed, String> {
    let listed = listed(columns)?;
    let rewards = &listed.2;
    if rewards
        .iter()
        .all(|reward| (reward - rewards[0]).abs() < f64::EPSILON)
    {
        return Err("all answers have the same rank".to_owned());
    }
    Ok(listed)
}

/// Prompt, answers and their rewards: `responses`, best first or with `scores`; Nectar's `answers` with `rank` (1 is
/// best); PRO's `prefix`, `suffix` and `reward`.
fn listed(columns: &Columns) -> Result<Listed, String> {
    let list = |name: &'static str| -> Result<Option<&Vec<Value>>, String> {
        match columns.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(other) => Err(format!("`{name}` is no list: {other}")),
        }
    };
    let (name, values, rewards) = if let Some(values) = list("responses")? {
        let name = if columns.contains_key("scores") {
            "scores"
        } else {
            "rewards"
        };
        let rewards = match list(name)? {
            Some(rewards) => numbers(rewards, name)?,
            None => (0..values.len()).rev().map(|rank| rank as f64).collect(),
        };
        ("responses", values.clone(), rewards)
    } else if let Some(values) = list("answers")? {
        let field = |value: &Value, key: &str| {
            let field = value.get(key).cloned();
            field.ok_or_else(|| format!("`answers` has an entry without `{key}`"))
        };
        let ranks: Vec<Value> = values
            .iter()
            .map(|value| field(value, "rank"))
            .collect::<Result<_, _>>()?;
        let texts = values.iter().map(|value| field(value, "answer"));
        let texts = texts.collect::<Result<_, _>>()?;
        let count = values.len() as f64;
        let rewards = numbers(&ranks, "rank")?
            .into_iter()
            .map(|rank| count - rank);
        ("answers", texts, rewards.collect())
    } else if let (Some(values), Some(rewards)) = (list("suffix")?, list("reward")?) {
        ("suffix", values.clone(), numbers(rewards, "reward")?)
    } else {
        return Err(missing(columns, "responses"));
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
    let prompt = match list("prefix")? {
        Some(turns) if name == "suffix" => {
            Text::Plain(turns.iter().filter_map(Value::as_str).collect())
        }
        _ => prompt(columns)?.ok_or_else(|| missing(columns, "prompt"))?,
    };
    let (prompt, answers) = align(prompt, answers);
    Ok((prompt, answers, rewards))
}

fn numbers(values: &[Value], name: &str) -> Result<Vec<f64>, String> {
    let number = |value: &Value| {
        let number = value.as_f64().filter(|number| number.is_finite());
        number.ok_or_else(|| format!("`{name}` has {value}, which is no number"))
    };
    values.iter().map(number).collect()
}
