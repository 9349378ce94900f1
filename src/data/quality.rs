//! Faults of photos that do decode: too small, too long, blurred, blank, the same one twice. Nothing is dropped;
//! the command line lists what is found and the user decides.

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

/// Share of a photo that the middle square must hold at least.
const KEPT: f64 = 0.5;
/// Photos that a sentence names at most.
const NAMED: usize = 5;

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
    /// So long that its middle square, which is learnt, is less than half of it.
    Cropped {
        /// Share of the photo that is learnt.
        kept: f64,
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
    /// The fault.
    pub issue: Issue,
}

impl Issue {
    /// The fault in words, of several photos.
    fn of_several(&self) -> String {
        match self {
            Self::Small { needed, .. } => {
                format!("are enlarged, as their shortest sides have fewer than {needed} pixels")
            }
            Self::Cropped { .. } => {
                "lose more than half of their area, as the middle square is learnt".to_owned()
            }
            Self::Blurred => "are very blurred".to_owned(),
            Self::Blank => "are almost one colour".to_owned(),
            Self::Copy { .. } => "look like copies of others".to_owned(),
        }
    }

    /// The detail that is added to a photo's name.
    fn detail(&self) -> String {
        match self {
            Self::Small { side, .. } => format!(" ({side} pixels)"),
            Self::Cropped { kept } => format!(" ({:.0} % kept)", 100.0 * kept),
            Self::Blurred | Self::Blank => String::new(),
            Self::Copy { of } => format!(" (of `{}`)", of.display()),
        }
    }
}

/// One sentence for each kind of fault: how many of the photos have it, and which.
pub fn sentences(warnings: &[Warning], photos: usize) -> Vec<String> {
    let mut kinds: Vec<(String, Vec<&Warning>)> = Vec::new();
    for warning in warnings {
        let kind = warning.issue.of_several();
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, of_kind)) => of_kind.push(warning),
            None => kinds.push((kind, vec![warning])),
        }
    }
    let sentence = |(kind, of_kind): (String, Vec<&Warning>)| {
        let name = |warning: &&Warning| {
            let path = warning.path.display();
            format!("`{path}`{}", warning.issue.detail())
        };
        let mut names: Vec<String> = of_kind.iter().take(NAMED).map(name).collect();
        if of_kind.len() > NAMED {
            names.push(format!("{} more", of_kind.len() - NAMED));
        }
        let names = names.join(", ");
        format!("{} of {photos} photos {kind}: {names}", of_kind.len())
    };
    kinds.into_iter().map(sentence).collect()
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
        let longest = photo.image.width().max(photo.image.height());
        let kept = f64::from(shortest) / f64::from(longest);
        if kept < KEPT {
            warn(Issue::Cropped { kept });
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
