//! The inputs of a reward run on images: their vectors by an encoder of images and texts, computed once and kept in
//! the run's folder as a file of embeddings that other runs can read.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tch::{Device, Kind, Tensor};

use super::data::{Inputs, Read, stored};
use crate::config::{Invalid, RewardConfig, RewardTask};
use crate::data::image_preferences::{ImagePair, Images};
use crate::data::left_out::{LeftOut, Place};
use crate::data::pictures::{Source, decoded};
use crate::data::preferences::Rating;
use crate::data::text::Notes;
use crate::data::{groups, pair_split};
use crate::error::{Error, Result};
use crate::jobs::Display;
use crate::jobs::inputs::sha256;
use crate::jobs::open::encode::{CHUNK, check_finite};
use crate::models::encoders::DualEncoder;
use crate::models::weights::{Checkpoint, hex, save};
use crate::trainer::reward::Embeddings;

/// The file in a run's folder.
const KEPT: &str = "embeddings.safetensors";
/// The key in its header for the encoder and the files.
const KEY: &str = "preftune_images";
/// A manifest's name for the encoder.
pub(crate) const ENCODER: &str = "encoder";

/// Rows of images that are learnt from and that are held out.
enum Rows {
    Pairs([Vec<ImagePair>; 2]),
    Ratings([Vec<(Rating, Place)>; 2]),
}

impl Rows {
    /// Leaves out the rows of images that cannot be read, given why by their numbers.
    fn leave_out(&mut self, broken: &BTreeMap<usize, String>, left_out: &mut LeftOut) {
        match self {
            Self::Pairs(sides) => leave_out(sides, left_out, |image| {
                let rows = [image.pair.chosen, image.pair.rejected];
                let problem = rows.iter().find_map(|row| broken.get(row))?;
                Some((problem, &image.place))
            }),
            Self::Ratings(sides) => leave_out(sides, left_out, |(rating, place)| {
                Some((broken.get(&rating.row)?, place))
            }),
        }
    }

    fn into_read(self) -> Read {
        match self {
            Self::Pairs(sides) => {
                let pair = |image: ImagePair| image.pair;
                let [train, held] = sides.map(|side| side.into_iter().map(pair).collect());
                Read::Pairs(train, held)
            }
            Self::Ratings(sides) => {
                let rating = |(rating, _)| rating;
                let [train, held] = sides.map(|side| side.into_iter().map(rating).collect());
                Read::Ratings(train, held)
            }
        }
    }
}

/// Counts and removes the rows with which something is wrong: `problem` says what, and where the row is.
fn leave_out<'b, T>(
    sides: &mut [Vec<T>; 2],
    left_out: &mut LeftOut,
    problem: impl for<'t> Fn(&'t T) -> Option<(&'b String, &'t Place)>,
) {
    for side in sides {
        side.retain(|row| match problem(row) {
            None => true,
            Some((problem, place)) => {
                left_out.fault(problem, place.clone());
                false
            }
        });
    }
}

/// Reads the rows of a configuration and encodes the images that they name.
pub(crate) fn read(
    config: &RewardConfig,
    (device, kind): (Device, Kind),
    display: &mut dyn Display,
) -> Result<(Inputs, Keep)> {
    let data = &config.data;
    let drops = data.invalid == Invalid::Drop;
    let mut images = Images::below(data.images.as_deref());
    let mut rows = rows(config, &mut images, display)?;
    let encoder = DualEncoder::open(&data.encoder, device, kind)?;
    for note in encoder.assumed() {
        display.say(note);
    }
    let key = key(&encoder, &images)?;
    let kept = config.run.output.join(KEPT);
    let (embeddings, broken) = match earlier(&kept, &key, device) {
        Some(embeddings) => {
            let broken = without_vectors(&embeddings)?;
            (embeddings, broken)
        }
        None => encode(&encoder, &images, &data.encoder, display)?,
    };
    let before = images.notes.left_out.reasons.len();
    rows.leave_out(&broken, &mut images.notes.left_out);
    images.check(drops)?;
    for reason in &images.notes.left_out.reasons[before..] {
        display.say(&format!("  left out, {reason}"));
    }
    if let Rows::Pairs([train, held]) = &rows
        && !held.is_empty()
    {
        display.say(&format!("  {}", pair_split::overlap(train, held)));
    }
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
        rows: rows.into_read(),
        hashes,
    };
    Ok((inputs, keep))
}

/// Reads the rows of both files of a configuration and says what was read.
fn rows(config: &RewardConfig, images: &mut Images, display: &mut dyn Display) -> Result<Rows> {
    let data = &config.data;
    let (seed, share) = (config.run.seed, data.validation_share);
    let drops = data.invalid == Invalid::Drop;
    let mut of_both = Notes::default();
    let mut say = |images: &mut Images| {
        images.check(drops)?;
        for line in images.lines() {
            display.say(&format!("  {line}"));
        }
        let notes = std::mem::take(&mut images.notes);
        of_both.rows += notes.rows;
        of_both.left_out.extend(&notes.left_out);
        of_both.path.clone_from(&data.train);
        Ok::<_, Error>(())
    };
    let rows = if config.reward_model.task == RewardTask::Regression {
        let mut read = |path: &Path| {
            let ratings = images.read_ratings(path, &config.reward_model.attributes)?;
            say(images)?;
            Ok::<_, Error>(ratings)
        };
        let says = |(rating, _): &(Rating, Place)| rating.held_out;
        let key = |(rating, _): &(Rating, Place)| vec![rating.row.to_string()];
        let (train, mut held) = groups::split(read(&data.train)?, says, key, seed, share);
        if let Some(path) = &data.validation {
            held.extend(read(path)?);
        }
        Rows::Ratings([train, held])
    } else {
        let mut read = |path: &Path| {
            let pairs = images.read_pairs(path)?;
            say(images)?;
            Ok::<_, Error>(pairs)
        };
        let (train, mut held) = pair_split::split(read(&data.train)?, seed, share);
        if let Some(path) = &data.validation {
            held.extend(read(path)?);
        }
        Rows::Pairs([train, held])
    };
    images.notes = of_both;
    Ok(rows)
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

/// The rows of images that could not be read when their vectors were computed.
fn without_vectors(embeddings: &Embeddings) -> Result<BTreeMap<usize, String>> {
    let lost = embeddings.responses.isnan().any_dim(1, false); // [n]
    let lost = Vec::<bool>::try_from(lost)?.into_iter().enumerate();
    let why = "an image could not be read when the run began";
    let lost = lost.filter(|(_, lost)| *lost);
    Ok(lost.map(|(row, _)| (row, why.to_owned())).collect())
}

/// The vectors of images and prompts, NaN of images that cannot be read, and why these cannot be by their rows.
fn encode(
    encoder: &DualEncoder,
    images: &Images,
    folder: &Path,
    display: &mut dyn Display,
) -> Result<(Embeddings, BTreeMap<usize, String>)> {
    let sources = &images.sources;
    display.say(&format!(
        "encoding {} images and {} prompts",
        sources.len(),
        images.prompts.len()
    ));
    let (mut encoded, mut rows, mut broken) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (batch, sources) in decoded(sources, CHUNK).zip(sources.chunks(CHUNK)) {
        let mut pictures = Vec::new();
        let first = rows.len() + broken.len();
        for (place, image) in batch?.into_iter().enumerate() {
            match image {
                Ok(photo) => {
                    rows.push((first + place) as i64);
                    pictures.push(photo.image);
                }
                Err(error) => {
                    broken.insert(first + place, sources[place].broken(&error));
                }
            }
        }
        if pictures.is_empty() {
            continue;
        }
        let vectors = encoder.encode_images(&pictures)?; // [b, d]
        let of_batch = &rows[rows.len() - pictures.len()..];
        check_finite(&vectors, folder, |row| {
            let source = &images.sources[of_batch[row] as usize];
            format!("image `{}`", source.name().display())
        })?;
        encoded.push(vectors);
    }
    if encoded.is_empty() {
        let why = broken.into_values().next().unwrap_or_default();
        return Err(Error::data(
            &images.notes.path,
            format!("no image can be read; {why}"),
        ));
    }
    let encoded = Tensor::cat(&encoded, 0);
    let mut responses = encoded.new_full(
        [sources.len() as i64, encoded.size()[1]],
        f64::NAN,
        (encoded.kind(), encoded.device()),
    ); // [n, d]
    let rows = Tensor::from_slice(&rows).to_device(encoded.device());
    let _ = responses.index_copy_(0, &rows, &encoded);
    let prompts = (!images.prompts.is_empty()).then(|| {
        let prompts = encoder.encode_texts(&images.prompts)?;
        check_finite(&prompts, folder, |row| {
            format!("prompt `{}`", images.prompts[row])
        })?;
        Ok::<_, Error>(prompts)
    });
    let embeddings = Embeddings {
        responses,
        prompts: prompts.transpose()?,
    };
    Ok((embeddings, broken))
}
