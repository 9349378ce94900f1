//! The manifest of rounds of a diffusion model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::manifest::{Record, SubjectRecord, with_record};
use crate::config::AdapterKind;

/// By what rounds were made, and from what. Of a subject it has all that [`super::manifest::SubjectManifest`] needs, so that what
/// judges runs on subjects judges rounds too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageRoundsManifest {
    /// The fields that all runs have; its steps are rounds.
    #[serde(flatten)]
    pub record: Record,
    /// Folder of the base model.
    #[serde(with = "crate::hub::stored")]
    pub base_model: PathBuf,
    /// The autoencoder that stands in the place of the base's, where there is one.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::hub::stored::optional"
    )]
    pub vae: Option<PathBuf>,
    /// SHA-256 of the base U-Net's files.
    pub base_unet_sha256: String,
    /// The kind of weights that were trained.
    pub adapter: AdapterKind,
    /// Rank of the LoRA.
    pub rank: i64,
    /// alpha of the LoRA.
    pub alpha: f64,
    /// Name of the objective.
    pub objective: String,
    /// Its numbers.
    pub numbers: BTreeMap<String, f64>,
    /// What gave the rewards, in words.
    pub reward: String,
    /// Name and SHA-256 of the reward's encoder, where one gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_encoder: Option<(String, String)>,
    /// Subject name, class word and token, where there is a subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectRecord>,
}

with_record!(ImageRoundsManifest);
