//! Log-probs of frozen models on disk, a file for each key: what a run, or runs on the same data, compute once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::Tensor;

use crate::error::{Error, Result};
use crate::models::weights::{Checkpoint, save};

const TENSOR: &str = "logps";

/// The values under `key` in `folder`, `count` of them; `None` where they have not been computed.
///
/// # Errors
/// A file of that name that holds something else.
pub fn load(folder: &Path, key: &str, count: usize) -> Result<Option<Vec<f32>>> {
    let path = file(folder, key);
    if !path.exists() {
        return Ok(None);
    }
    let stored = Checkpoint::open_file(&path)?.tensor(TENSOR)?;
    let values = Vec::<f32>::try_from(stored)?;
    if values.len() == count && values.iter().all(|value| value.is_finite()) {
        return Ok(Some(values));
    }
    let problem = format!("holds {} log-probs, not {count} finite ones", values.len());
    Err(Error::tensor(&path, TENSOR, problem)
        .with_hint("remove the file: it will be computed again"))
}

/// Creates `folder` before values are computed, so that they can be stored there.
///
/// # Errors
/// The folder cannot be created.
pub fn prepare(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|source| Error::io("create", folder, source))
}

/// Stores values under `key`.
///
/// # Errors
/// The file cannot be written.
pub fn store(folder: &Path, key: &str, values: &[f32]) -> Result<()> {
    let tensors = [(TENSOR.to_owned(), Tensor::from_slice(values))];
    let metadata = BTreeMap::from([("key".to_owned(), key.to_owned())]);
    save(&file(folder, key), &tensors, &metadata)
}

fn file(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("{}.safetensors", &key[..key.len().min(32)]))
}
