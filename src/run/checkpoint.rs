//! Checkpoints (`checkpoints/step-N/`) and the best weights (`best/`).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::files::{read_text, recover_folder, replace_folder, write_atomically};
use crate::models::heads::Head;
use crate::models::json;
use crate::models::lm::LanguageModel;
use crate::models::lm::reward::RewardModel;
use crate::models::lora::{LoraSet, adapter, peft};
use crate::models::weights::{Checkpoint, save};
use crate::trainer::event::{Progress, Snapshot};
use crate::trainer::optimizer::AdamW;

/// File of the trained tensors in a checkpoint's folder.
const WEIGHTS: &str = "weights.safetensors";

/// Writes a checkpoint and removes all but the `keep` newest.
pub fn store(run: &Path, snapshot: &Snapshot, keep: usize) -> Result<PathBuf> {
    let path = folder_of(run, snapshot.progress.step);
    replace_folder(&path, |folder| {
        save(
            &folder.join(WEIGHTS),
            &snapshot.parameters,
            &BTreeMap::new(),
        )?;
        save(
            &folder.join("optimizer.safetensors"),
            &snapshot.moments,
            &BTreeMap::new(),
        )?;
        let progress = serde_json::to_string_pretty(snapshot.progress).unwrap_or_default();
        write_atomically(&folder.join("progress.json"), progress.as_bytes())
    })?;
    let mut all = list(run)?;
    while all.len() > keep {
        let oldest = all.remove(0);
        fs::remove_dir_all(&oldest).map_err(|source| Error::io("remove", &oldest, source))?;
    }
    Ok(path)
}

fn folder_of(run: &Path, step: u64) -> PathBuf {
    run.join("checkpoints").join(format!("step-{step:06}"))
}

/// The step of a checkpoint's folder; `None` of what is no complete checkpoint.
fn step_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("step-")?.parse().ok()
}

/// All complete checkpoints, oldest first.
fn list(run: &Path) -> Result<Vec<PathBuf>> {
    let folder = run.join("checkpoints");
    let entries = match fs::read_dir(&folder) {
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|source| Error::io("read", &folder, source))?,
    };
    let mut steps: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| step_of(path).is_some())
        .collect();
    steps.sort();
    Ok(steps)
}

/// The trained tensors of the checkpoint of one step, by the names that the trainer gives them.
///
/// # Errors
/// No such checkpoint; the hint names those that are there.
pub fn weights_at(run: &Path, step: u64) -> Result<Checkpoint> {
    recover(run)?;
    let file = folder_of(run, step).join(WEIGHTS);
    if file.exists() {
        return Checkpoint::open_file(&file);
    }
    let steps: Vec<String> = list(run)?
        .iter()
        .filter_map(|path| step_of(path))
        .map(|step| step.to_string())
        .collect();
    Err(
        Error::data(run, format!("has no checkpoint of step {step}")).with_hint(format!(
            "there are {}; `checkpoint.every` and `checkpoint.keep` decide which a run keeps",
            if steps.is_empty() {
                "none".to_owned()
            } else {
                steps.join(", ")
            }
        )),
    )
}

/// Mends what a kill in the middle of a replacement has left: in `checkpoints/` and of `best/`.
fn recover(run: &Path) -> Result<()> {
    recover_folder(&best_folder(run))?;
    for entry in fs::read_dir(run.join("checkpoints")).into_iter().flatten() {
        let path = entry
            .map_err(|source| Error::io("read", run, source))?
            .path();
        if path.extension().is_some_and(|ending| ending == "old") {
            recover_folder(&path.with_extension(""))?;
        }
    }
    Ok(())
}

/// The newest checkpoint's progress, its tensors copied into `optimizer`; `None` where there is no checkpoint.
pub fn restore_latest(run: &Path, optimizer: &mut AdamW) -> Result<Option<Progress>> {
    recover(run)?;
    let Some(path) = list(run)?.pop() else {
        return Ok(None);
    };
    restore(&path, optimizer)
        .map(Some)
        .map_err(|error| damaged(&path, error))
}

/// Says of an error on a checkpoint's files what to do with it.
fn damaged(checkpoint: &Path, error: Error) -> Error {
    let error = match error {
        // The hint on a damaged file is made for downloads.
        Error::Hinted { source, .. } => *source,
        error => error,
    };
    match &error {
        Error::Torch(_) | Error::Failed { .. } => error,
        Error::Io { source, .. } if source.kind() != std::io::ErrorKind::NotFound => error,
        _ => error.with_hint(format!(
            "the checkpoint is damaged: remove `{}` to go on from the one before, or from the start where there is none",
            checkpoint.display()
        )),
    }
}

/// How far the newest checkpoint has come; `None` where there is no checkpoint.
///
/// # Errors
/// The checkpoint's progress cannot be read.
pub fn latest_progress(run: &Path) -> Result<Option<Progress>> {
    recover(run)?;
    let newest = list(run)?.pop();
    let read = |path: PathBuf| read_progress(&path).map_err(|error| damaged(&path, error));
    newest.map(read).transpose()
}

fn read_progress(checkpoint: &Path) -> Result<Progress> {
    let file = checkpoint.join("progress.json");
    serde_json::from_str(&read_text(&file)?)
        .map_err(|error| Error::data(&file, format!("not a checkpoint's progress: {error}")))
}

/// The progress of the checkpoint in `path`, its tensors copied into `optimizer`.
fn restore(path: &Path, optimizer: &mut AdamW) -> Result<Progress> {
    let progress = read_progress(path)?;
    let weights = Checkpoint::open_file(&path.join(WEIGHTS))?;
    let moments = Checkpoint::open_file(&path.join("optimizer.safetensors"))?;
    optimizer.restore(progress.step, |name, shape| {
        let source = if weights.contains(name) {
            &weights
        } else {
            &moments
        };
        match source.shape(name) {
            Some(stored) if stored != shape => {
                let message = format!("has shape {stored:?}, but the run trains {shape:?}");
                Err(Error::tensor(source.path(), name, message))
            }
            _ => source.tensor(name),
        }
    })?;
    Ok(progress)
}

/// How the best weights are written so that `preftune generate` and Python diffusers load them.
pub enum BestWeights {
    /// As a PEFT file.
    Lora(Rc<LoraSet>),
    /// As a head's folder.
    Head(Rc<Head>),
    /// As the folder of a language model with a head, or of its adapter.
    RewardModel(Rc<RewardModel>),
    /// As folders in Hugging Face layout: whole parts of a model.
    Parts(Vec<Part>),
    /// As a language model's folder, in this type, with these notes.
    LanguageModel(Rc<LanguageModel>, Kind, Notes),
    /// As PEFT's adapter folder, with the path of the language model that it goes with, and these notes.
    Adapter(Rc<LoraSet>, PathBuf, Notes),
}

/// Entries in the header of weights.
pub type Notes = BTreeMap<String, String>;

/// A part of a model as it is written.
pub struct Part {
    /// Its folder below `best/`.
    pub folder: &'static str,
    /// Prefix of its tensors' names among the trained ones.
    pub prefix: &'static str,
    /// Name of its weights: `diffusion_pytorch_model` or `model`.
    pub stem: &'static str,
    /// Files that are copied: configuration, tokenizer, preprocessing.
    pub files: Vec<PathBuf>,
    /// Type of the stored floats.
    pub kind: Kind,
}

impl Part {
    /// All weights of a U-Net, whose `config.json` this is, in f32.
    pub fn unet(config: PathBuf) -> Self {
        Self {
            folder: "unet",
            prefix: "",
            stem: "diffusion_pytorch_model",
            files: vec![config],
            kind: Kind::Float,
        }
    }

    /// Writes the part into `best`, the files first.
    fn store(
        &self,
        best: &Path,
        tensors: &[(String, Tensor)],
        metadata: &BTreeMap<String, String>,
    ) -> Result<()> {
        let folder = best.join(self.folder);
        fs::create_dir_all(&folder).map_err(|source| Error::io("create", &folder, source))?;
        for file in &self.files {
            let target = folder.join(file.file_name().unwrap_or_default());
            json::copy(file, &target)?;
        }
        let own: Vec<(String, Tensor)> = tensors
            .iter()
            .filter_map(|(name, tensor)| {
                let name = name.strip_prefix(self.prefix)?;
                Some((name.to_owned(), tensor.to_kind(self.kind)))
            })
            .collect();
        save(
            &folder.join(format!("{}.safetensors", self.stem)),
            &own,
            metadata,
        )
    }
}

impl BestWeights {
    /// The notes in the header of weights, of whatever name, that [`Self::store`] wrote into a folder.
    ///
    /// # Errors
    /// There are no weights, or they are broken.
    pub fn notes(folder: &Path) -> Result<HashMap<String, String>> {
        let adapter = folder.join(adapter::FILE_NAME);
        let file = if adapter.exists() {
            adapter
        } else {
            folder.join("model.safetensors")
        };
        Ok(Checkpoint::open_file(&file)?.metadata().clone())
    }

    /// Replaces `best/` by the snapshot's weights.
    pub fn store(&self, run: &Path, snapshot: &Snapshot) -> Result<()> {
        let step = BTreeMap::from([(
            "preftune_step".to_owned(),
            snapshot.progress.step.to_string(),
        )]);
        replace_folder(&best_folder(run), |folder| match self {
            Self::Head(head) => head.fill(folder, &step),
            Self::RewardModel(model) => model.fill(folder, &step),
            Self::LanguageModel(model, kind, notes) => model.save(folder, *kind, notes),
            Self::Adapter(lora, base, notes) => {
                let base = base.to_string_lossy();
                lora.weights().save_adapter(folder, &base, notes)
            }
            Self::Lora(lora) => lora.save_peft(&folder.join(peft::FILE_NAME), "unet", &step),
            Self::Parts(parts) => parts
                .iter()
                .try_for_each(|part| part.store(folder, &snapshot.parameters, &step)),
        })
    }
}

/// Where a run's best weights lie, mended if a kill interrupted their replacement.
pub fn best_of(run: &Path) -> Result<PathBuf> {
    let best = best_folder(run);
    recover_folder(&best)?;
    if best.exists() {
        Ok(best)
    } else {
        Err(
            Error::data(run, "has no best weights yet").with_hint(format!(
                "finish the run first: `preftune train {}/config.toml --resume`",
                run.display()
            )),
        )
    }
}

fn best_folder(run: &Path) -> PathBuf {
    run.join("best")
}
