//! The images of an evaluation, `PROMPT/IMAGE.png` below its folder. Each says in its text chunks what it was made
//! from, so that an interrupted evaluation samples what is missing and one with other settings does not mix.

use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;

use crate::data::png;
use crate::error::{Error, Result};
use crate::ops::random::derive_seed;

/// File of the answers that an evaluation judged, in its folder.
pub const ANSWERS_FILE: &str = "answers.jsonl";
/// File of an evaluation's figures in its folder.
pub const METRICS_FILE: &str = "metrics.json";

/// One image to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvaluationImage {
    /// Its file.
    pub path: PathBuf,
    /// Number of its prompt.
    pub row: usize,
    /// Its prompt.
    pub prompt: String,
    /// Seed of its initial noise.
    pub seed: u64,
}

/// `per_prompt` images of every prompt, prompt by prompt.
///
/// Seeds follow from `seed` and the numbers of prompt and image alone: two models, or two subjects, are drawn from
/// the same noise.
pub fn plan(
    folder: &Path,
    prompts: &[String],
    per_prompt: usize,
    seed: u64,
) -> Vec<EvaluationImage> {
    let image = |row: usize, number: usize| EvaluationImage {
        path: folder
            .join(format!("{row:03}"))
            .join(format!("{number:03}.png")),
        row,
        prompt: prompts[row].clone(),
        seed: derive_seed(seed, "evaluation", &[row as u64, number as u64]) as u64,
    };
    (0..prompts.len())
        .flat_map(|row| (0..per_prompt).map(move |number| (row, number)))
        .map(|(row, number)| image(row, number))
        .collect()
}

impl EvaluationImage {
    /// `true` if the file is there and was made from this prompt and seed by `origin`: the words for the model and
    /// the sampler.
    ///
    /// # Errors
    /// The file cannot be read. One that is no image counts as missing.
    pub fn is_there(&self, origin: &str) -> Result<bool> {
        if !self.path.exists() {
            return Ok(false);
        }
        let seed = self.seed.to_string();
        for (keyword, value) in [
            ("prompt", self.prompt.as_str()),
            ("seed", &seed),
            ("origin", origin),
        ] {
            match png::read_text(&self.path, keyword) {
                Ok(Some(text)) if text == value => {}
                Ok(_) | Err(Error::Data { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Stores the image, whole or not at all.
    pub fn store(&self, image: &RgbImage, origin: &str) -> Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|source| Error::io("create", folder, source))?;
        let text = [
            ("prompt", self.prompt.clone()),
            ("seed", self.seed.to_string()),
            ("origin", origin.to_owned()),
        ];
        png::write(&self.path, image, &text)
    }
}
