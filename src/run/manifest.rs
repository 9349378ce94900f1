//! `manifest.json`: what a run was made from and what it did, for reports, exports and comparisons.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::config::{self, AdapterKind, PartKind};
use crate::error::{Error, Result};
use crate::files::{read_text, write_atomically};
use crate::trainer::event::{Progress, metric};

/// The status of a run that made all its steps or was ended by patience.
pub const FINISHED: &str = "finished";

const FILE: &str = "manifest.json";

/// The fields of every run's manifest: by what it was run, and how it ended.
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
    /// Processes that made the run together, last.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub processes: u64,
    /// Number of trained values.
    pub trainable_parameters: u64,
    /// Steps made.
    pub steps: u64,
    /// Step and reward of the best weights.
    pub best: Option<(u64, f64)>,
    /// Reward before the first step.
    pub untuned_reward: Option<f64>,
    /// `true` if patience ended the run.
    pub stopped_early: bool,
    /// Counts of work: U-Net sample-forwards, reward encodes.
    pub counts: BTreeMap<String, u64>,
    /// Seconds by phase, all parts of a resumed run together.
    pub seconds: BTreeMap<String, f64>,
    /// SHA-256 of everything that was read, by what it is: a resumed run must get the same.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
}

fn one() -> u64 {
    1
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
fn is_one(count: &u64) -> bool {
    *count <= 1
}

impl Record {
    /// The record of a run with these inputs, before anything else is known.
    pub fn of_inputs(inputs: BTreeMap<String, String>) -> Self {
        Self {
            inputs,
            ..Self::default()
        }
    }

    /// Notes where and with what a run begins.
    pub fn begin(&mut self, device: Device, kind: Kind, parameters: &[(String, Tensor)]) {
        let precision = if kind == Kind::BFloat16 {
            "bf16"
        } else {
            "fp32"
        };
        env!("CARGO_PKG_VERSION").clone_into(&mut self.preftune);
        "running".clone_into(&mut self.status);
        self.device = format!("{device:?}");
        precision.clone_into(&mut self.precision);
        self.trainable_parameters = parameters
            .iter()
            .map(|(_, tensor)| tensor.numel() as u64)
            .sum();
    }

    /// Notes how far a run has come: steps, best weights, counts.
    pub fn note(&mut self, progress: &Progress) {
        self.steps = progress.step;
        self.best = progress.early_stopping.best;
        self.untuned_reward = metric(&progress.untuned, "reward");
        self.counts = progress.counts.iter().cloned().collect();
    }

    /// Notes the end of a run of at most `steps` steps.
    pub fn conclude(&mut self, outcome: &Result<()>, progress: &Progress, steps: u64) {
        self.note(progress);
        let status = match outcome {
            Ok(()) => FINISHED,
            Err(Error::Interrupted { .. }) => "interrupted",
            Err(_) => "failed",
        };
        status.clone_into(&mut self.status);
        self.stopped_early = outcome.is_ok() && progress.step < steps;
    }
}

/// A manifest, whatever its kind of run adds to the record of all runs.
pub trait RunManifest: Serialize + DeserializeOwned {
    /// The fields that all runs have.
    fn record(&self) -> &Record;

    /// The fields that all runs have, to be changed.
    fn record_mut(&mut self) -> &mut Record;
}

/// Implements [`RunManifest`] for types with a field `record`.
macro_rules! with_record {
    ($($manifest:ty),*) => {$(
        impl $crate::run::manifest::RunManifest for $manifest {
            fn record(&self) -> &$crate::run::manifest::Record {
                &self.record
            }

            fn record_mut(&mut self) -> &mut $crate::run::manifest::Record {
                &mut self.record
            }
        }
    )*};
}
pub(super) use with_record;

impl SubjectManifest {
    /// Reads the manifest of a run on a subject.
    ///
    /// # Errors
    /// There is none, or it is not one of such a run.
    pub fn read(run: &Path) -> Result<Self> {
        read(run)
    }
}

with_record!(SubjectManifest, PretrainManifest);

/// Checks that a resumed run gets what its first part got: other inputs would change the objective silently.
///
/// # Errors
/// An input is not the same any more.
pub fn check_inputs(
    now: &BTreeMap<String, String>,
    earlier: &BTreeMap<String, String>,
    run: &Path,
) -> Result<()> {
    let changed = now
        .iter()
        .find(|(name, hash)| earlier.get(*name).is_some_and(|before| before != *hash));
    match changed {
        None => Ok(()),
        Some((name, _)) => Err(Error::data(
            run,
            format!("was started with other files as its {name}"),
        )
        .with_hint("put the files back to resume it, or choose another `run.output`")),
    }
}

/// The manifest of a run on a subject.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubjectManifest {
    /// The fields that all runs have.
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
    /// Name and SHA-256 of the reward encoder.
    pub reward_encoder: (String, String),
    /// Subject name, class word and token.
    pub subject: SubjectRecord,
    /// Mean leave-one-out image similarity of the reference photos: what a perfect likeness would score.
    pub oracle_image_similarity: Option<f64>,
    /// Figures of the labels; null where the run has none.
    #[serde(default)]
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
    /// The fields that all runs have.
    #[serde(flatten)]
    pub record: Record,
    /// The part that was trained.
    pub part: PartKind,
    /// Folder of the architecture.
    #[serde(with = "crate::hub::stored")]
    pub template: PathBuf,
    /// SHA-256 over the sprites' files.
    pub sprites_sha256: String,
}

/// The fields that the manifests of all runs that tune a diffusion model have in common.
#[derive(Deserialize)]
pub struct Tuned {
    /// The fields that all runs have.
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
}

/// The subject of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubjectRecord {
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

/// Writes a manifest into its run's folder.
pub fn write(manifest: &impl Serialize, run: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(manifest).unwrap_or_default();
    write_atomically(&run.join(FILE), text.as_bytes())
}

/// As [`read`]; `None` where the run has not written one yet.
///
/// # Errors
/// It is not that of this kind of run.
pub fn find<M: DeserializeOwned>(run: &Path) -> Result<Option<M>> {
    if run.join(FILE).exists() {
        read(run).map(Some)
    } else {
        Ok(None)
    }
}

/// Reads a run's manifest.
///
/// # Errors
/// There is none, or it is not one of this kind of run.
pub fn read<M: DeserializeOwned>(run: &Path) -> Result<M> {
    let path = run.join(FILE);
    let text = read_text(&path)?;
    serde_json::from_str(&text).map_err(|error| {
        let config = run.join("config.toml");
        match config::kind_of(&config, &[]) {
            Ok(kind) => Error::data(run, format!("a run {}, which this command does not take", kind.name())),
            Err(_) => Error::data(&path, format!("not a run's manifest: {error}")),
        }
        .with_hint("runs on subjects, pairs, texts, reward models and pretraining are not taken by each other's commands")
    })
}
