//! Data without a prompt of its own: what both answers of a pair begin with is the prompt.

use serde_json::{Value, json};

use super::message::Text;

/// Where the assistant begins to speak in dialogues of plain text (HH-RLHF, arXiv 2204.05862).
const ASSISTANT: &str = "\n\nAssistant:";
/// The beginning of the user's turns in such dialogues.
const HUMAN: &str = "\n\nHuman:";

/// Takes the common beginning of two answers off as the prompt: whole messages of chats, of dialogues in plain text all up
/// to the assistant's last turn, of other plain text characters, less one space before the difference, as TRL does.
///
/// # Errors
/// The answers are of different kinds, or there is nothing in which they differ.
pub(super) fn pair(chosen: Text, rejected: Text) -> Result<(Text, Text, Text), String> {
    match (chosen, rejected) {
        (Text::Plain(chosen), Text::Plain(rejected)) => {
            let at = common_text(&chosen, &rejected);
            let are_dialogues = chosen.contains(HUMAN) && chosen.contains(ASSISTANT);
            if are_dialogues && !chosen[..at].ends_with(ASSISTANT) {
                return Err("the dialogues differ before the assistant's first answer".to_owned());
            }
            if are_dialogues
                && [&chosen, &rejected]
                    .iter()
                    .any(|text| text[at..].contains(HUMAN))
            {
                return Err(
                    "the dialogues go on with a turn of the user after they differ".to_owned(),
                );
            }
            let parts = (&chosen[..at], &chosen[at..], &rejected[at..]);
            let plain = |text: &str| Text::Plain(text.to_owned());
            Ok((plain(parts.0), plain(parts.1), plain(parts.2)))
        }
        (Text::Chat(chosen), Text::Chat(rejected)) => {
            let at = common_messages(&chosen, &rejected);
            let chat = |messages: &[Value]| Text::Chat(messages.to_vec());
            if at == chosen.len() && at == rejected.len() {
                return Err("the chosen and the rejected answer are identical".to_owned());
            }
            Ok((
                chat(&chosen[..at]),
                chat(&chosen[at..]),
                chat(&rejected[at..]),
            ))
        }
        _ => Err("`chosen` is text and `rejected` a chat, or the reverse".to_owned()),
    }
}

fn common_messages(chosen: &[Value], rejected: &[Value]) -> usize {
    let pairs = chosen.iter().zip(rejected);
    pairs
        .take_while(|(chosen, rejected)| chosen == rejected)
        .count()
}

/// Bytes of the common beginning.
fn common_text(chosen: &str, rejected: &str) -> usize {
    let pairs = chosen.char_indices().zip(rejected.chars());
    let at = pairs
        .take_while(|((_, chosen), rejected)| chosen == rejected)
        .last()
        .map_or(0, |((at, letter), _)| at + letter.len_utf8());
    // Answers may begin with the same words.
    if let Some(turn) = chosen[..at].rfind(ASSISTANT) {
        return turn + ASSISTANT.len();
    }
    if chosen[..at].ends_with(' ') {
        at - 1
    } else {
        at
    }
}

/// Takes a chat apart into what comes before the last message of the assistant, and that.
///
/// # Errors
/// The last message is not the assistant's.
pub(super) fn last_turn(mut messages: Vec<Value>, column: &str) -> Result<(Text, Text), String> {
    match messages.pop() {
        Some(last) if last["role"] == "assistant" => {
            Ok((Text::Chat(messages), Text::Chat(vec![last])))
        }
        Some(_) => Err(format!(
            "`{column}` does not end with an assistant's message"
        )),
        None => Err(format!("`{column}` has no messages")),
    }
}

/// The messages of a prompt that is a dialogue in plain text (HH-RLHF): turns of `Human:` and `Assistant:`, the last of which
/// waits for its words.
pub fn dialogue(words: &str) -> Option<Vec<Value>> {
    let turns = words.trim_end().strip_suffix(ASSISTANT)?;
    // The first turn may have lost the empty line before it.
    let turns = format!("\n\n{}", turns.trim_start());
    let mut rest = turns.strip_prefix(HUMAN)?;
    let mut messages = Vec::new();
    for (role, next) in [("user", ASSISTANT), ("assistant", HUMAN)].iter().cycle() {
        let (content, after) = match rest.split_once(next) {
            Some((content, after)) => (content, Some(after)),
            None => (rest, None),
        };
        messages.push(json!({"role": role, "content": content.trim()}));
        match after {
            Some(after) => rest = after,
            None => break,
        }
    }
    // A dialogue that goes on with the speaker of the turn before is not of this form.
    let asks = messages.len() % 2 == 1;
    let says = |message: &Value| {
        message["content"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    };
    (asks && messages.iter().all(says)).then_some(messages)
}
