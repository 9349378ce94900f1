//! The LoRA file of diffusers, `pytorch_lora_weights.safetensors`, with the settings of PEFT in its header.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::Kind;

use super::sites::role;
use super::{LoraWeights, Targets};
use crate::error::Result;
use crate::models::weights;

/// Name under which diffusers looks for the file in a folder.
pub const FILE_NAME: &str = "pytorch_lora_weights.safetensors";

/// The same as PyTorch's own file, which older versions wrote.
const OLD_NAME: &str = "pytorch_lora_weights.bin";

/// The LoRA in a folder of diffusers; none where it has none.
pub fn weights_in(folder: &Path) -> Option<PathBuf> {
    let mut files = [FILE_NAME, OLD_NAME]
        .map(|name| folder.join(name))
        .into_iter();
    files.find(|file| file.exists())
}

/// Header entry with PEFT's settings as JSON.
pub(super) const METADATA_KEY: &str = "lora_adapter_metadata";

impl LoraWeights {
    /// Writes `PREFIX.MODULE.lora_A.weight` and `.lora_B.weight`; `prefix` is `unet` for diffusers.
    ///
    /// The scale is multiplied into B and the header's alpha equals the rank, so that readers with and without an
    /// eye for the header get the same strength. `metadata` is added to the header.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_peft(
        &self,
        path: &Path,
        prefix: &str,
        metadata: &BTreeMap<String, String>,
    ) -> Result<()> {
        self.save_peft_as(path, prefix, None, metadata)?;
        Ok(())
    }

    /// As [`Self::save_peft`]. Matrices are stored as `kind`, or as they are; modules whose update that cannot hold are
    /// stored as f32 and returned.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_peft_as(
        &self,
        path: &Path,
        prefix: &str,
        kind: Option<Kind>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<String>> {
        let mut tensors = Vec::with_capacity(2 * self.modules.len());
        let mut widened = Vec::new();
        for (module, lora) in &self.modules {
            let kind = kind.unwrap_or(lora.up.kind());
            let (stored, wider) = lora.stored(1.0, kind, &self.sites[module]);
            if wider {
                widened.push(module.clone());
            }
            tensors.push((format!("{prefix}.{module}.lora_A.weight"), stored.down));
            tensors.push((format!("{prefix}.{module}.lora_B.weight"), stored.up));
        }
        let mut header = metadata.clone();
        header.insert("format".to_owned(), "pt".to_owned());
        header.insert(METADATA_KEY.to_owned(), self.peft_settings(prefix));
        weights::save(path, &tensors, &header)?;
        Ok(widened)
    }

    /// The settings with which PEFT rebuilds the adapter; `lora_alpha` is the rank, because the scale is in B.
    fn peft_settings(&self, prefix: &str) -> String {
        let rank = self.common_rank();
        let others: Map<String, Value> = self
            .modules
            .iter()
            .filter(|(_, lora)| lora.down.size()[0] != rank)
            .map(|(module, lora)| (format!("^{module}"), json!(lora.down.size()[0])))
            .collect();
        let mut settings = BTreeMap::from([
            (format!("{prefix}.r"), json!(rank)),
            (format!("{prefix}.lora_alpha"), json!(rank)),
            (
                format!("{prefix}.target_modules"),
                json!(self.target_modules()),
            ),
        ]);
        if !others.is_empty() {
            settings.insert(format!("{prefix}.rank_pattern"), json!(others));
            settings.insert(format!("{prefix}.alpha_pattern"), json!(others));
        }
        json!(settings).to_string()
    }

    /// The rank that most modules have.
    pub(super) fn common_rank(&self) -> i64 {
        let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
        for lora in self.modules.values() {
            *counts.entry(lora.down.size()[0]).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|&(_, count)| count);
        most.map_or(1, |(rank, _)| rank)
    }

    /// Endings that name exactly the adapted modules; their full paths where no such endings exist.
    pub(super) fn target_modules(&self) -> Vec<String> {
        let roles: BTreeSet<&str> = self.modules.keys().map(|module| role(module)).collect();
        let roles: Vec<String> = roles.into_iter().map(str::to_owned).collect();
        let paths: Vec<String> = self.modules.keys().cloned().collect();
        match Targets::Suffixes(roles.clone()).choose(&self.sites) {
            Ok(chosen) if chosen == paths => roles,
            _ => paths,
        }
    }
}
