//! What a run on pairs of images learns from: the pairs, their images as latents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tch::{Device, Tensor};

use super::train_reward_data::split;
use crate::config::PairsConfig;
use crate::data::image_preferences::{ImagePair, Images};
use crate::data::photo;
use crate::data::pictures::batches;
use crate::data::text::Shape;
use crate::error::{Error, Result};
use crate::models::diffusion::pipeline::Pipeline;
use crate::models::weights::{Checkpoint, hex, save};
use crate::trainer::denoising::moments;
use crate::trainer::objective::{Judged, Objective};
use crate::trainer::pairs::Compared;

/// Images that are decoded at a time.
pub(super) const TOGETHER: usize = 32;
/// The file of latents in a run's folder, so that a resumed run does not encode again.
const KEPT: &str = "latents.safetensors";
/// What its header names the images, their size and the autoencoder by.
const KEY: &str = "preftune_images";
const MOMENTS: &str = "moments";

/// Everything that was read.
pub(super) struct PairInputs {
    pub(super) objective: Objective,
    pub(super) images: Images,
    pub(super) train: Vec<ImagePair>,
    pub(super) held_out: Vec<ImagePair>,
    /// SHA-256 by what it is of.
    pub(super) hashes: BTreeMap<String, String>,
}

/// The objective of a configuration.
///
/// # Errors
/// As [`Objective::new`], or it does not learn from pairs.
pub(super) fn objective(config: &PairsConfig) -> Result<Objective> {
    let objective =
        Objective::new(&config.objective).map_err(|problems| Error::Config { problems })?;
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
pub(super) fn read(config: &PairsConfig) -> Result<PairInputs> {
    let objective = objective(config)?;
    let section = &config.pairs;
    let own = if section.train.is_dir() {
        section.train.clone()
    } else {
        section
            .train
            .parent()
            .map_or_else(PathBuf::new, Path::to_owned)
    };
    let mut images = Images::below(section.images.as_ref().unwrap_or(&own));
    let all = images.read_pairs(&section.train)?;
    let held = |image: &ImagePair| image.pair.held_out;
    let (mut train, mut held_out) = split(all, held, config.run.seed, section.validation_share);
    if let Some(path) = &section.validation {
        held_out.extend(images.read_pairs(path)?);
    }
    let prompt = section.prompt.as_ref().map(|prompt| images.prompt(prompt));
    for image in train.iter_mut().chain(&mut held_out) {
        image.pair.prompt = image.pair.prompt.or(prompt);
        if image.pair.prompt.is_none() {
            return Err(Error::config(format!("{}: no prompt", image.place))
                .with_hint("give `pairs.prompt` for pairs without one, or a column `prompt`"));
        }
        if let Some(column) = objective.lacks(&judged(image)) {
            let name = objective.name();
            let problem = format!("{}: no `{column}`, which `{name}` needs", image.place);
            return Err(Error::config(problem));
        }
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
        hashes: hashes.into(),
    })
}

/// What the pairs say, whatever files they were read from.
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

fn judged(image: &ImagePair) -> Judged {
    Judged {
        weight: image.pair.weight,
        wins: image.wins,
        scores: image.scores,
        margin: image.margin,
        ..Judged::default()
    }
}

/// Pairs of rows of latents; pairs of equal pictures, of which nothing can be learnt, are left out and counted.
pub(super) fn compared(pairs: &[ImagePair], moments: &Tensor) -> (Vec<Compared>, usize) {
    let row = |row: usize| moments.select(0, row as i64);
    let differ = |image: &&ImagePair| row(image.pair.chosen) != row(image.pair.rejected);
    let all: Vec<Compared> = pairs
        .iter()
        .filter(differ)
        .map(|image| Compared {
            chosen: image.pair.chosen as i64,
            rejected: image.pair.rejected as i64,
            prompt: image.pair.prompt.unwrap_or_default() as i64,
            judged: judged(image),
        })
        .collect();
    let equal = pairs.len() - all.len();
    (all, equal)
}

/// The moments of all images' latents as squares of `side` pixels, `[n, 2c, h, w]` on the CPU: what an earlier part of the run
/// has kept, or encoded and kept now, and how many of them had to be enlarged.
pub(super) fn latents(
    pipeline: &Pipeline,
    inputs: &PairInputs,
    images_sha256: &str,
    side: u32,
    run: &Path,
    mut go_on: impl FnMut(u64, u64) -> Result<()>,
) -> Result<(Tensor, usize)> {
    let vae = Checkpoint::open_component(
        &pipeline.folder().join("vae"),
        "diffusion_pytorch_model",
        None,
    )?;
    let mut hash = Sha256::new();
    hash.update(vae.sha256());
    hash.update(images_sha256);
    hash.update(side.to_le_bytes());
    let key = hex(&hash.finalize());
    let file = run.join(KEPT);
    if let Some(kept) = kept(&file, &key) {
        return Ok((kept, 0));
    }
    let sources = &inputs.images.sources;
    let (mut parts, mut done, mut small) = (Vec::new(), 0, 0);
    for batch in batches(sources, TOGETHER) {
        go_on(done, sources.len() as u64)?;
        let batch = batch?;
        done += batch.len() as u64;
        let shortest = |photo: &&photo::Photo| photo.image.width().min(photo.image.height()) < side;
        small += batch.iter().filter(shortest).count();
        let squares: Vec<_> = batch
            .iter()
            .map(|photo| photo::square(&photo.image, side))
            .collect();
        parts.push(moments(pipeline, &squares).to_device(Device::Cpu));
    }
    let all = Tensor::cat(&parts, 0);
    let header = BTreeMap::from([(KEY.to_owned(), key)]);
    save(&file, &[(MOMENTS.to_owned(), all.shallow_clone())], &header)?;
    Ok((all, small))
}

/// What an earlier part of the run has encoded of the same images.
fn kept(file: &Path, key: &str) -> Option<Tensor> {
    let kept = Checkpoint::open_file(file).ok()?;
    let same = kept.metadata().get(KEY).is_some_and(|own| own == key);
    same.then(|| kept.tensor(MOMENTS).ok()).flatten()
}
