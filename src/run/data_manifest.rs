//! The manifest of a run that learns from records of data: texts, or pairs of images.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::manifest::{Record, with_record};
use crate::config::AdapterKind;

/// The manifest of a run on data: by what it was made, and from what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataManifest {
    /// The fields that all runs have.
    #[serde(flatten)]
    pub record: Record,
    /// Folder of the model that training started from.
    #[serde(with = "crate::hub::stored")]
    pub base_model: PathBuf,
    /// The autoencoder that stands in the place of the base's, where there is one.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::hub::stored::optional"
    )]
    pub vae: Option<PathBuf>,
    /// Name of the objective.
    pub objective: String,
    /// Its numbers.
    pub numbers: BTreeMap<String, f64>,
    /// The kind of weights that were trained.
    pub adapter: AdapterKind,
    /// Which weights the reference has and where its log-probs come from, in words; `none` for objectives without.
    pub reference: String,
    /// Examples that are learnt from, held out, cut off and left out, and their prompts.
    pub examples: BTreeMap<String, u64>,
    /// Rows of the data that are not learnt from: how many, why, and the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

with_record!(DataManifest);
