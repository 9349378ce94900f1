//! HelpSteer2's columns: two responses with a strength, prompts of several turns in one string.

use serde_json::{Map, Value, json};

use super::message::Text;

/// What begins every turn after the first, before the name of the speaker.
const TURN: &str = "<extra_id_1>";

/// How much the second response is better, in the columns of HelpSteer2-Preference; `None` where they are others.
pub(super) fn strength(columns: &Map<String, Value>) -> Option<Result<f64, String>> {
    let strength = columns.get("preference_strength")?;
    let number = strength.as_f64().filter(|number| number.is_finite());
    Some(number.ok_or_else(|| format!("`preference_strength` is {strength}, not a number")))
}

/// Prompt, better and worse response of a row with this strength, which is not 0.
pub(super) fn pair(
    columns: &Map<String, Value>,
    strength: f64,
) -> Result<(Text, Text, Text), String> {
    let prompt = turns(&text(columns, "prompt")?)?;
    let response = |name: &str| -> Result<Text, String> {
        let message = json!({"role": "assistant", "content": text(columns, name)?});
        Ok(Text::Chat(vec![message]))
    };
    let (first, second) = (response("response_1")?, response("response_2")?);
    Ok(if strength < 0.0 {
        (Text::Chat(prompt), first, second)
    } else {
        (Text::Chat(prompt), second, first)
    })
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

fn text(columns: &Map<String, Value>, name: &str) -> Result<String, String> {
    match columns.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("`{name}` is not text: {other}")),
        None => Err(format!("column `{name}` is missing")),
    }
}
