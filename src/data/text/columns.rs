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
/// A pair as token ids.
const IDS: [&str; 3] = ["prompt_ids", "chosen_ids", "rejected_ids"];

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

pub(super) fn missing(columns: &Columns, name: &str) -> String {
    let known: Vec<String> = columns.keys().map(|key| format!("`{key}`")).collect();
    format!("column `{name}` is missing; there are {}", known.join(", "))
}

/// The prompt, Alpaca's `input` added to its instruction; `None` where there is no such column.
pub(super) fn prompt(columns: &Columns) -> Result<Option<Text>, String> {
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
pub(super) fn align(prompt: Text, answers: Vec<Text>) -> (Text, Vec<Text>) {
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

/// Whether a row is a pair of answers.
pub(super) fn is_pair(columns: &Columns) -> bool {
    let names = CHOSEN.iter().chain(&IDS[1..2]);
    names.into_iter().any(|name| columns.contains_key(*name))
}

/// Prompt, chosen and rejected answer: texts, chats or token ids.
pub(super) fn pair(columns: &Columns) -> Result<(Text, Text, Text), String> {
    if columns.contains_key(IDS[1]) {
        let ids = |name: &str| {
            let value = columns.get(name).ok_or_else(|| missing(columns, name))?;
            Text::ids(value, name)
        };
        return Ok((ids(IDS[0])?, ids(IDS[1])?, ids(IDS[2])?));
    }
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
        prompt => prompt,
    })
}

/// The answer beside a prompt, in words: a completion, or the chosen answer of a pair.
pub(super) fn gold(columns: &Columns) -> Result<String, String> {
    let found = find(columns, COMPLETION).or_else(|| find(columns, CHOSEN));
    let (name, value) = found.ok_or_else(|| {
        let missing = missing(columns, COMPLETION[0]);
        format!(
            "no gold answer, `{}` or `{}`: {missing}",
            COMPLETION[0], CHOSEN[0]
        )
    })?;
    let answer = Text::read(value, name)?;
    match answer.words() {
        Some(words) if !words.trim().is_empty() => Ok(words.to_owned()),
        Some(_) => Err(format!("the gold answer in `{name}` is empty")),
        None => Err(format!("the gold answer in `{name}` is not in words alone")),
    }
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
    if is_pair(columns) {
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
