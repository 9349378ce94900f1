//! A tuned model judged on prompts it has not seen, by any number of encoders: what the reward's own encoder says, and
//! what one says that was not trained on.
//!
//! Figures are a list of columns, each of them one quantity under one encoder; a row holds a value for every column.
//! Values of a prompt are means over its images: harmonic rewards are those of the images, averaged afterwards.

use super::bootstrap::{self, Bootstrap};
use super::dreambench::{DualFeatures, ImageFeatures};
use crate::rewards::harmonic::{image_cosine, lambda_harmonic, text_cosine, unit};
use crate::rewards::oracle::real_to_real;

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

/// One quantity under one encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Role of the encoder, as in `reward` or `judge`.
    pub encoder: String,
    /// The quantity: [`CLIP_I`] and the like, or `harmonic_L` for the reward at lambda L.
    pub figure: String,
}

/// The columns that [`score`] fills: of every dual encoder in turn, then DINO's.
pub fn columns(encoders: &[String], lambdas: &[f64], dino: bool) -> Vec<Column> {
    let fixed = [CLIP_I, CLIP_T, IMAGE_SIMILARITY, TEXT_SIMILARITY].map(str::to_owned);
    let harmonic = lambdas.iter().map(|lambda| format!("harmonic_{lambda}"));
    let figures: Vec<String> = fixed.into_iter().chain(harmonic).collect();
    let column = |encoder: &str, figure: &str| Column {
        encoder: encoder.to_owned(),
        figure: figure.to_owned(),
    };
    encoders
        .iter()
        .flat_map(|encoder| figures.iter().map(move |figure| column(encoder, figure)))
        .chain(dino.then(|| column(DINO, DINO)))
        .collect()
}

/// Scores the images of one subject, equally many for each of `prompts` prompts in their order: a row for each prompt.
///
/// # Panics
/// Where the features do not fit: no prompt, images that do not divide among the prompts, differing widths.
pub fn score(
    prompts: usize,
    encoders: &[DualFeatures],
    dino: Option<&ImageFeatures>,
    lambdas: &[f64],
) -> Vec<Vec<f64>> {
    let dual = encoders
        .iter()
        .flat_map(|features| image_columns(prompts, features, lambdas));
    let dino = dino.map(|features| image_cosine(&features.images, &features.references));
    let columns: Vec<Vec<f64>> = dual.chain(dino).collect();
    let row = |prompt: usize| {
        columns
            .iter()
            .map(|values| {
                let each = values.len() / prompts;
                let of_prompt = &values[prompt * each..(prompt + 1) * each];
                of_prompt.iter().sum::<f64>() / each as f64
            })
            .collect()
    };
    (0..prompts).map(row).collect()
}

/// The columns of one encoder, a value for each image.
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
    [vec![clip_i, clip_t, image, text], harmonic].concat()
}

/// The scores that the photos themselves would get, column by column: mean over all pairs of different photos. `None`
/// for quantities that need a prompt, and of a single photo.
pub fn oracle(
    encoders: &[DualFeatures],
    dino: Option<&ImageFeatures>,
    lambdas: &[f64],
) -> Vec<Option<f64>> {
    let among = |features: &ImageFeatures| real_to_real(&features.references);
    let dual = encoders.iter().flat_map(|features| {
        let cosine = among(&features.images);
        let fixed = [cosine, None, cosine.map(unit), None];
        fixed
            .into_iter()
            .chain(std::iter::repeat_n(None, lambdas.len()))
    });
    dual.chain(dino.map(among)).collect()
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
