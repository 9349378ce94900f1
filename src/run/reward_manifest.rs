//! `manifest.json` of a reward run: what it was made from and what it did.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::manifest::FINISHED;
use crate::config::RewardTask;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::trainer::event::{Metrics, Progress};

/// Identity and outcome of a reward run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RewardManifest {
    /// Version of preftune.
    pub preftune: String,
    /// `running`, `finished`, `interrupted` or `failed`.
    pub status: String,
    /// What was learnt.
    pub task: RewardTask,
    /// SHA-256 of the embeddings or the language model, of the examples, and of what training starts from.
    pub inputs: BTreeMap<String, String>,
    /// Examples trained on and held out.
    pub examples: (u64, u64),
    /// Device.
    pub device: String,
    /// Number of trained values.
    pub trainable_parameters: u64,
    /// Steps made.
    pub steps: u64,
    /// Step of the best weights, and what the validation gave them: an accuracy, or minus a loss.
    pub best: Option<(u64, f64)>,
    /// Metrics of the best weights on what is held out, on the training examples where nothing is.
    pub best_metrics: Metrics,
    /// Factor by which the best weights were extrapolated.
    pub extrapolated: Option<f64>,
    /// Whether patience ended the run.
    pub stopped_early: bool,
    /// Seconds of all parts of a resumed run together.
    pub seconds: f64,
}

impl RewardManifest {
    /// Reads a run's manifest; none where there is none yet.
    ///
    /// # Errors
    /// It is not that of a reward run.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let path = run.join("manifest.json");
        let text = match std::fs::read_to_string(&path) {
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|source| Error::io("read", &path, source))?,
        };
        let manifest = serde_json::from_str(&text);
        manifest
            .map(Some)
            .map_err(|error| Error::data(&path, format!("not a reward run's manifest: {error}")))
    }

    /// Checks that a resumed run gets what its first part got.
    ///
    /// # Errors
    /// An input is not the same file any more.
    pub fn check_inputs(&self, earlier: &Self, run: &Path) -> Result<()> {
        let changed = self
            .inputs
            .iter()
            .find(|(name, hash)| earlier.inputs.get(*name) != Some(*hash));
        match changed {
            None => Ok(()),
            Some((name, _)) => Err(Error::data(
                run,
                format!("was started with another file as its {name}"),
            )
            .with_hint("put the file back to resume it, or choose another `run.output`")),
        }
    }

    /// Notes the end of a run.
    pub fn finish(&mut self, progress: &Progress, steps: u64) {
        self.stop(FINISHED, progress.step);
        self.best = progress.early_stopping.best;
        self.stopped_early = progress.step < steps;
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
