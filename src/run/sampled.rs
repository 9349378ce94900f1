//! Images that a run has sampled, kept as PNG files so that an interrupted run does not make them again.

use std::fs;
use std::path::{Path, PathBuf};

use super::folder::require;
use crate::data::{photo, png};
use crate::error::{Error, Result};
use crate::trainer::event::Sample;

/// The file of the image number `index` in a folder of such images.
pub fn file(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index:04}.png"))
}

/// The image number `index` of a folder, if it was stored and was made from this prompt and seed.
pub fn load(folder: &Path, index: usize, prompt: &str, seed: u64) -> Result<Option<Sample>> {
    let path = file(folder, index);
    if !path.exists() {
        return Ok(None);
    }
    let same = png::read_text(&path, "prompt")?.as_deref() == Some(prompt)
        && png::read_text(&path, "seed")?.as_deref() == Some(seed.to_string().as_str());
    if !same {
        return Ok(None);
    }
    Ok(Some(Sample {
        prompt: prompt.to_owned(),
        seed,
        image: photo::load(&path)?,
    }))
}

/// Stores the image number `index` in a folder, which lies in that of `run`.
pub fn store(run: &Path, folder: &Path, index: usize, sample: &Sample) -> Result<()> {
    require(run)?;
    fs::create_dir_all(folder).map_err(|source| Error::io("create", folder, source))?;
    let text = [
        ("prompt", sample.prompt.clone()),
        ("seed", sample.seed.to_string()),
    ];
    png::write(&file(folder, index), &sample.image, &text)
}
