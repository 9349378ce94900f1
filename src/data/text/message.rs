//! Text as data sets have it: plain, a list of messages, or token ids. ShareGPT's spelling of messages is brought into the
//! usual one.

use serde_json::{Map, Value, json};

use super::columns::PROMPT;
use crate::data::columns::Columns;
use crate::data::left_out::shown;

/// A prompt or an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// Words; a prompt becomes a message of the user where words go through the chat template.
    Plain(String),
    /// A prompt in words beside a system message of its own column: two messages where words go through the chat template,
    /// one text where they do not.
    Instructed {
        /// The system message.
        system: String,
        /// The prompt.
        words: String,
    },
    /// Messages, objects with `role`, `content` and what else a template may read (`tool_calls`).
    Chat(Vec<Value>),
    /// Token ids, which stay as they are.
    Ids(Vec<i64>),
}

impl Text {
    /// Reads the column `name`. Text that is JSON of a list of messages is these messages.
    ///
    /// # Errors
    /// It is neither text, nor a message, nor a list of messages; the sentence names the column.
    pub fn read(value: &Value, name: &str) -> Result<Self, String> {
        match value {
            Value::String(text) if is_pythons(text) => Err(format!(
                "`{name}` is a list of messages as Python prints it: write JSON, as `json.dumps` and `to_json` do"
            )),
            Value::String(text) => match messages_in(text) {
                Some(messages) => Self::read(&messages, name),
                None => Ok(Self::Plain(text.clone())),
            },
            Value::Object(_) => Ok(Self::Chat(vec![message(value, name)?])),
            Value::Array(messages) => {
                let messages = messages.iter().map(|value| message(value, name));
                Ok(Self::Chat(messages.collect::<Result<_, _>>()?))
            }
            Value::Null => Err(format!("`{name}` is null")),
            other => Err(format!(
                "`{name}` is neither text nor a list of messages: {}",
                shown(other)
            )),
        }
    }

    /// Reads the column `name` of token ids.
    pub(super) fn ids(value: &Value, name: &str) -> Result<Self, String> {
        let values = value
            .as_array()
            .ok_or_else(|| format!("`{name}` is no list of token ids: {}", shown(value)))?;
        let id = |value: &Value| {
            value
                .as_i64()
                .ok_or_else(|| format!("`{name}` has {}, which is no token id", shown(value)))
        };
        Ok(Self::Ids(values.iter().map(id).collect::<Result<_, _>>()?))
    }

    /// `true` if there is nothing in it to be learnt: no text, no messages, a last message without content.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Plain(words) | Self::Instructed { words, .. } => words.trim().is_empty(),
            Self::Chat(messages) => messages.last().is_none_or(says_nothing),
            Self::Ids(ids) => ids.is_empty(),
        }
    }

    /// `true` if nothing is asked: no text, no message that says something. Token ids may begin with the answer.
    pub(super) fn asks_nothing(&self) -> bool {
        match self {
            Self::Plain(words) | Self::Instructed { words, .. } => words.trim().is_empty(),
            Self::Chat(messages) => messages.iter().all(says_nothing),
            Self::Ids(_) => false,
        }
    }

    /// `true` of messages of which some are not the assistant's.
    pub fn has_others(&self) -> bool {
        let is_others = |message: &Value| message["role"] != "assistant";
        matches!(self, Self::Chat(messages) if messages.iter().any(is_others))
    }

    /// `true` of messages of which the assistant's, or some of them, have weight 0: they are read and not learnt.
    pub fn has_unlearnt(&self) -> bool {
        matches!(self, Self::Chat(messages) if messages.iter().any(is_unlearnt))
    }

    /// `true` of messages of which none of the assistant's is to be learnt.
    pub(super) fn is_unlearnt(&self) -> bool {
        let Self::Chat(messages) = self else {
            return false;
        };
        let mut said = messages.iter().filter(|one| one["role"] == "assistant");
        self.has_unlearnt() && said.all(is_unlearnt)
    }

    /// An answer in the form of this prompt: in words, or as the assistant's message.
    #[must_use]
    pub fn answered_by(&self, answer: &str) -> Self {
        match self {
            Self::Plain(_) | Self::Instructed { .. } | Self::Ids(_) => {
                Self::Plain(answer.to_owned())
            }
            Self::Chat(_) => Self::Chat(vec![json!({"role": "assistant", "content": answer})]),
        }
    }

    /// The words of the text, of a chat those of its last message; `None` where that is not words alone.
    pub fn words(&self) -> Option<&str> {
        match self {
            Self::Plain(words) | Self::Instructed { words, .. } => Some(words),
            Self::Chat(messages) => {
                let last = messages.last()?;
                let words = last["content"].as_str()?;
                (!calls_tools(last)).then_some(words)
            }
            Self::Ids(_) => None,
        }
    }

    /// As a record's column has it; words beside a system message as two messages, which [`Text::put`] keeps apart.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Plain(text) => json!(text),
            Self::Instructed { system, words } => json!(instructed(system, words)),
            Self::Chat(messages) => json!(messages),
            Self::Ids(ids) => json!(ids),
        }
    }

    /// Puts the prompt into a row as every reader of rows takes it.
    pub fn put(&self, row: &mut Value) {
        match self {
            Self::Instructed { system, words } => {
                row[PROMPT[0]] = json!(words);
                row[SYSTEM[0]] = json!(system);
            }
            prompt => row[PROMPT[0]] = prompt.to_value(),
        }
    }

    /// The same as messages, plain text as one of this role.
    pub(super) fn into_chat(self, role: &str) -> Vec<Value> {
        match self {
            Self::Chat(messages) => messages,
            Self::Plain(text) if text.is_empty() => Vec::new(),
            Self::Plain(text) => vec![json!({"role": role, "content": text})],
            Self::Instructed { system, words } => instructed(&system, &words),
            // No column that may hold messages is read as ids.
            Self::Ids(_) => Vec::new(),
        }
    }

    /// The prompt under the system message of a column `system`, where there is one.
    pub(super) fn with_system(self, columns: &Columns) -> Result<Self, String> {
        let Some(name) = SYSTEM.into_iter().find(|name| columns.has(name)) else {
            return Ok(self);
        };
        let system = match columns.get(name) {
            Some(Value::String(system)) if system.trim().is_empty() => return Ok(self),
            Some(Value::String(system)) => system,
            other => {
                let other = other.map(shown).unwrap_or_default();
                return Err(format!("`{name}` is not text: {other}"));
            }
        };
        Ok(match self {
            Self::Plain(words) | Self::Instructed { words, .. } => {
                let system = system.clone();
                Self::Instructed { system, words }
            }
            Self::Chat(messages) if messages.first().is_some_and(is_system) => {
                let own = messages[0]["content"].as_str().unwrap_or_default();
                if own.trim() != system.trim() {
                    return Err(format!(
                        "`{name}` says another thing than the system message that the prompt begins with"
                    ));
                }
                Self::Chat(messages)
            }
            Self::Chat(mut messages) => {
                messages.insert(0, json!({"role": "system", "content": system}));
                Self::Chat(messages)
            }
            Self::Ids(_) => return Err(format!("`{name}` is text, but the prompt is token ids")),
        })
    }
}

/// Whether a message of the assistant is learnt, 1, or read alone, 0, as in OpenAI's files for fine-tuning.
const WEIGHT: &str = "weight";

/// Columns of a system message.
const SYSTEM: [&str; 3] = ["system", "system_prompt", "system_message"];

/// The messages of a prompt in words and its system message.
pub fn instructed(system: &str, words: &str) -> Vec<Value> {
    vec![
        json!({"role": "system", "content": system}),
        json!({"role": "user", "content": words}),
    ]
}

/// `true` if a message sets the scene for the others.
pub(super) fn is_system(message: &Value) -> bool {
    message["role"] == "system" || message["role"] == "developer"
}

fn is_unlearnt(message: &Value) -> bool {
    message[WEIGHT] == 0
}

fn says_nothing(message: &Value) -> bool {
    let content = message["content"].as_str().unwrap_or_default();
    content.trim().is_empty() && !calls_tools(message)
}

/// `true` of a message that calls tools; an empty list or null calls none.
fn calls_tools(message: &Value) -> bool {
    match &message["tool_calls"] {
        Value::Null => false,
        Value::Array(calls) => !calls.is_empty(),
        _ => true,
    }
}

/// `true` of a list of messages that was turned to text by Python's `str`.
fn is_pythons(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with("[{'") && ["'role':", "'from':"].iter().any(|key| text.contains(key))
}

/// The messages that a text is the JSON of, as in tables that hold text alone.
fn messages_in(text: &str) -> Option<Value> {
    let text = text.trim();
    let looks = text.starts_with("[{") && (text.contains("\"role\"") || text.contains("\"from\""));
    if !looks {
        return None;
    }
    let value: Value = serde_json::from_str(text).ok()?;
    let is_message = |one: &Value| one.get("role").or(one.get("from")).is_some();
    let messages = value.as_array()?.iter().all(is_message);
    messages.then_some(value)
}

/// A role by the names that data sets have for it.
fn role(name: &str) -> Option<&'static str> {
    Some(match name {
        "human" | "user" | "prompter" => "user",
        "gpt" | "assistant" | "bot" | "chatbot" | "model" | "function_call" => "assistant",
        "system" => "system",
        "tool" | "observation" | "function_response" => "tool",
        _ => return None,
    })
}

/// A message with `role` and `content`, also from ShareGPT's `from` and `value`. Fields that are null are left out.
fn message(value: &Value, column: &str) -> Result<Value, String> {
    let object = value.as_object().ok_or_else(|| {
        format!(
            "`{column}` has a message that is no object: {}",
            shown(value)
        )
    })?;
    let mut object = object.clone();
    object.retain(|name, value| name == "content" || !value.is_null());
    if let (Some(from), Some(said)) = (object.get("from").cloned(), object.remove("value")) {
        let role = from.as_str().and_then(role).ok_or_else(|| {
            format!(
                "`{column}` has a message from {}, which is no known role",
                shown(&from)
            )
        })?;
        object.remove("from");
        let calls = if from == "function_call" {
            calls_in(&said)
        } else {
            None
        };
        object.insert("role".to_owned(), json!(role));
        if let Some(calls) = calls {
            object.insert("content".to_owned(), json!(""));
            object.insert("tool_calls".to_owned(), calls);
        } else {
            object.insert("content".to_owned(), said);
        }
    }
    if object
        .get("tool_calls")
        .is_some_and(|calls| calls == &json!([]))
    {
        object.remove("tool_calls");
    }
    let Some(name) = object.get("role").and_then(Value::as_str) else {
        return Err(format!("`{column}` has a message without a `role`"));
    };
    if let Some(role) = role(name) {
        object.insert("role".to_owned(), json!(role));
    }
    if let Some(weight) = object.remove(WEIGHT) {
        let is = |number: f64| {
            let weight = weight.as_f64();
            weight.is_some_and(|weight| (weight - number).abs() < f64::EPSILON)
        };
        if !is(0.0) && !is(1.0) {
            return Err(format!(
                "`{column}` has a message of `{WEIGHT}` {}, which is neither 1 (learnt) nor 0 (read alone)",
                shown(&weight)
            ));
        }
        // What others say is never learnt.
        if is(0.0) && object["role"] == "assistant" {
            object.insert(WEIGHT.to_owned(), json!(0));
        }
    }
    if let Some(Value::Array(parts)) = object.get("content") {
        let text = words_of(parts, column)?;
        object.insert("content".to_owned(), json!(text));
    }
    let content = object.get("content").unwrap_or(&Value::Null);
    let calls = object.contains_key("tool_calls");
    if !(content.is_string() || calls && content.is_null()) {
        return Err(format!(
            "`{column}` has a message whose `content` is not text: {}",
            shown(content)
        ));
    }
    Ok(Value::Object(object))
}

/// The words of content that comes in parts.
fn words_of(parts: &[Value], column: &str) -> Result<String, String> {
    let words = parts.iter().map(|part| match (&part["type"], part) {
        (_, Value::String(text)) => Ok(text.as_str()),
        (Value::String(kind), _) if kind == "text" || kind.ends_with("_text") => {
            let text = part["text"].as_str();
            text.ok_or_else(|| format!("`{column}` has a part of type `{kind}` without `text`"))
        }
        (Value::Null, Value::Object(fields)) if fields.len() == 1 => {
            let text = part["text"].as_str();
            text.ok_or_else(|| format!("`{column}` has a part that is not text: {}", shown(part)))
        }
        (Value::String(kind), _) => Err(format!(
            "`{column}` has a part of type `{kind}`; a language model reads text alone"
        )),
        _ => Err(format!(
            "`{column}` has a part that is not text: {}",
            shown(part)
        )),
    });
    words.collect()
}

/// The calls of ShareGPT's `function_call`, JSON of one or several `{"name", "arguments"}`; `None` where it is something
/// else.
fn calls_in(said: &Value) -> Option<Value> {
    let calls: Value = serde_json::from_str(said.as_str()?).ok()?;
    let calls = match calls {
        Value::Array(calls) => calls,
        one => vec![one],
    };
    let call = |call: Value| {
        let mut call: Map<String, Value> = call.as_object()?.clone();
        call.get("name")?.as_str()?;
        call.entry("arguments").or_insert_with(|| json!({}));
        Some(json!({"type": "function", "function": call}))
    };
    let calls: Option<Vec<Value>> = calls.into_iter().map(call).collect();
    calls.filter(|calls| !calls.is_empty()).map(Value::Array)
}
