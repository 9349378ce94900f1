//! Text as data sets have it: plain, a list of messages, or token ids. ShareGPT's spelling of messages is brought into the
//! usual one.

use serde_json::{Map, Value, json};

/// A prompt or an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// As it is; no chat template is applied.
    Plain(String),
    /// Messages, objects with `role`, `content` and what else a template may read (`tool_calls`).
    Chat(Vec<Value>),
    /// Token ids, which stay as they are.
    Ids(Vec<i64>),
}

impl Text {
    /// Reads the column `name`.
    ///
    /// # Errors
    /// It is neither text, nor a message, nor a list of messages; the sentence names the column.
    pub fn read(value: &Value, name: &str) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(Self::Plain(text.clone())),
            Value::Object(_) => Ok(Self::Chat(vec![message(value, name)?])),
            Value::Array(messages) => {
                let messages = messages.iter().map(|value| message(value, name));
                Ok(Self::Chat(messages.collect::<Result<_, _>>()?))
            }
            Value::Null => Err(format!("`{name}` is null")),
            other => Err(format!(
                "`{name}` is neither text nor a list of messages: {other}"
            )),
        }
    }

    /// Reads the column `name` of token ids.
    pub(super) fn ids(value: &Value, name: &str) -> Result<Self, String> {
        let values = value
            .as_array()
            .ok_or_else(|| format!("`{name}` is no list of token ids: {value}"))?;
        let id = |value: &Value| {
            value
                .as_i64()
                .ok_or_else(|| format!("`{name}` has {value}, which is no token id"))
        };
        Ok(Self::Ids(values.iter().map(id).collect::<Result<_, _>>()?))
    }

    /// Whether there is nothing in it to be learnt: no text, no messages, a last message without content.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Plain(text) => text.trim().is_empty(),
            Self::Chat(messages) => messages.last().is_none_or(|message| {
                let content = message["content"].as_str().unwrap_or_default();
                content.trim().is_empty() && message.get("tool_calls").is_none()
            }),
            Self::Ids(ids) => ids.is_empty(),
        }
    }

    /// An answer in the form of this prompt: in words, or as the assistant's message.
    #[must_use]
    pub fn answered_by(&self, answer: &str) -> Self {
        match self {
            Self::Plain(_) | Self::Ids(_) => Self::Plain(answer.to_owned()),
            Self::Chat(_) => Self::Chat(vec![json!({"role": "assistant", "content": answer})]),
        }
    }

    /// What it says, of a chat its last message; `None` where that is not words alone.
    pub fn words(&self) -> Option<&str> {
        match self {
            Self::Plain(text) => Some(text),
            Self::Chat(messages) => {
                let last = messages.last()?;
                let words = last["content"].as_str()?;
                last.get("tool_calls").is_none().then_some(words)
            }
            Self::Ids(_) => None,
        }
    }

    /// As a record's column has it.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Plain(text) => json!(text),
            Self::Chat(messages) => json!(messages),
            Self::Ids(ids) => json!(ids),
        }
    }

    /// The same as messages, plain text as one of this role.
    pub(super) fn into_chat(self, role: &str) -> Vec<Value> {
        match self {
            Self::Chat(messages) => messages,
            Self::Plain(text) if text.is_empty() => Vec::new(),
            Self::Plain(text) => vec![json!({"role": role, "content": text})],
            // No column that may hold messages is read as ids.
            Self::Ids(_) => Vec::new(),
        }
    }

    /// The prompt under the system message of a column `system`, where there is one.
    pub(super) fn with_system(self, columns: &Map<String, Value>) -> Result<Self, String> {
        let system = match columns.get("system") {
            None | Some(Value::Null) => return Ok(self),
            Some(Value::String(system)) if system.is_empty() => return Ok(self),
            Some(Value::String(system)) => system,
            Some(other) => return Err(format!("`system` is not text: {other}")),
        };
        Ok(match self {
            Self::Plain(prompt) => Self::Plain(format!("{system}\n\n{prompt}")),
            Self::Chat(mut messages) => {
                messages.insert(0, json!({"role": "system", "content": system}));
                Self::Chat(messages)
            }
            Self::Ids(_) => return Err("`system` is text, but the prompt is token ids".to_owned()),
        })
    }
}

/// A message with `role` and `content`, also from ShareGPT's `from` and `value`.
fn message(value: &Value, column: &str) -> Result<Value, String> {
    let object = value
        .as_object()
        .ok_or_else(|| format!("`{column}` has a message that is no object: {value}"))?;
    let mut object = object.clone();
    if let (Some(from), Some(said)) = (object.get("from").cloned(), object.remove("value")) {
        let role = match from.as_str() {
            Some("human" | "user") => "user",
            Some("gpt" | "assistant") => "assistant",
            Some("system") => "system",
            Some("tool" | "observation") => "tool",
            _ => {
                return Err(format!(
                    "`{column}` has a message from {from}, which is no known role"
                ));
            }
        };
        object.remove("from");
        object.insert("role".to_owned(), json!(role));
        object.insert("content".to_owned(), said);
    }
    if !object.get("role").is_some_and(Value::is_string) {
        return Err(format!("`{column}` has a message without a `role`"));
    }
    let content = object.get("content").unwrap_or(&Value::Null);
    let calls = object.contains_key("tool_calls");
    if !(content.is_string() || calls && content.is_null()) {
        return Err(format!(
            "`{column}` has a message whose `content` is not text: {content}"
        ));
    }
    Ok(Value::Object(object))
}
