//! The inputs of a reward run on images: their vectors by an encoder of images and texts, computed once and kept in
//! the run's folder as a file of embeddings that other runs can read.

use std::collections::BTreeMap;
use std::path::Path;

use image::RgbImage;
use sha2::{Digest as _, Sha256};
use tch::{Device, Kind};

use super::data::{Inputs, Read, stored};
use crate::config::{Invalid, RewardConfig, RewardTask};
use crate::data::image_preferences::{ImagePair, Images};
use crate::data::pictures::{Source, batches};
use crate::data::preferences::Rating;
use crate::data::text::Notes;
use crate::data::{groups, pair_split};
use crate::error::{Error, Result};
use crate::jobs::Display;
use crate::jobs::inputs::sha256;
use crate::jobs::open::encode::{CHUNK, check_finite, encode_batches};
use crate::models::encoders::DualEncoder;
use crate::models::weights::{Checkpoint, hex, save};
use crate::trainer::reward::Embeddings;

/// The file in a run's folder.
const KEPT: &str = "embeddings.safetensors";
/// The key in its header for the encoder and the files.
const KEY: &str = "preftune_images";
/// A manifest's name for the encoder.
pub(crate) const ENCODER: &str = "encoder";

/// Reads the rows of a configuration and encodes the images that they name.
pub(crate) fn read(
    config: &RewardConfig,
    (device, kind): (Device, Kind),
    display: &mut dyn Display,
) -> Result<(Inputs, Keep)> {
    let data = &config.data;
    let folder = data.images.as_deref().unwrap_or(Path::new("."));
    let mut images = Images::below(folder);
    let (seed, share) = (config.run.seed, data.validation_share);
    let rows = if config.reward_model.task == RewardTask::Regression {
        let names = &config.reward_model.attributes;
        let all = images.read_ratings(&data.train, names)?;
        let (train, mut held) = groups::split(
            all,
            |rating| rating.held_out,
            |rating: &Rating| vec![rating.row.to_string()],
            seed,
            share,
        );
        if let Some(path) = &data.validation {
            held.extend(images.read_ratings(path, names)?);
        }
        Read::Ratings(train, held)
    } else {
        let drops = data.invalid == Invalid::Drop;
        let mut read = |path: &Path| {
            images.notes = Notes::default();
            let pairs = images.read_pairs(path)?;
            images.check(drops)?;
            for line in images.lines() {
                display.say(&format!("  {line}"));
            }
            Ok::<_, Error>(pairs)
        };
        let (train, mut held) = pair_split::split(read(&data.train)?, seed, share);
        if let Some(path) = &data.validation {
            held.extend(read(path)?);
        }
        if !held.is_empty() {
            display.say(&format!("  {}", pair_split::overlap(&train, &held)));
        }
        let pair = |image: ImagePair| image.pair;
        let [train, held] = [train, held].map(|side| side.into_iter().map(pair).collect());
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
pub(crate) struct Keep {
    embeddings: Embeddings,
    key: String,
}

impl Keep {
    pub(crate) fn store(&self, run: &Path) -> Result<()> {
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
pub(crate) fn images_sha256(images: &Images) -> Result<String> {
    let mut hash = Sha256::new();
    for source in &images.sources {
        match source {
            Source::File(path) => hash.update(sha256(path)?),
            Source::Cell { sha256, .. } => hash.update(sha256),
        }
    }
    Ok(hex(&hash.finalize()))
}

/// The embeddings that an earlier part of the run has computed of the same images.
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
    display: &mut dyn Display,
) -> Result<Embeddings> {
    display.say(&format!(
        "encoding {} images and {} prompts",
        images.sources.len(),
        images.prompts.len()
    ));
    let by = |images: &[RgbImage]| encoder.encode_images(images);
    let responses = encode_batches(batches(&images.sources, CHUNK), folder, &|_| {}, by)?;
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
