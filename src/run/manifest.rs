//! `manifest.json`: what a run was made from and what it did, for reports, exports and comparisons.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::config::{AdapterKind, PartKind};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::trainer::event::Progress;

/// The status of a run that made all its steps or was ended by patience.
pub const FINISHED: &str = "finished";

const FILE: &str = "manifest.json";

/// What every run's manifest says: by what it was run, and how it ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// Version of preftune.
    pub preftune: String,
    /// `running`, `finished`, `interrupted` or `failed`.
    pub status: String,
    /// Device of the passes.
    pub device: String,
    /// `fp32` or `bf16`.
    pub precision: String,
    /// Number of trained values.
    pub trainable_parameters: u64,
    /// Steps made.
    pub steps: u64,
    /// Step and reward of the best weights.
    pub best: Option<(u64, f64)>,
    /// Reward before the first step.
    pub untuned_reward: Option<f64>,
    /// Whether patience ended the run.
    pub stopped_early: bool,
    /// Counts of work: U-Net sample-forwards, reward encodes.
    pub counts: BTreeMap<String, u64>,
    /// Seconds by phase, all parts of a resumed run together.
    pub seconds: BTreeMap<String, f64>,
}

impl Record {
    /// Of a run that is about to begin.
    pub fn begin(device: Device, kind: Kind, parameters: &[(String, Tensor)]) -> Self {
        let precision = if kind == Kind::BFloat16 {
            "bf16"
        } else {
            "fp32"
        };
        Self {
            preftune: env!("CARGO_PKG_VERSION").to_owned(),
            status: "running".to_owned(),
            device: format!("{device:?}"),
            precision: precision.to_owned(),
            trainable_parameters: parameters
                .iter()
                .map(|(_, tensor)| tensor.numel() as u64)
                .sum(),
            ..Self::default()
        }
    }

    /// Notes the end of a run of at most `steps` steps.
    pub fn conclude(&mut self, outcome: &Result<Progress>, steps: u64) {
        match outcome {
            Ok(progress) => {
                self.stop(FINISHED, progress.step);
                self.best = progress.early_stopping.best;
                self.stopped_early = progress.step < steps;
                let reward = progress.untuned.iter().find(|(name, _)| name == "reward");
                self.untuned_reward = reward.map(|(_, reward)| *reward);
            }
            Err(Error::Interrupted { step, .. }) => self.stop("interrupted", *step),
            Err(error) => self.stop("failed", error.step().unwrap_or_default()),
        }
    }

    fn stop(&mut self, status: &str, steps: u64) {
        status.clone_into(&mut self.status);
        self.steps = steps;
    }
}

/// The manifest of an image run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// What all runs have.
    #[serde(flatten)]
    pub record: Record,
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
    /// Mean leave-one-out image similarity of the reference photos: what a perfect likeness would score.
    pub oracle_image_similarity: Option<f64>,
    /// Figures of the labels.
    pub labels: serde_json::Value,
    /// Where the time of a step went, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<StepProfile>,
}

/// Time and work of a training step; of the last process, where a run was interrupted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepProfile {
    /// By part, in the mean over all steps.
    pub seconds_a_step: BTreeMap<String, f64>,
    /// Floating-point operations of the U-Net: both forward passes, the backward pass, and what is recomputed.
    pub flops_a_step: f64,
    /// Of these, a second.
    pub flops_per_second: f64,
}

/// The manifest of a pretraining run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PretrainManifest {
    /// What all runs have.
    #[serde(flatten)]
    pub record: Record,
    /// What was trained.
    pub part: PartKind,
    /// Folder of the architecture.
    pub template: PathBuf,
    /// SHA-256 over the sprites' files.
    pub sprites_sha256: String,
}

/// What the manifests of all runs that tune a diffusion model have in common.
#[derive(Deserialize)]
pub struct Tuned {
    /// What all runs have.
    #[serde(flatten)]
    pub record: Record,
    /// Folder of the base model.
    pub base_model: PathBuf,
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
    /// Reads an image run's manifest.
    ///
    /// # Errors
    /// There is none, or it is not one of an image run.
    pub fn read(run: &Path) -> Result<Self> {
        read(run)
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
}

/// Writes a manifest into its run's folder.
pub fn write(manifest: &impl Serialize, run: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(manifest).unwrap_or_default();
    write_atomically(&run.join(FILE), text.as_bytes())
}

/// Reads a run's manifest.
///
/// # Errors
/// There is none, or it is not one of this kind of run.
pub fn read<M: DeserializeOwned>(run: &Path) -> Result<M> {
    let path = run.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(|source| Error::io("read", &path, source))?;
    serde_json::from_str(&text).map_err(|error| {
        Error::data(&path, format!("not the manifest of a run of this kind: {error}")).with_hint(
            "runs on images, texts, reward models and pretraining are not taken by each other's commands",
        )
    })
}
