//! From the columns of published data sets to prompts and answers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::compared;
use super::lists;
use super::message::{Text, is_system};
use super::split;
use crate::data::columns::{Columns, missing};
use crate::data::contradictions::refuse_contradiction;
use crate::data::left_out::shown;

const CHOSEN: &[&str] = &["chosen", "chosen_response", "preferred_output", "preferred"];
const REJECTED: &[&str] = &[
    "rejected",
    "rejected_response",
    "non_preferred_output",
    "dispreferred",
];
pub(super) const PROMPT: &[&str] = &[
    "prompt",
    "question",
    "instruction",
    "query",
    "conversations",
    "conversation",
    "messages",
    "context",
    "history",
    "problem",
    "post",
    "input",
];
const COMPLETION: &[&str] = &["completion", "response", "output", "answer", "solution"];
/// An answer beside a prompt as `generate` writes it; without a prompt, a text of its own.
const TEXT: &[&str] = &["text"];
const MARK: &[&str] = &["label", "kto_tag"];
/// Whole chats.
const CHATS: [&str; 3] = ["messages", "conversations", "conversation"];
/// A pair as token ids.
const IDS: [&str; 3] = ["prompt_ids", "chosen_ids", "rejected_ids"];
/// Columns that are read by one name alone.
const OTHERS: &[&str] = &[
    "text",
    "history",
    "system",
    "split",
    "tools",
    "chat_template_kwargs",
    "weight",
    "margin",
    "chosen_prob",
    "chosen_score",
    "rejected_score",
    "chosen_probs_win",
    "chosen_probs_lose",
    "ref_chosen_logps",
    "ref_rejected_logps",
    "proposal_logps",
    "scores",
    "rewards",
    "order",
];

/// The names that `data.columns` gives to others' columns.
///
/// # Errors
/// One of ours is not known.
pub(super) fn check_names(names: &BTreeMap<String, String>) -> Result<(), String> {
    let known = [
        CHOSEN,
        REJECTED,
        PROMPT,
        COMPLETION,
        MARK,
        &IDS,
        &lists::ANSWERS,
        OTHERS,
    ]
    .concat();
    let mut known: Vec<&str> = known.into_iter().chain(compared::names()).collect();
    known.sort_unstable();
    known.dedup();
    match names.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(format!(
            "`data.columns`: `{name}` is no column that is read; known are {}",
            known.join(", ")
        )),
    }
}

/// Brings what stands in an object of its own (OpenAI's `input`) among the columns.
pub(super) fn unfold(columns: &mut Columns) {
    let is_request = |value: &Value| value.get("messages").is_some_and(Value::is_array);
    if !columns.has("prompt")
        && columns.get("input").is_some_and(is_request)
        && let Some(Value::Object(mut input)) = columns.remove("input")
    {
        columns.insert("prompt", input.remove("messages").unwrap_or_default());
        for name in ["tools", "parallel_tool_calls"] {
            if let Some(value) = input.remove(name) {
                columns.insert(name, value);
            }
        }
    }
}

/// The first of these columns that holds something.
fn find<'a>(columns: &'a Columns, names: &[&'static str]) -> Option<(&'static str, &'a Value)> {
    let name = names.iter().find(|name| columns.has(name))?;
    Some((name, columns.get(name)?))
}

fn text(columns: &Columns, names: &[&'static str]) -> Result<Text, String> {
    let (name, value) = find(columns, names).ok_or_else(|| lacks(columns, names[0]))?;
    Text::read(value, name)
}

/// That a column is missing or null; of two answers without a verdict, that they need one.
pub(super) fn lacks(columns: &Columns, name: &str) -> String {
    if columns.names().any(|known| known == name) {
        return format!("`{name}` is null");
    }
    let missing = missing(columns.names(), name);
    let of_answers = [CHOSEN[0], COMPLETION[0]].contains(&name);
    match compared::undecided(columns).filter(|_| of_answers) {
        Some(why) => format!("{missing}; {why}"),
        None => missing,
    }
}

/// The prompt, Alpaca's `input` added to its instruction and the turns of its `history` before it; `None` where there is no
/// such column.
pub(super) fn prompt(columns: &Columns) -> Result<Option<Text>, String> {
    let Some((name, value)) = find(columns, PROMPT) else {
        return Ok(None);
    };
    if name == "history" && !value.is_string() {
        return Err(lacks(columns, "prompt"));
    }
    let prompt = Text::read(value, name)?;
    let prompt = match prompt {
        Text::Plain(prompt) if name == "instruction" => {
            let input = columns
                .filled("input")
                .and_then(Value::as_str)
                .unwrap_or("");
            Text::Plain(if input.is_empty() {
                prompt
            } else {
                format!("{prompt}\n{input}")
            })
        }
        prompt => prompt,
    };
    let before = if name == "history" {
        Vec::new()
    } else {
        earlier_turns(columns)?
    };
    if before.is_empty() {
        return Ok(Some(prompt));
    }
    let mut messages = prompt.into_chat("user");
    // A system message stays the first.
    let at = messages
        .iter()
        .take_while(|message| is_system(message))
        .count();
    messages.splice(at..at, before);
    Ok(Some(Text::Chat(messages)))
}

/// The turns before the prompt: LLaMA-Factory's `history`, a list of pairs of question and answer, or messages.
fn earlier_turns(columns: &Columns) -> Result<Vec<Value>, String> {
    let Some(Value::Array(turns)) = columns.get("history").filter(|history| history.is_array())
    else {
        return Ok(Vec::new());
    };
    let mut messages = Vec::new();
    for turn in turns {
        match turn {
            Value::Array(pair) if pair.len() == 2 && pair.iter().all(Value::is_string) => {
                messages.push(json!({"role": "user", "content": pair[0]}));
                messages.push(json!({"role": "assistant", "content": pair[1]}));
            }
            Value::Object(_) => messages.extend(Text::read(turn, "history")?.into_chat("user")),
            other => {
                let other = shown(other);
                return Err(format!(
                    "`history` has a turn that is neither a question with its answer nor a message: {other}"
                ));
            }
        }
    }
    Ok(messages)
}

/// `true` if two messages say the same, spaces around it apart.
fn same(one: &Value, other: &Value) -> bool {
    let content = |message: &Value| {
        message["content"]
            .as_str()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    one["role"] == other["role"]
        && content(one) == content(other)
        && one.get("tool_calls") == other.get("tool_calls")
}

/// The messages that follow `prompt` in `messages`; `None` where they do not begin with it.
fn after<'a>(messages: &'a [Value], prompt: &[Value]) -> Option<&'a [Value]> {
    let begins = messages.len() >= prompt.len()
        && messages
            .iter()
            .zip(prompt)
            .all(|(one, other)| same(one, other));
    (begins && !prompt.is_empty()).then(|| &messages[prompt.len()..])
}

/// Messages after their system message.
fn without_system(messages: &[Value]) -> &[Value] {
    match messages {
        [first, rest @ ..] if is_system(first) => rest,
        all => all,
    }
}

/// Prompt and answers of one kind: a prompt in words before answers that are messages becomes a message, an answer in
/// words after a prompt of messages too. Answers that repeat the prompt's messages lose them; a system message that only
/// one of them has stays.
pub(super) fn align(prompt: Text, answers: Vec<Text>) -> (Text, Vec<Text>) {
    let chat = |text: &Text| matches!(text, Text::Chat(_));
    if !chat(&prompt) && !answers.iter().any(chat) {
        return (prompt, answers);
    }
    let mut prompt = prompt.into_chat("user");
    let answers: Vec<Vec<Value>> = answers
        .into_iter()
        .map(|answer| answer.into_chat("assistant"))
        .collect();
    let asked = without_system(&prompt).to_vec();
    // The answers' own system message, where all of them have the same and the prompt has none.
    let system = answers.first().and_then(|first| first.first()).cloned();
    let system = system.filter(|system| {
        is_system(system)
            && asked.len() == prompt.len()
            && answers.iter().all(|messages| {
                messages.first().is_some_and(|first| same(first, system))
                    && after(without_system(messages), &asked).is_some()
            })
    });
    let rest = |messages: Vec<Value>| {
        let rest = after(&messages, &prompt)
            .or_else(|| after(&messages, &asked))
            .or_else(|| {
                system
                    .as_ref()
                    .and(after(without_system(&messages), &asked))
            });
        Text::Chat(rest.map(<[_]>::to_vec).unwrap_or(messages))
    };
    let answers = answers.into_iter().map(rest).collect();
    prompt.splice(0..0, system);
    (Text::Chat(prompt), answers)
}

/// `true` if a row is a pair of answers.
pub(super) fn is_pair(columns: &Columns) -> bool {
    let names = CHOSEN.iter().chain(&IDS[1..2]);
    names.into_iter().any(|name| columns.has(name)) || compared::are(columns)
}

/// `true` if the name of a column says that it holds the better answer.
pub(super) fn is_better(name: &str) -> bool {
    CHOSEN.contains(&name) || name == IDS[1]
}

/// `true` if a row says by the names of its columns which answer is better.
pub(super) fn says_better(columns: &Columns) -> bool {
    columns.names().any(is_better) && !compared::are(columns)
}

/// Prompt, chosen and rejected answer: texts, chats or token ids.
pub(super) fn pair(columns: &Columns) -> Result<(Text, Text, Text), String> {
    if columns.has(IDS[1]) {
        let ids = |name: &str| {
            let value = columns.get(name).ok_or_else(|| lacks(columns, name))?;
            Text::ids(value, name)
        };
        return Ok((ids(IDS[0])?, ids(IDS[1])?, ids(IDS[2])?));
    }
    if !CHOSEN.iter().any(|name| columns.has(name))
        && let Some((rejected, ending)) = find(columns, REJECTED).zip(find(columns, &CHATS))
    {
        // A chat that ends with the better answer, beside the worse one.
        let messages = Text::read(ending.1, ending.0)?.into_chat("user");
        let (prompt, chosen) = split::last_turn(messages, ending.0)?;
        return paired(prompt, chosen, Text::read(rejected.1, rejected.0)?);
    }
    let (chosen, rejected) = (text(columns, CHOSEN)?, text(columns, REJECTED)?);
    refuse_contradiction(columns)?;
    between(columns, chosen, rejected)
}

/// The pair of two answers to the prompt of a row.
pub(super) fn between(
    columns: &Columns,
    chosen: Text,
    rejected: Text,
) -> Result<(Text, Text, Text), String> {
    if chosen == rejected {
        return Err("the chosen and the rejected answer are identical".to_owned());
    }
    let Some(prompt) = prompt(columns)? else {
        let (prompt, chosen, rejected) = split::pair(chosen, rejected)?;
        if prompt.asks_nothing() {
            return Err(format!(
                "the prompt is empty: the answers have no beginning in common, and {}",
                missing(columns.names(), PROMPT[0])
            ));
        }
        return Ok((prompt, chosen, rejected));
    };
    // Whole conversations beside the prompt in words (UltraFeedback): they say what the prompt was.
    let whole = |text: &Text| matches!(text, Text::Chat(messages) if messages.len() > 1);
    if let (Text::Plain(asked), true) = (&prompt, whole(&chosen) && whole(&rejected)) {
        let (common, chosen, rejected) = split::pair(chosen, rejected)?;
        if !asks(&common, asked) {
            return Err("`prompt` is not what the chats of both answers begin with".to_owned());
        }
        return Ok((common, chosen, rejected));
    }
    paired(prompt, chosen, rejected)
}

/// `true` if a chat holds what is asked in words, or is part of it.
fn asks(chat: &Text, words: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let words = plain(words);
    let Text::Chat(messages) = chat else {
        return false;
    };
    words.is_empty()
        || messages.iter().any(|message| {
            let content = plain(message["content"].as_str().unwrap_or_default());
            !content.is_empty() && (content.contains(&words) || words.contains(&content))
        })
}

fn paired(prompt: Text, chosen: Text, rejected: Text) -> Result<(Text, Text, Text), String> {
    let (mut prompt, mut answers) = align(prompt, vec![chosen, rejected]);
    let rejected = answers.pop().ok_or("no answers")?;
    let chosen = answers.pop().ok_or("no answers")?;
    // A chat that ends with the better answer says it twice.
    if let (Text::Chat(messages), Text::Chat(better)) = (&mut prompt, &chosen)
        && let ([.., last], [answer]) = (messages.as_slice(), better.as_slice())
        && last["role"] == "assistant"
        && same(last, answer)
    {
        messages.pop();
    }
    Ok((prompt, chosen, rejected))
}

/// A prompt alone; messages that end with an answer lose it.
pub(super) fn question(columns: &Columns) -> Result<Text, String> {
    let prompt = prompt(columns)?.ok_or_else(|| lacks(columns, PROMPT[0]))?;
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
    let found = found.or_else(|| find(columns, TEXT));
    let (name, value) = found.ok_or_else(|| {
        let missing = lacks(columns, COMPLETION[0]);
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

/// Prompt and completion; of a chat alone, its last turn is the completion.
pub(super) fn completion(columns: &Columns) -> Result<(Text, Text), String> {
    let Some((name, value)) = find(columns, COMPLETION) else {
        if let Some((name, value)) = find(columns, &CHATS) {
            return split::last_turn(Text::read(value, name)?.into_chat("assistant"), name);
        }
        if has_answer_as_text(columns) {
            return completion_in(columns, TEXT);
        }
        return Err(lacks(columns, COMPLETION[0]));
    };
    answered(columns, Text::read(value, name)?)
}

/// `true` if `text` is the answer to a prompt.
fn has_answer_as_text(columns: &Columns) -> bool {
    find(columns, TEXT).is_some() && find(columns, PROMPT).is_some()
}

fn completion_in(columns: &Columns, names: &[&'static str]) -> Result<(Text, Text), String> {
    answered(columns, text(columns, names)?)
}

/// The prompt of a row with an answer to it.
fn answered(columns: &Columns, answer: Text) -> Result<(Text, Text), String> {
    let prompt = prompt(columns)?.ok_or_else(|| lacks(columns, "prompt"))?;
    let (prompt, mut answers) = align(prompt, vec![answer]);
    Ok((prompt, answers.pop().ok_or("no answers")?))
}

/// `true` if an answer is desirable.
pub(super) fn mark(columns: &Columns) -> Result<bool, String> {
    let (name, value) = find(columns, MARK).ok_or_else(|| lacks(columns, MARK[0]))?;
    let is = |number: f64| {
        value
            .as_f64()
            .is_some_and(|value| (value - number).abs() < f64::EPSILON)
    };
    let words = value.as_str().map(|words| words.trim().to_lowercase());
    match (value, words.as_deref()) {
        (Value::Bool(mark), _) => Ok(*mark),
        (_, Some("true" | "1" | "1.0" | "desirable")) => Ok(true),
        (_, Some("false" | "0" | "0.0" | "undesirable")) => Ok(false),
        _ if is(1.0) => Ok(true),
        _ if is(0.0) => Ok(false),
        _ => Err(format!(
            "`{name}` is {}, neither true nor false: a mark is true or false, or 1 (desirable) or 0 (undesirable)",
            shown(value)
        )),
    }
}

/// Prompt and an answer to imitate: a completion, the chosen answer of a pair, the last turn of a chat, or text alone.
pub(super) fn answer(columns: &Columns) -> Result<(Text, Text), String> {
    if find(columns, COMPLETION).is_some() {
        return completion(columns);
    }
    if compared::are(columns) {
        let (prompt, chosen, _) = compared::pair(columns)?.ok_or(compared::TIE)?.pair;
        return Ok((prompt, chosen));
    }
    if is_pair(columns) {
        let (prompt, chosen, _) = pair(columns)?;
        return Ok((prompt, chosen));
    }
    if find(columns, &CHATS).is_some() {
        return completion(columns);
    }
    if has_answer_as_text(columns) {
        return completion_in(columns, TEXT);
    }
    match columns.filled("text") {
        Some(value) => Ok((Text::Plain(String::new()), Text::read(value, "text")?)),
        None => Err(lacks(columns, COMPLETION[0])),
    }
}
