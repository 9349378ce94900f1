//! A tuned model judged on prompts it has not seen, by any number of encoders: what the reward's own encoder says, and
//! what one says that was not trained on.
//!
//! Figures are a list of columns, each of them one quantity under one encoder; a row holds a value for every column.
//! Values of a prompt are means over its images: harmonic rewards are those of the images, averaged afterwards.

use super::bootstrap::{self, Bootstrap};
use super::dreambench::{DualFeatures, ImageFeatures, of_prompts};
use crate::rewards::harmonic::{image_cosine, lambda_harmonic, text_cosine, unit};
use crate::rewards::oracle::real_to_real;
use crate::rewards::specific::{class_kept, diversity, hypervolume};

/// Likeness to the photos: mean raw cosine of an image with all of them (CLIP-I).
pub const CLIP_I: &str = "clip_i";
/// Alignment with the prompt, the token removed: raw cosine (CLIP-T, without its clamp at 0).
pub const CLIP_T: &str = "clip_t";
/// The reward's image side, `(cosine + 1) / 2`.
pub const IMAGE_SIMILARITY: &str = "image_similarity";
/// The reward's text side, `(cosine + 1) / 2`.
pub const TEXT_SIMILARITY: &str = "text_similarity";
/// Likeness to the photos by DINO, raw cosine.
pub const DINO: &str = "dino";
/// Distance between images of one prompt: mean `1 - cosine`. DreamBooth's DIV (arXiv 2208.12242, section 4.2) takes LPIPS instead.
pub const DIV: &str = "div";
/// Likeness to the photos of images of the class word alone, raw cosine: DreamBooth's PRES, there by DINO. Lower is better.
pub const PRES: &str = "pres";
/// Alignment of images of the class word alone with their prompt, raw cosine.
pub const CLASS_CLIP_T: &str = "class_clip_t";
/// Distance of images of the class word alone from the untuned model's, from the same noise: mean `1 - cosine`.
pub const CLASS_DRIFT: &str = "class_drift";
/// See [`class_kept`].
pub const CLASS_KEPT: &str = "class_kept";
/// See [`hypervolume`].
pub const HYPERVOLUME: &str = "hypervolume";

/// One quantity under one encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Role of the encoder, as in `reward` or `judge`.
    pub encoder: String,
    /// The quantity: [`CLIP_I`] and the like, or `harmonic_L` for the reward at lambda L.
    pub figure: String,
}

/// What is judged beside the images of prompts with the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// DINO's likeness.
    pub dino: bool,
    /// Several images a prompt, so that they differ from each other.
    pub several: bool,
    /// Images of the class word alone.
    pub class: ClassScope,
}

/// Which images of the class word alone are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassScope {
    /// None.
    Nothing,
    /// The model's.
    Alone,
    /// The model's beside the untuned one's.
    BesideUntuned,
}

impl Scope {
    /// The figures of an encoder of images and texts that come after likeness, alignment and rewards.
    fn figures(self) -> impl Iterator<Item = &'static str> {
        let of_class = self.class != ClassScope::Nothing;
        let beside_untuned = self.class == ClassScope::BesideUntuned;
        [
            (DIV, self.several),
            (PRES, of_class),
            (CLASS_CLIP_T, of_class),
            (CLASS_DRIFT, beside_untuned),
            (CLASS_KEPT, beside_untuned),
            (HYPERVOLUME, beside_untuned),
        ]
        .into_iter()
        .filter(|(_, there)| *there)
        .map(|(figure, _)| figure)
    }
}

/// The columns that [`score`] fills: of every dual encoder in turn, then DINO's.
pub fn columns(encoders: &[String], lambdas: &[f64], scope: Scope) -> Vec<Column> {
    let fixed = [CLIP_I, CLIP_T, IMAGE_SIMILARITY, TEXT_SIMILARITY].map(str::to_owned);
    let harmonic = lambdas.iter().map(|lambda| format!("harmonic_{lambda}"));
    let others = scope.figures().map(str::to_owned);
    let figures: Vec<String> = fixed.into_iter().chain(harmonic).chain(others).collect();
    let column = |encoder: &str, figure: &str| Column {
        encoder: encoder.to_owned(),
        figure: figure.to_owned(),
    };
    encoders
        .iter()
        .flat_map(|encoder| figures.iter().map(move |figure| column(encoder, figure)))
        .chain(scope.dino.then(|| column(DINO, DINO)))
        .chain((scope.dino && scope.class != ClassScope::Nothing).then(|| column(DINO, PRES)))
        .collect()
}

/// Features of a model's images: under every dual encoder in turn, and under DINO.
pub struct Judged {
    /// Under the encoders of images and texts.
    pub duals: Vec<DualFeatures>,
    /// Under DINO.
    pub dino: Option<ImageFeatures>,
}

/// Scores the images of one subject, equally many for each of `prompts` prompts in their order: a row for each prompt. `class` are
/// images of the same prompts with the class word alone, `untuned` those of the untuned model from the same noise.
///
/// # Panics
/// Where the features do not fit: no prompt, images that do not divide among the prompts, differing widths.
pub fn score(
    prompts: usize,
    images: &Judged,
    class: Option<&Judged>,
    untuned: Option<&Judged>,
    lambdas: &[f64],
) -> Vec<Vec<f64>> {
    let likeness = |features: &ImageFeatures| image_cosine(&features.images, &features.references);
    let dual = images
        .duals
        .iter()
        .enumerate()
        .flat_map(|(encoder, features)| {
            let mut columns = image_columns(prompts, features, lambdas);
            let class = class.map(|class| &class.duals[encoder]);
            let untuned = untuned.map(|untuned| &untuned.duals[encoder]);
            let of_class = class.map(|class| {
                let both = (columns[0].as_slice(), columns[1].as_slice());
                class_columns(prompts, both, class, untuned)
            });
            columns.extend(of_class.into_iter().flatten());
            columns
        });
    let by_dino = images
        .dino
        .iter()
        .chain(class.and_then(|class| class.dino.as_ref()));
    let dino = by_dino.map(|features| of_prompts(prompts, &likeness(features)));
    let columns: Vec<Vec<f64>> = dual.chain(dino).collect();
    let row = |prompt: usize| columns.iter().map(|values| values[prompt]).collect();
    (0..prompts).map(row).collect()
}

/// The columns of images of the class word alone, a value for each prompt; `volume` are likeness and alignment of the images with
/// the token.
fn class_columns(
    prompts: usize,
    (clip_i, clip_t): (&[f64], &[f64]),
    class: &DualFeatures,
    untuned: Option<&DualFeatures>,
) -> Vec<Vec<f64>> {
    let pres = |features: &DualFeatures| {
        let images = &features.images;
        of_prompts(prompts, &image_cosine(&images.images, &images.references))
    };
    let now = pres(class);
    let each = class.images.images.size()[0] / prompts as i64;
    let texts = class.texts.repeat_interleave_self_int(each, 0, None); // [p * n, d]
    let alignment = of_prompts(prompts, &text_cosine(&class.images.images, &texts));
    let mut columns = vec![now.clone(), alignment];
    if let Some(untuned) = untuned {
        let same = text_cosine(&class.images.images, &untuned.images.images);
        let drift = of_prompts(prompts, &same);
        let before = pres(untuned);
        let kept = now.iter().zip(&before);
        let kept: Vec<f64> = kept
            .map(|(&now, &before)| class_kept(now, before))
            .collect();
        let points = clip_i.iter().zip(clip_t).zip(&kept);
        let volume = points.map(|((&image, &text), &kept)| hypervolume(image, text, kept));
        columns.push(drift.into_iter().map(|same| 1.0 - same).collect());
        columns.push(kept.clone());
        columns.push(volume.collect());
    }
    columns
}

/// The columns of one encoder, a value for each prompt.
fn image_columns(prompts: usize, features: &DualFeatures, lambdas: &[f64]) -> Vec<Vec<f64>> {
    let images = &features.images.images;
    let count = images.size()[0] as usize;
    assert!(
        count > 0 && prompts > 0 && count.is_multiple_of(prompts),
        "{count} images do not divide among {prompts} prompts"
    );
    let each = (count / prompts) as i64;
    let texts = features.texts.repeat_interleave_self_int(each, 0, None); // [p * n, d]
    let clip_i = image_cosine(images, &features.images.references);
    let clip_t = text_cosine(images, &texts);
    let image: Vec<f64> = clip_i.iter().copied().map(unit).collect();
    let text: Vec<f64> = clip_t.iter().copied().map(unit).collect();
    let harmonic = |&lambda: &f64| {
        let pairs = image.iter().zip(&text);
        pairs
            .map(|(&image, &text)| lambda_harmonic(image, text, lambda))
            .collect()
    };
    let harmonic: Vec<Vec<f64>> = lambdas.iter().map(harmonic).collect();
    let mut columns = [vec![clip_i, clip_t, image, text], harmonic].concat();
    for column in &mut columns {
        *column = of_prompts(prompts, column);
    }
    if each > 1 {
        columns.push(diversity(images, each));
    }
    columns
}

/// The scores that the photos themselves would get, column by column: mean over all pairs of different photos. `None`
/// for quantities that need a prompt, and of a single photo.
pub fn oracle(images: &Judged, columns: &[Column]) -> Vec<Option<f64>> {
    let among = |features: &ImageFeatures| real_to_real(&features.references);
    let mut encoders: Vec<&str> = columns
        .iter()
        .map(|column| column.encoder.as_str())
        .collect();
    encoders.dedup();
    let of_column = |column: &Column| {
        let dual = encoders.iter().position(|name| *name == column.encoder);
        let features = match column.figure.as_str() {
            CLIP_I | IMAGE_SIMILARITY => &images.duals[dual?].images,
            DINO => images.dino.as_ref()?,
            _ => return None,
        };
        let cosine = among(features)?;
        Some(if column.figure == IMAGE_SIMILARITY {
            unit(cosine)
        } else {
            cosine
        })
    };
    columns.iter().map(of_column).collect()
}

/// A mean and how far it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Mean over clusters of the means within them.
    pub mean: f64,
    /// Its bootstrap interval; `None` of a single cluster.
    pub interval: Option<(f64, f64)>,
}

/// Estimates of every column from clusters of rows: prompts of one run, or subjects with a row for each of their runs.
///
/// All columns, and all calls with as many clusters, use the same resampled clusters.
///
/// # Panics
/// Without clusters, or with an empty one.
pub fn estimate(clusters: &[Vec<Vec<f64>>], bootstrap: &Bootstrap) -> Vec<Estimate> {
    let width = clusters[0][0].len();
    let column = |column: usize| {
        let values = |rows: &Vec<Vec<f64>>| rows.iter().map(|row| row[column]).collect();
        let clusters: Vec<Vec<f64>> = clusters.iter().map(values).collect();
        Estimate {
            mean: bootstrap::mean(&clusters),
            interval: bootstrap.interval(&clusters),
        }
    };
    (0..width).map(column).collect()
}

/// How much `rows` are above `others`, value by value.
pub fn minus(rows: &[Vec<f64>], others: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let difference = |(row, other): (&Vec<f64>, &Vec<f64>)| {
        let pairs = row.iter().zip(other);
        pairs.map(|(value, other)| value - other).collect()
    };
    rows.iter().zip(others).map(difference).collect()
}

/// Mean of rows, column by column.
///
/// # Panics
/// Without rows.
pub fn mean(rows: &[Vec<f64>]) -> Vec<f64> {
    let count = rows.len() as f64;
    (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column]).sum::<f64>() / count)
        .collect()
}
