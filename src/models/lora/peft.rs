//! The LoRA file of diffusers, `pytorch_lora_weights.safetensors`, with the settings of PEFT in its header.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::Kind;

use super::keys::{TEXT_ENCODERS, TEXT_MODEL, in_text_encoder};
use super::sites::{Sites, role};
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
    /// Writes `PREFIX.MODULE.lora_A.weight` and `.lora_B.weight`; `prefix` is `unet` for diffusers. The names of text encoders'
    /// modules have theirs already.
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
            let name = match in_text_encoder(module) {
                Some(_) => module.clone(),
                None => format!("{prefix}.{module}"),
            };
            tensors.push((format!("{name}.lora_A.weight"), stored.down));
            tensors.push((format!("{name}.lora_B.weight"), stored.up));
        }
        let mut header = metadata.clone();
        header.insert("format".to_owned(), "pt".to_owned());
        header.insert(METADATA_KEY.to_owned(), self.peft_settings(prefix));
        weights::save(path, &tensors, &header)?;
        Ok(widened)
    }

    /// The settings with which PEFT rebuilds the adapters; `lora_alpha` is the rank, because the scale is in B.
    fn peft_settings(&self, prefix: &str) -> String {
        let mut settings = BTreeMap::new();
        for (number, folder) in TEXT_ENCODERS.into_iter().enumerate() {
            let ranks: BTreeMap<&str, i64> = self
                .modules
                .iter()
                .filter_map(|(module, lora)| {
                    let (own, path) = in_text_encoder(module)?;
                    // Encoders that transformers 5.6 or later opens have their paths without it.
                    let path = path.strip_prefix(TEXT_MODEL).unwrap_or(path);
                    (own == number).then(|| (path, lora.down.size()[0]))
                })
                .collect();
            if !ranks.is_empty() {
                let targets: Vec<String> = ranks.keys().map(|path| (*path).to_owned()).collect();
                add_settings(&mut settings, folder, &ranks, &targets, "");
            }
        }
        let unet = self.modules.iter();
        let unet = unet.filter(|(module, _)| in_text_encoder(module).is_none());
        let ranks: BTreeMap<&str, i64> = unet
            .map(|(module, lora)| (module.as_str(), lora.down.size()[0]))
            .collect();
        if !ranks.is_empty() {
            add_settings(&mut settings, prefix, &ranks, &self.target_modules(), "^");
        }
        json!(settings).to_string()
    }

    /// The rank that most modules have.
    pub(super) fn common_rank(&self) -> i64 {
        most_common(self.modules.values().map(|lora| lora.down.size()[0]))
    }

    /// The rank and the alpha that most modules have.
    pub fn usual_size(&self) -> (i64, f64) {
        (self.common_rank(), self.common_alpha())
    }

    /// The rank that most modules of the U-Net have, the numbers in all of them, and their paths.
    pub fn unet_size(&self) -> (i64, u64, Vec<String>) {
        let own = self.modules.iter();
        let own = own.filter(|(module, _)| in_text_encoder(module).is_none());
        let (paths, modules): (Vec<String>, Vec<_>) =
            own.map(|(path, lora)| (path.clone(), lora)).unzip();
        let numbers = modules
            .iter()
            .map(|lora| (lora.down.numel() + lora.up.numel()) as u64);
        let ranks = modules.iter().map(|lora| lora.down.size()[0]);
        (most_common(ranks), numbers.sum(), paths)
    }

    /// Endings that name exactly the adapted modules, but those of text encoders; their full paths where no such endings
    /// exist.
    pub(super) fn target_modules(&self) -> Vec<String> {
        let own = |module: &&String| in_text_encoder(module).is_none();
        let modules = || self.modules.keys().filter(own);
        let roles: BTreeSet<&str> = modules().map(|module| role(module)).collect();
        let roles: Vec<String> = roles.into_iter().map(str::to_owned).collect();
        let paths: Vec<String> = modules().cloned().collect();
        let sites = self.sites.iter().filter(|(module, _)| own(module));
        let sites: Sites = sites
            .map(|(module, site)| (module.clone(), *site))
            .collect();
        match Targets::Suffixes(roles.clone()).choose(&sites) {
            Ok(chosen) if chosen == paths => roles,
            _ => paths,
        }
    }
}

fn most_common(ranks: impl Iterator<Item = i64>) -> i64 {
    let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
    for rank in ranks {
        *counts.entry(rank).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|&(_, count)| count);
    most.map_or(1, |(rank, _)| rank)
}

/// Adds the settings of a part of a pipeline, whose modules have these `ranks`; `begin` comes before a module's path in a
/// pattern.
fn add_settings(
    settings: &mut BTreeMap<String, Value>,
    part: &str,
    ranks: &BTreeMap<&str, i64>,
    targets: &[String],
    begin: &str,
) {
    let rank = most_common(ranks.values().copied());
    let others: Map<String, Value> = ranks
        .iter()
        .filter(|(_, own)| **own != rank)
        .map(|(module, own)| (format!("{begin}{module}"), json!(own)))
        .collect();
    settings.insert(format!("{part}.r"), json!(rank));
    settings.insert(format!("{part}.lora_alpha"), json!(rank));
    settings.insert(format!("{part}.target_modules"), json!(targets));
    if !others.is_empty() {
        settings.insert(format!("{part}.rank_pattern"), json!(others));
        settings.insert(format!("{part}.alpha_pattern"), json!(others));
    }
}
