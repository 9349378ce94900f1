//! The adapter folder of PEFT, which transformers, vLLM and others load: `adapter_model.safetensors` beside
//! `adapter_config.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::Tensor;

use super::LoraWeights;
use crate::error::{Error, Result};
use crate::files::{replace_folder, write_atomically};
use crate::hub::{place, repository_and_commit};
use crate::models::weights;

/// Name under which PEFT looks for the weights in a folder.
pub const FILE_NAME: &str = "adapter_model.safetensors";

/// The same as PyTorch's own file, which older versions wrote.
const OLD_NAME: &str = "adapter_model.bin";

/// The weights in an adapter folder; none where it has none.
pub fn weights_in(folder: &Path) -> Option<PathBuf> {
    let mut files = [FILE_NAME, OLD_NAME]
        .map(|name| folder.join(name))
        .into_iter();
    files.find(|file| file.exists())
}

/// `true` of the file of an adapter folder that has its weights.
pub(super) fn is_weights(file: &Path) -> bool {
    file.ends_with(FILE_NAME) || file.ends_with(OLD_NAME)
}

/// PEFT's settings beside them.
pub(in crate::models) const CONFIG_NAME: &str = "adapter_config.json";

/// The prefix that PEFT puts before a module path of the model.
pub(super) const PREFIX: &str = "base_model.model.";

/// Output layer of a classifier, which goes along whole.
pub(in crate::models) const SCORE: &str = "base_model.model.score.weight";

/// Blocks of GPT-2, whose layers store their weights transposed.
pub(super) const GPT2_BLOCKS: &str = "transformer.h.";

/// Where the model lies that an adapter goes with, which has a name or a path; `path` is the file of its settings.
///
/// # Errors
/// The settings name none: PEFT writes null for a model that was not read from a folder.
pub fn base_model(path: &Path, settings: &Map<String, Value>) -> Result<PathBuf> {
    let text = |key: &str| {
        let text = settings.get(key).and_then(Value::as_str);
        text.filter(|text| !text.is_empty())
    };
    let Some(base) = text("base_model_name_or_path") else {
        return Err(
            Error::weights(path, "`base_model_name_or_path` names no model").with_hint(
                "write the name or path of the model that the adapter was trained on there",
            ),
        );
    };
    let named = PathBuf::from(base);
    let at_revision = text("revision").map(|revision| PathBuf::from(format!("{base}@{revision}")));
    Ok(match at_revision {
        Some(revised) if !named.exists() => place(revised),
        _ => place(named),
    })
}

impl LoraWeights {
    /// Writes the adapter of a language model in the place of `folder`; `base_model` is the name or path of the model
    /// that it goes with, `notes` go into the header. Matrices and strengths are written as they are, so that training can go
    /// on from them.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save_adapter(
        &self,
        folder: &Path,
        base_model: &str,
        notes: &BTreeMap<String, String>,
    ) -> Result<()> {
        replace_folder(folder, |partial| {
            self.fill_adapter(partial, base_model, None, notes)
        })
    }

    /// Writes the adapter into a folder that is there, that of a classifier where `score` is its output layer
    /// `[outputs, d]`, with `notes` in the header of its weights.
    pub(in crate::models) fn fill_adapter(
        &self,
        folder: &Path,
        base_model: &str,
        score: Option<&Tensor>,
        notes: &BTreeMap<String, String>,
    ) -> Result<()> {
        let mut tensors = Vec::with_capacity(2 * self.modules.len());
        for (module, lora) in &self.modules {
            for (part, tensor) in [("lora_A", &lora.down), ("lora_B", &lora.up)] {
                let name = format!("{PREFIX}{module}.{part}.weight");
                tensors.push((name, tensor.detach()));
            }
        }
        let mut config = self.adapter_config(base_model);
        if let Some(score) = score {
            tensors.push((SCORE.to_owned(), score.detach()));
            config["task_type"] = json!("SEQ_CLS");
            config["modules_to_save"] = json!(["score"]);
        }
        let mut header = notes.clone();
        header.insert("format".to_owned(), "pt".to_owned());
        let mut config = serde_json::to_string_pretty(&config)
            .map_err(|error| Error::weights(folder, error.to_string()))?;
        config.push('\n');
        write_atomically(&folder.join(CONFIG_NAME), config.as_bytes())?;
        weights::save(&folder.join(FILE_NAME), &tensors, &header)
    }

    /// The settings from which PEFT rebuilds the adapter; what is left out has PEFT's default.
    fn adapter_config(&self, base_model: &str) -> Value {
        let (rank, alpha) = (self.common_rank(), self.common_alpha());
        let (mut ranks, mut alphas) = (Map::new(), Map::new());
        for (module, lora) in &self.modules {
            let own_rank = lora.down.size()[0];
            let own_alpha = lora.scale * own_rank as f64;
            if own_rank != rank {
                ranks.insert(format!("^{module}"), json!(own_rank));
            }
            if (own_alpha - alpha).abs() > 1e-9 * alpha.abs() {
                alphas.insert(format!("^{module}"), json!(own_alpha));
            }
        }
        let named = repository_and_commit(Path::new(base_model));
        let (base_model, revision) = match &named {
            Some((repository, commit)) => (repository.as_str(), Some(commit)),
            None => (base_model, None),
        };
        let mut config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "target_modules": self.target_modules(),
            "fan_in_fan_out": self.modules.keys().any(|name| name.starts_with(GPT2_BLOCKS)),
            "lora_dropout": 0.0,
            "bias": "none",
            "inference_mode": true,
        });
        if let Some(revision) = revision {
            config["revision"] = json!(revision);
        }
        config
    }
}
