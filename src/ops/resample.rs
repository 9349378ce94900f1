//! Resizing of 8-bit images as Pillow does it, bit for bit: encoders were trained on images resized that way, and
//! other definitions of "bicubic" (no antialiasing, another kernel) move an embedding visibly.
//!
//! Separable convolution, with the kernel stretched by the reduction factor (antialiasing). Weights
//! are rounded to fixed point and each pass rounds to 8 bits.

use std::borrow::Cow;

use image::RgbImage;
use rayon::prelude::*;

/// The reconstruction kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Triangle of radius 1.
    Bilinear,
    /// Keys' cubic with a = -1/2, radius 2.
    Bicubic,
    /// Windowed sinc of radius 3.
    Lanczos,
}

impl Filter {
    fn radius(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Self::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

/// Fractional bits of a weight: 8 bits of pixel and 2 of headroom for negative lobes are left of 32.
const FRACTION: u32 = 22;

/// Which inputs make one output, and with what weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

fn taps(input: usize, output: usize, filter: Filter) -> Vec<Taps> {
    let scale = input as f64 / output as f64;
    let stretch = scale.max(1.0);
    let radius = filter.radius() * stretch;
    (0..output)
        .map(|index| {
            let centre = (index as f64 + 0.5) * scale;
            let first = (centre - radius + 0.5).max(0.0) as usize;
            let end = ((centre + radius + 0.5) as usize).min(input);
            let weights: Vec<f64> = (first..end)
                .map(|x| filter.weight((x as f64 - centre + 0.5) * (1.0 / stretch)))
                .collect();
            let sum: f64 = weights.iter().sum();
            let fixed = f64::from(1u32 << FRACTION);
            Taps {
                first,
                weights: weights
                    .iter()
                    .map(|weight| (weight / sum * fixed).round() as i32)
                    .collect(),
            }
        })
        .collect()
}

fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (FRACTION - 1);

/// Resizes without keeping the aspect ratio.
///
/// # Panics
/// Where the image or the new size is empty.
pub fn resize(image: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    assert!(
        width > 0 && height > 0 && image.width() > 0 && image.height() > 0,
        "an image has at least one pixel"
    );
    let (old_width, old_height) = (image.width() as usize, image.height() as usize);
    let (new_width, new_height) = (width as usize, height as usize);
    // Pillow 13 starts with the direction that saves more work; as each pass rounds, the order shows.
    let rows_first = new_height < old_height
        && 2 * (old_width as i64 - new_width as i64) < old_height as i64 - new_height as i64;
    let mut pixels = Cow::Borrowed(image.as_raw().as_slice());
    if rows_first {
        pixels = resize_rows(pixels, old_width, old_height, new_height, filter);
        pixels = resize_columns(pixels, old_width, new_height, new_width, filter);
    } else {
        pixels = resize_columns(pixels, old_width, old_height, new_width, filter);
        pixels = resize_rows(pixels, new_width, old_height, new_height, filter);
    }
    RgbImage::from_raw(width, height, pixels.into_owned()).expect("the buffer has the new size")
}

fn resize_columns(
    pixels: Cow<'_, [u8]>,
    old_width: usize,
    height: usize,
    new_width: usize,
    filter: Filter,
) -> Cow<'_, [u8]> {
    if new_width == old_width {
        return pixels;
    }
    let taps = taps(old_width, new_width, filter);
    let mut output = vec![0; new_width * height * 3];
    output
        .par_chunks_mut(new_width * 3)
        .zip(pixels.par_chunks(old_width * 3))
        .for_each(|(target, source)| {
            for (pixel, taps) in target.chunks_exact_mut(3).zip(&taps) {
                let mut sums = [HALF; 3];
                let sources = source[taps.first * 3..].chunks_exact(3);
                for (source, &weight) in sources.zip(&taps.weights) {
                    for (sum, &value) in sums.iter_mut().zip(source) {
                        *sum += i32::from(value) * weight;
                    }
                }
                for (value, sum) in pixel.iter_mut().zip(sums) {
                    *value = to_byte(sum);
                }
            }
        });
    output.into()
}

fn resize_rows(
    pixels: Cow<'_, [u8]>,
    width: usize,
    old_height: usize,
    new_height: usize,
    filter: Filter,
) -> Cow<'_, [u8]> {
    if new_height == old_height {
        return pixels;
    }
    let taps = taps(old_height, new_height, filter);
    let row = width * 3;
    let mut output = vec![0; row * new_height];
    output
        .par_chunks_mut(row)
        .zip(&taps)
        .for_each(|(target, taps)| {
            let mut sums = vec![HALF; row];
            let sources = pixels[taps.first * row..].chunks_exact(row);
            for (source, &weight) in sources.zip(&taps.weights) {
                for (sum, &value) in sums.iter_mut().zip(source) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (value, sum) in target.iter_mut().zip(sums) {
                *value = to_byte(sum);
            }
        });
    output.into()
}
