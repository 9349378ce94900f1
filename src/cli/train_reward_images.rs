//! What a reward run on images is made from: their vectors by an encoder of images and texts, computed once and kept in
//! the run's folder as a file of embeddings that other runs can read.

use std::collections::BTreeMap;
use std::path::Path;

use image::RgbImage;
use sha2::{Digest as _, Sha256};
use tch::{Device, Kind};

use super::candidates::{CHUNK, check_finite, encode_batches};
use super::progress::Progress;
use super::train_reward_data::{Inputs, Read, sha256, split, stored};
use crate::config::{RewardConfig, RewardTask};
use crate::data::image_preferences::Images;
use crate::data::pictures::{Source, batches};
use crate::data::preferences::{Pair, Rating};
use crate::error::{Error, Result};
use crate::models::encoders::DualEncoder;
use crate::models::weights::{Checkpoint, hex, save};
use crate::trainer::reward::Embeddings;

/// The file in a run's folder.
const KEPT: &str = "embeddings.safetensors";
/// What its header names the encoder and the files by.
const KEY: &str = "preftune_images";
/// What a manifest calls the encoder.
pub(super) const ENCODER: &str = "encoder";

/// Reads the rows of a configuration and encodes the images that they name.
pub(super) fn read(
    config: &RewardConfig,
    (device, kind): (Device, Kind),
    display: &Progress,
) -> Result<(Inputs, Keep)> {
    let data = &config.data;
    let folder = data.images.as_deref().unwrap_or(Path::new("."));
    let mut images = Images::below(folder);
    let (seed, share) = (config.run.seed, data.validation_share);
    let rows = if config.reward_model.task == RewardTask::Regression {
        let names = &config.reward_model.attributes;
        let all = images.read_ratings(&data.train, names)?;
        let (train, mut held) = split(all, |rating: &Rating| rating.held_out, seed, share);
        if let Some(path) = &data.validation {
            held.extend(images.read_ratings(path, names)?);
        }
        Read::Ratings(train, held)
    } else {
        let mut read = |path: &Path| {
            let pairs = images.read_pairs(path)?;
            Ok::<Vec<Pair>, Error>(pairs.into_iter().map(|image| image.pair).collect())
        };
        let all = read(&data.train)?;
        let (train, mut held) = split(all, |pair: &Pair| pair.held_out, seed, share);
        if let Some(path) = &data.validation {
            held.extend(read(path)?);
        }
        Read::Pairs(train, held)
    };
    let encoder = DualEncoder::open(&data.encoder, device, kind)?;
    let key = key(&encoder, &images)?;
    let kept = config.run.output.join(KEPT);
    let embeddings = match earlier(&kept, &key, device) {
        Some(embeddings) => embeddings,
        None => encode(&encoder, &images, &data.encoder, display)?,
    };
    let mut hashes = BTreeMap::from([
        ("training examples".to_owned(), sha256(&data.train)?),
        ("images".to_owned(), key.clone()),
        (ENCODER.to_owned(), encoder.weights_sha256().to_owned()),
    ]);
    if let Some(path) = &data.validation {
        hashes.insert("held-out examples".to_owned(), sha256(path)?);
    }
    let keep = Keep {
        embeddings: embeddings.shallow_clone(),
        key,
    };
    let inputs = Inputs {
        embeddings,
        rows,
        hashes,
    };
    Ok((inputs, keep))
}

/// Embeddings that are to be kept in the run's folder.
pub(super) struct Keep {
    embeddings: Embeddings,
    key: String,
}

impl Keep {
    pub(super) fn store(&self, run: &Path) -> Result<()> {
        let path = run.join(KEPT);
        if path.exists() {
            return Ok(());
        }
        let mut tensors = vec![(
            "responses".to_owned(),
            self.embeddings.responses.shallow_clone(),
        )];
        let prompts = self.embeddings.prompts.as_ref();
        tensors.extend(prompts.map(|prompts| ("prompts".to_owned(), prompts.shallow_clone())));
        let header = BTreeMap::from([(KEY.to_owned(), self.key.clone())]);
        save(&path, &tensors, &header)
    }
}

/// Hash of the encoder, of the images' contents and of the prompts.
fn key(encoder: &DualEncoder, images: &Images) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(encoder.weights_sha256());
    hash.update(images_sha256(images)?);
    for prompt in &images.prompts {
        hash.update(prompt.len().to_le_bytes());
        hash.update(prompt);
    }
    Ok(hex(&hash.finalize()))
}

/// Hash of the images' contents.
pub(super) fn images_sha256(images: &Images) -> Result<String> {
    let mut hash = Sha256::new();
    for source in &images.sources {
        match source {
            Source::File(path) => hash.update(sha256(path)?),
            Source::Cell { sha256, .. } => hash.update(sha256),
        }
    }
    Ok(hex(&hash.finalize()))
}

/// What an earlier part of the run has computed of the same images.
fn earlier(path: &Path, key: &str, device: Device) -> Option<Embeddings> {
    let header = Checkpoint::open_file(path).ok()?;
    let same = header.metadata().get(KEY).is_some_and(|own| own == key);
    if !same {
        return None;
    }
    stored(path, device).ok().map(|(embeddings, _)| embeddings)
}

fn encode(
    encoder: &DualEncoder,
    images: &Images,
    folder: &Path,
    display: &Progress,
) -> Result<Embeddings> {
    display.say(&format!(
        "encoding {} images and {} prompts",
        images.sources.len(),
        images.prompts.len()
    ));
    let bar = indicatif::ProgressBar::hidden();
    let by = |images: &[RgbImage]| encoder.encode_images(images);
    let responses = encode_batches(batches(&images.sources, CHUNK), folder, &bar, by)?;
    let prompts = (!images.prompts.is_empty()).then(|| {
        let prompts = encoder.encode_texts(&images.prompts)?;
        check_finite(&prompts, folder, |row| {
            format!("prompt `{}`", images.prompts[row])
        })?;
        Ok::<_, Error>(prompts)
    });
    Ok(Embeddings {
        responses,
        prompts: prompts.transpose()?,
    })
}
