//! The generated images of a run, kept as PNG files so that an interrupted run does not make them again.

use std::fs;
use std::path::{Path, PathBuf};

use crate::data::{captions, photo, png};
use crate::error::{Error, Result};
use crate::trainer::event::Sample;

fn file(run: &Path, index: usize) -> PathBuf {
    run.join("negatives").join(format!("{index:04}.png"))
}

/// The images of a user's folder with their prompts, cropped to squares of `side` pixels.
pub fn from_folder(folder: &Path, side: u32) -> Result<Vec<Sample>> {
    let photos = photo::load_folder(folder)?;
    let paths: Vec<PathBuf> = photos.iter().map(|photo| photo.path.clone()).collect();
    let prompts = captions::own_prompts(folder, &paths)?;
    let sample = |(photo, prompt): (photo::Photo, String)| Sample {
        prompt,
        seed: 0,
        image: photo::square(&photo.image, side),
    };
    Ok(photos.into_iter().zip(prompts).map(sample).collect())
}

/// The image number `index`, if it was stored and was made from this prompt and seed.
pub fn load(run: &Path, index: usize, prompt: &str, seed: u64) -> Result<Option<Sample>> {
    let path = file(run, index);
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

/// Stores the image number `index`.
pub fn store(run: &Path, index: usize, sample: &Sample) -> Result<()> {
    let folder = run.join("negatives");
    fs::create_dir_all(&folder).map_err(|source| Error::io("create", &folder, source))?;
    let text = [
        ("prompt", sample.prompt.clone()),
        ("seed", sample.seed.to_string()),
    ];
    png::write(&file(run, index), &sample.image, &text)
}
