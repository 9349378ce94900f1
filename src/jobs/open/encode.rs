//! Features of images: encoded batch by batch, refused where they are not finite.

use std::path::{Path, PathBuf};

use image::RgbImage;
use tch::Tensor;

use crate::data::photo;
use crate::error::{Error, Result};

/// Images decoded and encoded at a time, so that a large folder does not fill memory.
pub(crate) const CHUNK: usize = 64;

/// Encodes images file by file: `[n, d]` features in the order of `paths`.
///
/// `encoder` names the encoder's folder, for the error where a feature is not finite; `encoded_images` is told how many
/// images a batch had.
pub(crate) fn encode_files(
    paths: &[PathBuf],
    encoder: &Path,
    encoded_images: &dyn Fn(u64),
    encode: impl Fn(&[RgbImage]) -> Result<Tensor>,
) -> Result<Tensor> {
    if paths.is_empty() {
        return encode(&[]);
    }
    let mut features = Vec::new();
    for paths in paths.chunks(CHUNK) {
        let photos = photo::load_all(paths)?.into_iter();
        let images: Vec<RgbImage> = photos.map(|photo| photo.image).collect();
        let encoded = encode(&images)?;
        check_finite(&encoded, encoder, |row| {
            format!("image `{}`", paths[row].display())
        })?;
        features.push(encoded);
        encoded_images(images.len() as u64);
    }
    Ok(Tensor::cat(&features, 0)) // [n, d]
}

/// Refuses features with NaN or infinite values; `name` says what row was encoded.
pub(crate) fn check_finite(
    features: &Tensor,
    encoder: &Path,
    name: impl Fn(usize) -> String,
) -> Result<()> {
    let finite = features.isfinite().all_dim(-1, false); // [n]
    let finite: Vec<bool> = Vec::try_from(finite)?;
    match finite.iter().position(|finite| !finite) {
        Some(row) => Err(Error::weights(
            encoder,
            format!("gives features that are not finite for {}", name(row)),
        )
        .with_hint("the weights are damaged, or need `--precision fp32`")),
        None => Ok(()),
    }
}
