//! Prompts and answers in words beside a chat template: whether they go through it, and the note by which weights remember
//! what they were trained with.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::models::lora::adapter;
use crate::models::weights::Checkpoint;

/// Entry in the header of weights.
const NOTE: &str = "preftune_chat";
const RAW: &str = "raw";
const TEMPLATE: &str = "template";

/// The way in which a prompt in words and its answer are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Words {
    /// They become messages of the user and the assistant and go through the chat template.
    Template,
    /// They stay as they are, because that was asked for.
    Raw,
    /// They stay as they are, because they have the template's marks already.
    Rendered,
    /// They stay as they are, because there is no prompt: a text of its own is no chat.
    NoPrompt,
    /// They stay as they are, because the model has no chat template.
    NoTemplate,
}

/// The marks by which chat templates in use open a turn of the user, and an answer after it.
const MARKS: [[&str; 2]; 11] = [
    ["[INST]", "[/INST]"],
    ["<|im_start|>", "<|im_start|>assistant"],
    ["<|start_header_id|>", "<|start_header_id|>assistant"],
    ["<|header_start|>", "<|header_start|>assistant"],
    ["<start_of_turn>", "<start_of_turn>model"],
    ["<|user|>", "<|assistant|>"],
    ["<｜User｜>", "<｜Assistant｜>"],
    ["<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"],
    ["### Instruction:", "### Response:"],
    ["### Human:", "### Assistant:"],
    ["USER:", "ASSISTANT:"],
];

/// The marks of users' turns in a text that a chat template has made, as far as they are known.
pub fn marks(text: &str) -> impl Iterator<Item = &'static str> {
    let opens = |[user, answer]: &[&'static str; 2]| {
        let asked = text.find(user).map(|at| &text[at + user.len()..]);
        asked.is_some_and(|asked| asked.contains(answer))
    };
    MARKS.into_iter().filter(opens).map(|[user, _]| user)
}

/// Words as a message of this role.
pub fn message(role: &str, words: &str) -> Value {
    json!({"role": role, "content": words})
}

/// Notes for the header of weights that are trained on words as they are (`raw`) or through the chat template.
pub fn note(raw: bool) -> BTreeMap<String, String> {
    let value = if raw { RAW } else { TEMPLATE };
    BTreeMap::from([(NOTE.to_owned(), value.to_owned())])
}

/// `true` if the weights in a folder were trained on words as they are; `None` where they do not say.
pub fn noted(folder: &Path) -> Option<bool> {
    let files = [adapter::FILE_NAME, "model.safetensors"].map(|name| folder.join(name));
    let file = files.iter().find(|file| file.exists())?;
    // Weights that cannot be read are refused where they are needed.
    let weights = Checkpoint::open_file(file).ok()?;
    match weights.metadata().get(NOTE).map(String::as_str) {
        Some(RAW) => Some(true),
        Some(TEMPLATE) => Some(false),
        _ => None,
    }
}
