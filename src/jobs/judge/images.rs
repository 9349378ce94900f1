//! What gives images their rewards: the lambda-Harmonic reward of an encoder, or a command.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use image::RgbImage;
use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::command::Judge;
use crate::config::{ImageRewardKind, ImageRewardSection};
use crate::data::photo::Photo;
use crate::data::png;
use crate::data::prompts::strip_token;
use crate::error::{Error, Result};
use crate::jobs::interrupt::Interrupt;
use crate::models::encoders::DualEncoder;
use crate::rewards::harmonic::{image_similarity, lambda_harmonic, text_similarity};
use crate::rewards::image::{ImageReward, ImageScore};

/// A subject as rewards know it.
pub(crate) struct RewardedSubject<'a> {
    pub(crate) photos: &'a [Photo],
    /// The token, which encoders do not know: texts are compared without it.
    pub(crate) token: &'a str,
}

/// The reward of a configuration; a command keeps the images that it is shown in `folder`.
///
/// # Errors
/// An encoder that cannot be loaded, photos that it does not take, a command that does not start.
pub(crate) fn open(
    section: &ImageRewardSection,
    subject: Option<&RewardedSubject>,
    folder: &Path,
    device: Device,
    interrupt: &Interrupt,
) -> Result<Box<dyn ImageReward>> {
    Ok(match section.kind {
        ImageRewardKind::Harmonic => {
            let encoder = DualEncoder::open(&section.encoder, device, Kind::Float)?;
            let photos = subject.map(|subject| {
                let images = subject.photos.iter().map(|photo| photo.image.clone());
                encoder.encode_images(&images.collect::<Vec<_>>())
            });
            Box::new(HarmonicReward {
                photos: photos.transpose()?,
                lambda: section.lambda,
                token: subject.map_or_else(String::new, |subject| subject.token.to_owned()),
                texts: HashMap::new(),
                encoder,
            })
        }
        ImageRewardKind::Command => {
            let patience = Duration::from_secs(section.patience);
            Box::new(CommandReward {
                judge: Judge::start(&section.command, patience)?.until(interrupt),
                command: section.command.clone(),
                folder: folder.to_owned(),
                asked: 0,
            })
        }
    })
}

/// Likeness to photos and alignment with the prompt, by one encoder of images and texts.
struct HarmonicReward {
    encoder: DualEncoder,
    /// Features of the photos, `[r, d]`; without them the reward is alignment alone.
    photos: Option<Tensor>,
    lambda: f64,
    token: String,
    /// Features of texts that were seen, `[1, d]` each.
    texts: HashMap<String, Tensor>,
}

impl ImageReward for HarmonicReward {
    fn name(&self) -> String {
        let encoder = self.encoder.name();
        match self.photos {
            Some(_) => format!(
                "lambda-Harmonic reward, lambda {}, by {encoder}",
                self.lambda
            ),
            None => format!("alignment with the prompt by {encoder}"),
        }
    }

    fn sha256(&self) -> Option<String> {
        Some(self.encoder.weights_sha256().to_owned())
    }

    fn columns(&self) -> &'static [&'static str] {
        if self.photos.is_some() {
            &["image_similarity", "text_similarity"]
        } else {
            &["text_similarity"]
        }
    }

    fn score(&mut self, images: &[RgbImage], prompts: &[String]) -> Result<Vec<ImageScore>> {
        let features = self.encoder.encode_images(images)?;
        let stripped: Vec<String> = prompts
            .iter()
            .map(|prompt| strip_token(prompt, &self.token))
            .collect();
        let mut new: Vec<String> = stripped.clone();
        new.retain(|text| !self.texts.contains_key(text));
        new.sort();
        new.dedup();
        if !new.is_empty() {
            let encoded = self.encoder.encode_texts(&new)?;
            let rows = encoded.split(1, 0);
            self.texts.extend(new.into_iter().zip(rows));
        }
        let texts: Vec<&Tensor> = stripped.iter().map(|text| &self.texts[text]).collect();
        let alignment = text_similarity(&features, &Tensor::cat(&texts, 0));
        let Some(photos) = &self.photos else {
            let score = |&text: &f64| ImageScore {
                reward: text,
                columns: vec![text],
            };
            return Ok(alignment.iter().map(score).collect());
        };
        let likeness = image_similarity(&features, photos);
        let both = likeness.into_iter().zip(alignment);
        Ok(both
            .map(|(image, text)| ImageScore {
                reward: lambda_harmonic(image, text, self.lambda),
                columns: vec![image, text],
            })
            .collect())
    }
}

/// A command that is asked about each image.
struct CommandReward {
    judge: Judge,
    command: String,
    /// Where the image lies that is asked about.
    folder: PathBuf,
    asked: u64,
}

impl ImageReward for CommandReward {
    fn name(&self) -> String {
        format!("`{}`", self.command)
    }

    fn sha256(&self) -> Option<String> {
        None
    }

    fn columns(&self) -> &'static [&'static str] {
        &[]
    }

    fn score(&mut self, images: &[RgbImage], prompts: &[String]) -> Result<Vec<ImageScore>> {
        let file = self.folder.join("asked.png");
        let mut scores = Vec::with_capacity(images.len());
        for (image, prompt) in images.iter().zip(prompts) {
            png::write(&file, image, &[("prompt", prompt.clone())])?;
            self.asked += 1;
            let question = json!({"id": self.asked, "prompt": prompt, "image": file});
            scores.push(ImageScore {
                reward: self.judge.reward(self.asked, &question)?,
                columns: Vec::new(),
            });
        }
        std::fs::remove_file(&file)
            .or_else(|source| match source.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(source),
            })
            .map_err(|source| Error::io("remove", &file, source))?;
        Ok(scores)
    }
}
