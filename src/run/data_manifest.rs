//! The manifest of a run that learns from records of data: texts, or pairs of images.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::manifest::Record;
use crate::config::AdapterKind;
use crate::error::{Error, Result};

/// What such a run was made from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataManifest {
    /// What all runs have.
    #[serde(flatten)]
    pub record: Record,
    /// Folder of the model that training started from.
    pub base_model: PathBuf,
    /// Name of the objective.
    pub objective: String,
    /// Its numbers.
    pub numbers: BTreeMap<String, f64>,
    /// What was trained.
    pub adapter: AdapterKind,
    /// Which weights the reference has and where its log-probs come from, in words; `none` for objectives without.
    pub reference: String,
    /// SHA-256 of what was read, by what it is: a resumed run must get the same.
    pub inputs: BTreeMap<String, String>,
    /// Examples that are learnt from, held out, cut off and left out.
    pub examples: BTreeMap<String, u64>,
}

impl DataManifest {
    /// Checks that a resumed run gets what its first part got.
    ///
    /// # Errors
    /// Weights or data are not the same any more.
    pub fn check_inputs(&self, earlier: &Self, run: &Path) -> Result<()> {
        let other = self
            .inputs
            .iter()
            .find(|(what, hash)| earlier.inputs.get(*what) != Some(*hash));
        match other {
            None => Ok(()),
            Some((what, _)) => Err(Error::data(
                run,
                format!("was started with other files as its {what}"),
            )
            .with_hint("put the files back to resume it, or choose another `run.output`")),
        }
    }
}
