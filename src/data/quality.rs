//! What is wrong with photos that do decode: too small, blurred, blank, the same one twice. Nothing is dropped;
//! the command line lists what is found and the user decides.

use std::fmt;
use std::path::PathBuf;

use image::RgbImage;
use rayon::prelude::*;

use super::photo::{Photo, square};
use crate::ops::resample::{Filter, resize};

/// Side at which sharpness is measured.
const SIDE: u32 = 256;
/// Share of the variance that the Laplacian finds. The 158 photos of DreamBench have .066 or more; blurred with a
/// standard deviation of 4 pixels in 512 they have .017 or less.
const SHARP: f64 = 0.02;
/// Standard deviation of the brightness, of 255, below which an image shows nothing.
const BLANK: f64 = 3.0;
/// Bits of 64 in which the difference hashes of two copies may differ.
const COPY_BITS: u32 = 4;
/// Grey levels by which the thumbnails of two copies may differ anywhere; saving and resizing a photo moves them by
/// a few, two photos of one cartoon on one background (DreamBench's closest pair) by 57.
const COPY_LEVELS: f64 = 24.0;

/// A fault of one photo.
#[derive(Clone, Debug, PartialEq)]
pub enum Issue {
    /// The shortest side is smaller than the side that is trained at, so the photo is enlarged.
    Small {
        /// Shortest side in pixels.
        side: u32,
        /// Side of the training images.
        needed: u32,
    },
    /// Hardly any detail at the scale of 1/256 of the photo.
    Blurred,
    /// Almost one colour.
    Blank,
    /// Nearly the same picture as an earlier one.
    Copy {
        /// The earlier photo.
        of: PathBuf,
    },
}

/// A photo and its fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Warning {
    /// The photo.
    pub path: PathBuf,
    /// What is wrong with it.
    pub issue: Issue,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ", self.path.display())?;
        match &self.issue {
            Issue::Small { side, needed } => {
                write!(
                    f,
                    "is enlarged: its shortest side has {side} of {needed} pixels"
                )
            }
            Issue::Blurred => write!(f, "is very blurred"),
            Issue::Blank => write!(f, "is almost one colour"),
            Issue::Copy { of } => write!(f, "looks like a copy of `{}`", of.display()),
        }
    }
}

/// Looks at every photo; `side` is that of the training images. In the order of the photos.
pub fn inspect(photos: &[Photo], side: u32) -> Vec<Warning> {
    let looks: Vec<Look> = photos.par_iter().map(|photo| look(&photo.image)).collect();
    let mut warnings = Vec::new();
    for (index, (photo, look)) in photos.iter().zip(&looks).enumerate() {
        let mut warn = |issue| {
            warnings.push(Warning {
                path: photo.path.clone(),
                issue,
            });
        };
        let shortest = photo.image.width().min(photo.image.height());
        if shortest < side {
            warn(Issue::Small {
                side: shortest,
                needed: side,
            });
        }
        if look.blank {
            // Nothing else can be said of it.
            warn(Issue::Blank);
            continue;
        }
        if look.blurred {
            warn(Issue::Blurred);
        }
        let earlier = looks[..index]
            .iter()
            .position(|other| !other.blank && look.is_copy_of(other));
        if let Some(earlier) = earlier {
            warn(Issue::Copy {
                of: photos[earlier].path.clone(),
            });
        }
    }
    warnings
}

struct Look {
    blank: bool,
    blurred: bool,
    thumbnail: Vec<f64>,
    hash: u64,
}

impl Look {
    fn is_copy_of(&self, other: &Self) -> bool {
        let near = |(one, two): (&f64, &f64)| (one - two).abs() <= COPY_LEVELS;
        (self.hash ^ other.hash).count_ones() <= COPY_BITS
            && self.thumbnail.iter().zip(&other.thumbnail).all(near)
    }
}

fn look(image: &RgbImage) -> Look {
    let middle = square(image, SIDE);
    let grey = luminance(&middle);
    let spread = variance(&grey);
    let row = SIDE as usize;
    let laplacian: Vec<f64> = (1..row - 1)
        .flat_map(|y| (1..row - 1).map(move |x| y * row + x))
        .map(|at| 4.0 * grey[at] - grey[at - 1] - grey[at + 1] - grey[at - row] - grey[at + row])
        .collect();
    let thumbnail = luminance(&resize(&middle, 9, 8, Filter::Lanczos));
    Look {
        blank: spread < BLANK * BLANK,
        // An enlarged photo has no detail at this scale either, which is another fault.
        blurred: image.width().min(image.height()) >= SIDE && variance(&laplacian) < SHARP * spread,
        hash: difference_hash(&thumbnail),
        thumbnail,
    }
}

/// Of a thumbnail 9 wide and 8 high, one bit for each of 8 x 8 places: does the brightness rise to the right?
fn difference_hash(thumbnail: &[f64]) -> u64 {
    thumbnail
        .chunks_exact(9)
        .flat_map(|row| row.windows(2).map(|pair| u64::from(pair[1] > pair[0])))
        .fold(0, |hash, bit| hash << 1 | bit)
}

/// Brightness as in ITU-R BT.601, 0 to 255.
fn luminance(image: &RgbImage) -> Vec<f64> {
    image
        .pixels()
        .map(|pixel| {
            0.299 * f64::from(pixel[0]) + 0.587 * f64::from(pixel[1]) + 0.114 * f64::from(pixel[2])
        })
        .collect()
}

fn variance(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / count
}
