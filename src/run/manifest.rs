//! `manifest.json`: what a run was made from and what it did, for reports, exports and comparisons.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::AdapterKind;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::trainer::event::Progress;

/// The status of a run that made all its steps or was ended by patience.
pub const FINISHED: &str = "finished";

/// Identity and outcome of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of preftune.
    pub preftune: String,
    /// `running`, `finished`, `interrupted` or `failed`.
    pub status: String,
    /// Folder of the base model.
    pub base_model: PathBuf,
    /// SHA-256 of the base U-Net's files.
    pub base_unet_sha256: String,
    /// What was trained.
    pub adapter: AdapterKind,
    /// Rank of the LoRA.
    pub rank: i64,
    /// alpha of the LoRA.
    pub alpha: f64,
    /// Name and SHA-256 of the reward encoder.
    pub reward_encoder: (String, String),
    /// Subject name, class word and token.
    pub subject: SubjectManifest,
    /// Device and type of the passes.
    pub device: String,
    /// `fp32` or `bf16`.
    pub precision: String,
    /// Number of trained values.
    pub trainable_parameters: u64,
    /// Mean leave-one-out image similarity of the reference photos: what a perfect likeness would score.
    pub oracle_image_similarity: Option<f64>,
    /// Figures of the labels.
    pub labels: serde_json::Value,
    /// Steps made.
    pub steps: u64,
    /// Step and reward of the best weights.
    pub best: Option<(u64, f64)>,
    /// Reward of the untuned model.
    pub untuned_reward: Option<f64>,
    /// Whether patience ended the run.
    pub stopped_early: bool,
    /// Counts of work: U-Net sample-forwards, reward encodes.
    pub counts: BTreeMap<String, u64>,
    /// Seconds by phase, all parts of a resumed run together.
    pub seconds: BTreeMap<String, f64>,
}

/// The subject of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubjectManifest {
    /// Its name.
    pub name: String,
    /// The class word.
    pub class: String,
    /// The token.
    pub token: String,
    /// File names of the photos.
    pub photos: Vec<PathBuf>,
    /// SHA-256 over the photos' files, one after the other.
    pub photos_sha256: String,
}

impl Manifest {
    /// Reads a run's manifest.
    ///
    /// # Errors
    /// There is none, or it is not one.
    pub fn read(run: &Path) -> Result<Self> {
        let path = run.join("manifest.json");
        let text =
            std::fs::read_to_string(&path).map_err(|source| Error::io("read", &path, source))?;
        serde_json::from_str(&text)
            .map_err(|error| Error::data(&path, format!("not a run's manifest: {error}")))
    }

    /// Checks that a resumed run gets what its first part got: other inputs would change the objective silently.
    ///
    /// # Errors
    /// The photos, the base U-Net or the reward encoder are not the same files any more.
    pub fn check_inputs(&self, earlier: &Self, run: &Path) -> Result<()> {
        let inputs = [
            (
                "photos",
                &self.subject.photos_sha256,
                &earlier.subject.photos_sha256,
            ),
            (
                "base U-Net",
                &self.base_unet_sha256,
                &earlier.base_unet_sha256,
            ),
            (
                "reward encoder",
                &self.reward_encoder.1,
                &earlier.reward_encoder.1,
            ),
        ];
        match inputs.iter().find(|(_, now, before)| now != before) {
            None => Ok(()),
            Some((what, _, _)) => Err(Error::data(
                run,
                format!("was started with other files as its {what}"),
            )
            .with_hint("put the files back to resume it, or choose another `run.output`")),
        }
    }

    /// Notes the end of a run.
    pub fn finish(&mut self, progress: &Progress, steps: u64) {
        self.stop(FINISHED, progress.step);
        self.best = progress.early_stopping.best;
        self.stopped_early = progress.step < steps;
        let reward = progress.untuned.iter().find(|(name, _)| name == "reward");
        self.untuned_reward = reward.map(|(_, reward)| *reward);
    }

    /// Notes why and after how many steps a run stopped.
    pub fn stop(&mut self, status: &str, steps: u64) {
        status.clone_into(&mut self.status);
        self.steps = steps;
    }

    /// Writes it atomically.
    pub fn write(&self, run: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        write_atomically(&run.join("manifest.json"), text.as_bytes())
    }
}
