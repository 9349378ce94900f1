//! HelpSteer2's prompts: several turns in one string.

use serde_json::{Value, json};

use super::message::Text;
use crate::data::columns::Columns;
use crate::data::left_out::shown;

/// The mark at the beginning of every turn after the first, before the name of the speaker.
const TURN: &str = "<extra_id_1>";

/// Prompt, better and worse response of a row of HelpSteer2-Preference.
pub(super) fn pair(
    columns: &Columns,
    better: &str,
    worse: &str,
) -> Result<(Text, Text, Text), String> {
    let prompt = turns(&text(columns, "prompt")?)?;
    let response = |name: &str| -> Result<Text, String> {
        let message = json!({"role": "assistant", "content": text(columns, name)?});
        Ok(Text::Chat(vec![message]))
    };
    Ok((Text::Chat(prompt), response(better)?, response(worse)?))
}

/// The messages of a prompt.
pub(super) fn turns(prompt: &str) -> Result<Vec<Value>, String> {
    let mut messages = Vec::new();
    for (place, turn) in prompt.split(TURN).enumerate() {
        let (role, content) = match place {
            0 => ("user", turn),
            _ => turn
                .strip_prefix("User\n")
                .map(|content| ("user", content))
                .or(turn
                    .strip_prefix("Assistant\n")
                    .map(|content| ("assistant", content)))
                .ok_or("`prompt` has a turn that is neither the user's nor the assistant's")?,
        };
        // The line break before the next turn's mark is not part of what was said.
        let content = content.strip_suffix('\n').unwrap_or(content);
        messages.push(json!({"role": role, "content": content}));
    }
    Ok(messages)
}

fn text(columns: &Columns, name: &str) -> Result<String, String> {
    match columns.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("`{name}` is not text: {}", shown(other))),
        None => Err(format!("column `{name}` is missing")),
    }
}
