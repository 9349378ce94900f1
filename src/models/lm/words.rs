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
