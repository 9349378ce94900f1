//! The inputs of a run on pairs of images: the pairs, their images as latents.

use std::collections::BTreeMap;
use std::path::Path;

use image::RgbImage;
use sha2::{Digest as _, Sha256};
use tch::{Device, Kind, Tensor};

use crate::config::{Invalid, PairsConfig, PromptList};
use crate::data::image_preferences::{ImagePair, Images};
use crate::data::pictures::{Source, decoded};
use crate::data::text::Shape;
use crate::data::{pair_split, photo, prompts};
use crate::distributed::Peers;
use crate::error::{Error, Result};
use crate::jobs::{RunContext, inputs};
use crate::models::diffusion::pipeline::Pipeline;
use crate::models::weights::{Checkpoint, hex, save};
use crate::trainer::denoising::moments;
use crate::trainer::objective::{ExampleLabels, Objective};
use crate::trainer::pairs::Compared;

/// Images that are decoded at a time.
pub(crate) const TOGETHER: usize = 32;
/// The file of latents in a run's folder, so that a resumed run does not encode again.
const KEPT: &str = "latents.safetensors";
/// The key in its header for the images, their size and the autoencoder.
const KEY: &str = "preftune_images";
const MOMENTS: &str = "moments";

/// Everything that was read.
pub(crate) struct PairInputs {
    pub(crate) objective: Objective,
    pub(crate) images: Images,
    pub(crate) train: Vec<ImagePair>,
    pub(crate) held_out: Vec<ImagePair>,
    /// Notes on the pairs, for the user.
    pub(crate) lines: Vec<String>,
    /// `true` if rows with faults are left out.
    pub(crate) drops: bool,
    /// SHA-256 by what it is of.
    pub(crate) hashes: BTreeMap<String, String>,
}

/// The objective of a configuration.
///
/// # Errors
/// As [`Objective::new`], or it does not learn from pairs.
pub(crate) fn objective(config: &PairsConfig) -> Result<Objective> {
    let objective = inputs::objective(&config.objective)?;
    if objective.shape() != Shape::Pairs {
        let problem = format!(
            "`objective.kind`: `{}` does not learn from pairs",
            objective.name()
        );
        return Err(
            Error::config(problem).with_hint("`preftune loss --list` shows what objectives read")
        );
    }
    Ok(objective)
}

/// Reads the pairs of a configuration; images are looked for, not decoded.
pub(crate) fn read(config: &PairsConfig) -> Result<PairInputs> {
    let objective = objective(config)?;
    let section = &config.pairs;
    let mut images = Images::below(section.images.as_deref());
    let prompt = section.prompt.as_ref().map(|prompt| images.prompt(prompt));
    let drops = section.invalid == Invalid::Drop;
    let all = read_with_prompts(&mut images, &section.train, prompt)?;
    images.check(drops)?;
    let mut lines = images.lines();
    let (train, mut held_out) = pair_split::split(all, config.run.seed, section.validation_share);
    if let Some(path) = &section.validation {
        let of_train = std::mem::take(&mut images.notes);
        held_out.extend(read_with_prompts(&mut images, path, prompt)?);
        images.check(drops)?;
        lines.extend(images.lines());
        let more = std::mem::replace(&mut images.notes, of_train);
        images.notes.rows += more.rows;
        images.notes.left_out.extend(&more.left_out);
    }
    for image in train.iter().chain(&held_out) {
        if let Some(column) = objective.lacks(&labels(image)) {
            let name = objective.name();
            let problem = format!("{}: no `{column}`, which `{name}` needs", image.place);
            return Err(Error::config(problem));
        }
    }
    lines.extend(against_the_odds(&train, &held_out));
    if !held_out.is_empty() {
        lines.push(pair_split::overlap(&train, &held_out));
    }
    if train.is_empty() {
        return Err(Error::data(&section.train, "all of its pairs are held out"));
    }
    let hashes = [("training pairs", &train), ("held-out pairs", &held_out)];
    let hashes = hashes.map(|(name, pairs)| (name.to_owned(), rows_sha256(pairs, &images.prompts)));
    Ok(PairInputs {
        objective,
        images,
        train,
        held_out,
        lines,
        drops,
        hashes: hashes.into(),
    })
}

/// Pairs with their own prompt or the one of all; those without are left out.
fn read_with_prompts(
    images: &mut Images,
    path: &Path,
    prompt: Option<usize>,
) -> Result<Vec<ImagePair>> {
    let mut pairs = images.read_pairs(path)?;
    pairs.retain_mut(|image| {
        image.pair.prompt = image.pair.prompt.or(prompt);
        if image.pair.prompt.is_none() {
            images
                .notes
                .left_out
                .fault("no prompt", image.place.clone());
        }
        image.pair.prompt.is_some()
    });
    Ok(pairs)
}

/// That some pairs prefer the image that is less likely to win, as drawn labels do.
fn against_the_odds(train: &[ImagePair], held_out: &[ImagePair]) -> Option<String> {
    let pairs = train.iter().chain(held_out);
    let against = pairs.filter(|image| match (image.wins, image.scores) {
        (Some([chosen, rejected]), _) | (None, Some([chosen, rejected])) => chosen < rejected,
        (None, None) => false,
    });
    let count = against.count();
    (count > 0).then(|| {
        format!("{count} pairs prefer the image that is the less likely one to win (the lower probability or score)")
    })
}

impl PairInputs {
    /// Leaves out the pairs of images that cannot be read, given why by their rows.
    ///
    /// # Errors
    /// These are too many, or none is to be left out.
    pub(crate) fn leave_out(&mut self, broken: &BTreeMap<usize, String>) -> Result<Vec<String>> {
        let before = self.images.notes.left_out.reasons.len();
        let faults = &mut self.images.notes.left_out;
        for side in [&mut self.train, &mut self.held_out] {
            side.retain(|image| {
                let rows = [image.pair.chosen, image.pair.rejected];
                let problem = rows.iter().find_map(|row| broken.get(row));
                if let Some(problem) = problem {
                    faults.fault(problem, image.place.clone());
                }
                problem.is_none()
            });
        }
        self.images.check(self.drops)?;
        let reasons = &self.images.notes.left_out.reasons[before..];
        Ok(reasons
            .iter()
            .map(|reason| format!("left out, {reason}"))
            .collect())
    }
}

/// SHA-256 of the pairs' contents, whatever files they were read from.
fn rows_sha256(pairs: &[ImagePair], prompts: &[String]) -> String {
    let mut hash = Sha256::new();
    // Pairs name prompts by their place.
    hash.update(format!("{prompts:?}"));
    for image in pairs {
        let ImagePair {
            pair,
            wins,
            scores,
            margin,
            ..
        } = image;
        hash.update(format!("{pair:?} {wins:?} {scores:?} {margin}\n"));
    }
    hex(&hash.finalize())
}

fn labels(image: &ImagePair) -> ExampleLabels {
    ExampleLabels {
        weight: image.pair.weight,
        wins: image.wins,
        scores: image.scores,
        margin: image.margin,
        ..ExampleLabels::default()
    }
}

/// Pairs of rows of latents; pairs of equal pictures, of which nothing can be learnt, are left out and counted.
pub(crate) fn compared(pairs: &[ImagePair], moments: &Tensor) -> (Vec<Compared>, usize) {
    let row = |row: usize| moments.select(0, row as i64);
    let differ = |image: &&ImagePair| row(image.pair.chosen) != row(image.pair.rejected);
    let all: Vec<Compared> = pairs
        .iter()
        .filter(differ)
        .map(|image| Compared {
            chosen: image.pair.chosen as i64,
            rejected: image.pair.rejected as i64,
            prompt: image.pair.prompt.unwrap_or_default() as i64,
            labels: labels(image),
        })
        .collect();
    let equal = pairs.len() - all.len();
    (all, equal)
}

/// Images as latents.
pub(crate) struct Encoded {
    /// Their moments, `[n, 2c, h, w]` on the CPU; NaN of images that cannot be read.
    pub(crate) moments: Tensor,
    /// How many had to be enlarged.
    pub(crate) small: usize,
    /// Rows of those that cannot be read, and why.
    pub(crate) broken: BTreeMap<usize, String>,
}

/// All images as squares of `side` pixels, encoded: what an earlier part of the run has kept, or encoded and kept now. The
/// processes of a run share the work, and the first one keeps it.
pub(crate) fn latents(
    pipeline: &Pipeline,
    inputs: &PairInputs,
    images_sha256: &str,
    side: u32,
    context: &mut RunContext,
) -> Result<Encoded> {
    let mut hash = Sha256::new();
    hash.update(pipeline.vae_source().sha256(None)?);
    hash.update(images_sha256);
    hash.update(side.to_le_bytes());
    let key = hex(&hash.finalize());
    let file = context.run.join(KEPT);
    let peers = context.peers().clone();
    let known = peers.is_first().then(|| kept(&file, &key)).flatten();
    if let Some(form) = peers.first_says(known.as_ref().map(form))? {
        let moments = known.unwrap_or_else(|| zeros(&form));
        peers.broadcast(&[moments.shallow_clone()])?;
        let lost = moments.flatten(1, -1).isnan().any_dim(1, false); // [n]
        let lost = Vec::<bool>::try_from(lost)?.into_iter().enumerate();
        let why = |row| {
            (
                row,
                "an image could not be read when the run began".to_owned(),
            )
        };
        return Ok(Encoded {
            moments,
            small: 0,
            broken: lost
                .filter(|(_, lost)| *lost)
                .map(|(row, _)| why(row))
                .collect(),
        });
    }
    let own = peers.deal(inputs.images.sources.len(), TOGETHER);
    let encoded = encode(pipeline, &inputs.images.sources, &own, side, context)?;
    let encoded = gather(&peers, encoded, &own, inputs.images.sources.len())?;
    if peers.is_first() {
        let header = BTreeMap::from([(KEY.to_owned(), key)]);
        let moments = encoded.moments.shallow_clone();
        save(&file, &[(MOMENTS.to_owned(), moments)], &header)?;
    }
    Ok(encoded)
}

/// The images of these rows, encoded: the moments of `own` alone, `[m, 2c, h, w]`.
fn encode(
    pipeline: &Pipeline,
    sources: &[Source],
    own: &[usize],
    side: u32,
    context: &mut RunContext,
) -> Result<Encoded> {
    let read: Vec<Source> = own.iter().map(|&row| sources[row].clone()).collect();
    let (mut parts, mut done, mut small) = (Vec::new(), 0, 0);
    let mut broken = BTreeMap::new();
    for batch in decoded(&read, TOGETHER) {
        context.advance("encode", done as u64, read.len() as u64)?;
        let mut squares = Vec::new();
        let mut lost = Vec::new();
        for image in batch? {
            match image {
                Ok(photo) => {
                    small += usize::from(photo.image.width().min(photo.image.height()) < side);
                    squares.push(photo::square(&photo.image, side));
                }
                Err(error) => {
                    let row = own[done + squares.len()];
                    broken.insert(row, sources[row].broken(&error));
                    lost.push(squares.len() as i64);
                    squares.push(RgbImage::new(side, side));
                }
            }
        }
        let encoded = moments(pipeline, &squares).to_device(Device::Cpu);
        for place in lost {
            let _ = encoded.get(place).fill_(f64::NAN);
        }
        done += squares.len();
        parts.push(encoded);
    }
    let moments = if parts.is_empty() {
        Tensor::new()
    } else {
        Tensor::cat(&parts, 0)
    };
    Ok(Encoded {
        moments,
        small,
        broken,
    })
}

/// All `count` images from what each process has encoded of them, by rows.
fn gather(peers: &Peers, encoded: Encoded, own: &[usize], count: usize) -> Result<Encoded> {
    if peers.are_none() {
        return Ok(encoded);
    }
    // The first process has an image in any case.
    let known = peers.is_first().then(|| form(&encoded.moments));
    let (mut shape, half) = peers.first_says(known)?.unwrap_or_default();
    shape[0] = count as i64;
    let mut moments = zeros(&(shape, half));
    if !own.is_empty() {
        let _ = moments.index_copy_(0, &rows(own), &encoded.moments);
    }
    // Of every image all but one process have zeros.
    peers.sum(&moments)?;
    let mut all = Encoded {
        moments,
        small: 0,
        broken: BTreeMap::new(),
    };
    for (small, broken) in peers.gather((encoded.small, encoded.broken))? {
        all.small += small;
        all.broken.extend(broken);
    }
    Ok(all)
}

/// The shape of a tensor, and whether it is bf16 and not f32.
fn form(tensor: &Tensor) -> (Vec<i64>, bool) {
    (tensor.size(), tensor.kind() == Kind::BFloat16)
}

fn zeros((shape, half): &(Vec<i64>, bool)) -> Tensor {
    let kind = if *half { Kind::BFloat16 } else { Kind::Float };
    Tensor::zeros(shape, (kind, Device::Cpu))
}

fn rows(own: &[usize]) -> Tensor {
    let rows: Vec<i64> = own.iter().map(|&row| row as i64).collect();
    Tensor::from_slice(&rows)
}

/// The latents that an earlier part of the run has encoded of the same images.
fn kept(file: &Path, key: &str) -> Option<Tensor> {
    let kept = Checkpoint::open_file(file).ok()?;
    let same = kept.metadata().get(KEY).is_some_and(|own| own == key);
    same.then(|| kept.tensor(MOMENTS).ok()).flatten()
}

/// The prompts of the images that validations draw.
pub(crate) fn preview_prompts(config: &PairsConfig) -> Result<Vec<String>> {
    match &config.preview.prompts {
        Some(PromptList::List(list)) => Ok(list.clone()),
        Some(PromptList::File(file)) => prompts::read(file),
        None => Ok(Vec::new()),
    }
}
