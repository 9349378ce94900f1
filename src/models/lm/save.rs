//! Writes a language model as a folder that transformers loads: weights, configuration, and the tokenizer's files of the
//! folder it came from.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use super::{LanguageModel, gguf};
use crate::error::{Error, Result};
use crate::files::{copy_new, replace_folder, write_atomically};
use crate::models::json::read_object_as_written;
use crate::models::weights;

/// Files that go along unchanged where they are there.
pub(in crate::models) const COMPANIONS: [&str; 10] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// Puts the tokenizer's files of `from` in the place of those of a model's folder.
///
/// # Errors
/// The system refuses.
pub fn replace_tokenizer(from: &Path, folder: &Path) -> Result<()> {
    for name in COMPANIONS
        .iter()
        .filter(|name| **name != "generation_config.json")
    {
        let (own, new) = (folder.join(name), from.join(name));
        if own.exists() {
            std::fs::remove_file(&own).map_err(|source| Error::io("remove", &own, source))?;
        }
        if new.exists() {
            copy_new(&new, &own)?;
        }
    }
    Ok(())
}

impl LanguageModel {
    /// Writes the weights as they are now, as `kind` and with `notes` in their header, in the place of `folder`: whole or
    /// not at all.
    ///
    /// An attached LoRA is not part of them: merge it, or save it as a LoRA.
    ///
    /// # Errors
    /// The folder is the one the model was read from, the disk is full, or the system refuses.
    pub fn save(&self, folder: &Path, kind: Kind, notes: &BTreeMap<String, String>) -> Result<()> {
        self.refuse_source(folder)?;
        replace_folder(folder, |partial| {
            self.fill(partial, kind, Map::new(), &[], notes)
        })
    }

    fn refuse_source(&self, folder: &Path) -> Result<()> {
        let same = |left: &Path, right: &Path| {
            left.canonicalize()
                .ok()
                .is_some_and(|left| Some(left) == right.canonicalize().ok())
        };
        if same(&self.folder, folder) {
            return Err(Error::config(format!(
                "the model was read from `{}` and cannot be saved there",
                folder.display()
            )));
        }
        Ok(())
    }

    /// Writes the model into a folder that is there, with `settings` in place of those of the same name in its
    /// configuration, `more` tensors beside its own, and `notes` in the header of its weights.
    pub(in crate::models) fn fill(
        &self,
        folder: &Path,
        kind: Kind,
        settings: Map<String, Value>,
        more: &[(String, Tensor)],
        notes: &BTreeMap<String, String>,
    ) -> Result<()> {
        let source = self.folder.join("config.json");
        let is_gguf = gguf::is_gguf(&self.folder);
        let mut config = if is_gguf {
            gguf::config(&self.folder, kind)?
        } else {
            read_object_as_written(&source)?
        };
        // transformers loads the weights in the type that is written here.
        let key = if config.contains_key("dtype") {
            "dtype"
        } else {
            "torch_dtype"
        };
        config.insert(key.to_owned(), json!(dtype(kind)));
        config.extend(settings);
        let mut text = serde_json::to_string_pretty(&Value::Object(config))
            .map_err(|error| Error::weights(&source, error.to_string()))?;
        text.push('\n');
        let more = more
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        let tensors: Vec<_> = self
            .parameters()
            .into_iter()
            .chain(more)
            .map(|(name, tensor)| (name, tensor.detach().to_kind(kind)))
            .collect();
        let mut header = notes.clone();
        header.insert("format".to_owned(), "pt".to_owned());
        if is_gguf {
            gguf::write_tokenizer(&self.folder, folder)?;
        }
        for name in COMPANIONS {
            let from = self.folder.join(name);
            if from.exists() {
                copy_new(&from, &folder.join(name))?;
            }
        }
        write_atomically(&folder.join("config.json"), text.as_bytes())?;
        weights::save(&folder.join("model.safetensors"), &tensors, &header)
    }
}

/// The number type's name in config.json.
pub(super) fn dtype(kind: Kind) -> &'static str {
    match kind {
        Kind::Half => "float16",
        Kind::BFloat16 => "bfloat16",
        _ => "float32",
    }
}
