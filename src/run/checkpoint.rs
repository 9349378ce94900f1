//! Checkpoints (`checkpoints/step-N/`) and the best weights (`best/`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::files::{recover_folder, replace_folder, write_atomically};
use crate::models::heads::Head;
use crate::models::lora::{LoraSet, peft};
use crate::models::weights::{Checkpoint, save};
use crate::trainer::event::{Progress, Snapshot};
use crate::trainer::optimizer::AdamW;

/// Writes a checkpoint and removes all but the `keep` newest.
pub fn store(run: &Path, snapshot: &Snapshot, keep: usize) -> Result<PathBuf> {
    let path = run
        .join("checkpoints")
        .join(format!("step-{:06}", snapshot.progress.step));
    replace_folder(&path, |folder| {
        save(
            &folder.join("weights.safetensors"),
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

/// All complete checkpoints, oldest first.
fn list(run: &Path) -> Result<Vec<PathBuf>> {
    let folder = run.join("checkpoints");
    let entries = match fs::read_dir(&folder) {
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|source| Error::io("read", &folder, source))?,
    };
    let mut steps: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            name.strip_prefix("step-")
                .is_some_and(|step| step.parse::<u64>().is_ok())
        })
        .collect();
    steps.sort();
    Ok(steps)
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
    let progress_file = path.join("progress.json");
    let text = fs::read_to_string(&progress_file)
        .map_err(|source| Error::io("read", &progress_file, source))?;
    let progress: Progress = serde_json::from_str(&text).map_err(|error| {
        Error::data(
            &progress_file,
            format!("not a checkpoint's progress: {error}"),
        )
    })?;
    let weights = Checkpoint::open_file(&path.join("weights.safetensors"))?;
    let moments = Checkpoint::open_file(&path.join("optimizer.safetensors"))?;
    optimizer.restore(progress.step, |name| {
        let source = if weights.contains(name) {
            &weights
        } else {
            &moments
        };
        source.tensor(name)
    })?;
    Ok(Some(progress))
}

/// How the best weights are written so that `preftune generate` and Python diffusers load them.
pub enum BestWeights {
    /// As a PEFT file.
    Lora(Rc<LoraSet>),
    /// As a head's folder.
    Head(Rc<Head>),
    /// As a `unet` folder; the path is that of the base U-Net's `config.json`.
    Full(PathBuf),
}

impl BestWeights {
    /// Replaces `best/` by the snapshot's weights.
    pub fn store(&self, run: &Path, snapshot: &Snapshot) -> Result<()> {
        let step = BTreeMap::from([(
            "preftune_step".to_owned(),
            snapshot.progress.step.to_string(),
        )]);
        replace_folder(&best_folder(run), |folder| match self {
            Self::Head(head) => head.fill(folder, &step),
            Self::Lora(lora) => lora.save_peft(&folder.join(peft::FILE_NAME), "unet", &step),
            Self::Full(config) => {
                let unet = folder.join("unet");
                fs::create_dir(&unet).map_err(|source| Error::io("create", &unet, source))?;
                let target = unet.join("config.json");
                fs::copy(config, &target).map_err(|source| Error::io("write", &target, source))?;
                let tensors: Vec<(String, Tensor)> = snapshot
                    .parameters
                    .iter()
                    .map(|(name, tensor)| (name.clone(), tensor.to_kind(Kind::Float)))
                    .collect();
                save(
                    &unet.join("diffusion_pytorch_model.safetensors"),
                    &tensors,
                    &step,
                )
            }
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
        Err(Error::data(run, "has no best weights yet")
            .with_hint("finish the run first: `preftune train --resume`"))
    }
}

fn best_folder(run: &Path) -> PathBuf {
    run.join("best")
}
