//! Resizing of 8-bit images as Pillow does it, bit for bit: encoders were trained on images resized that way, and
//! other definitions of "bicubic" (no antialiasing, another kernel) move an embedding visibly.
//!
//! Separable convolution, with the kernel stretched by the reduction factor (antialiasing). Weights
//! are rounded to fixed point and each pass rounds to 8 bits.

use std::ops::Range;

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

/// A rectangle of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Columns, at least one.
    pub width: u32,
    /// Rows, at least one.
    pub height: u32,
}

/// Fractional bits of a weight: 8 bits of pixel and 2 of headroom for negative lobes are left of 32.
const FRACTION: u32 = 22;
const HALF: i32 = 1 << (FRACTION - 1);

/// Which inputs make one output, and with what weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Taps of the outputs `shown` of a side that goes from `input` to `output` pixels.
fn taps(input: u32, output: u32, filter: Filter, shown: Range<u32>) -> Vec<Taps> {
    let scale = f64::from(input) / f64::from(output);
    let stretch = scale.max(1.0);
    let radius = filter.radius() * stretch;
    let tap = |index: u32| {
        let centre = (f64::from(index) + 0.5) * scale;
        let first = (centre - radius + 0.5).max(0.0) as usize;
        let end = ((centre + radius + 0.5) as usize).min(input as usize);
        let weights: Vec<f64> = (first..end)
            .map(|x| filter.weight((x as f64 - centre + 0.5) * (1.0 / stretch)))
            .collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / sum * f64::from(1u32 << FRACTION)).round() as i32;
        Taps {
            first,
            weights: weights.iter().map(fixed).collect(),
        }
    };
    shown.map(tap).collect()
}

/// The inputs that any of the taps reads.
fn reach(taps: &[Taps]) -> Range<usize> {
    let begin = taps.iter().map(|taps| taps.first).min();
    let end = taps
        .iter()
        .map(|taps| taps.first + taps.weights.len())
        .max();
    begin.unwrap_or(0)..end.unwrap_or(0)
}

fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}

/// Resizes without keeping the aspect ratio.
///
/// # Panics
/// Where the image or the new size is empty.
pub fn resize(image: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    let all = Window {
        left: 0,
        top: 0,
        width,
        height,
    };
    resize_window(image, width, height, filter, all)
}

/// The `window` of an image resized to `width` x `height`; what lies outside is not computed.
///
/// # Panics
/// Where the image or the window is empty, or the window does not lie in the resized image.
pub fn resize_window(
    image: &RgbImage,
    width: u32,
    height: u32,
    filter: Filter,
    window: Window,
) -> RgbImage {
    let (old_width, old_height) = image.dimensions();
    assert!(
        old_width > 0 && old_height > 0 && window.width > 0 && window.height > 0,
        "an image has at least one pixel"
    );
    let (right, bottom) = (window.left + window.width, window.top + window.height);
    assert!(right <= width && bottom <= height, "the window is inside");
    let columns = taps(old_width, width, filter, window.left..right);
    let rows = taps(old_height, height, filter, window.top..bottom);
    let source = Pixels {
        bytes: image.as_raw(),
        width: old_width as usize,
    };
    // Pillow 13 starts with the direction that saves more work; as each pass rounds, the order shows.
    let rows_first = height < old_height
        && 2 * (i64::from(old_width) - i64::from(width)) < i64::from(old_height - height);
    let resized = if rows_first {
        let needed = reach(&columns);
        let bytes = resize_rows(&source, &rows, 0, needed.clone());
        let width = needed.len();
        let lower = Pixels {
            bytes: &bytes,
            width,
        };
        resize_columns(&lower, &columns, needed.start)
    } else {
        let needed = reach(&rows);
        let bytes = &source.bytes[needed.start * source.width * 3..needed.end * source.width * 3];
        let band = Pixels { bytes, ..source };
        let bytes = resize_columns(&band, &columns, 0);
        let narrower = Pixels {
            bytes: &bytes,
            width: columns.len(),
        };
        resize_rows(&narrower, &rows, needed.start, 0..columns.len())
    };
    RgbImage::from_raw(window.width, window.height, resized).expect("the buffer has this size")
}

/// Rows of RGB pixels.
struct Pixels<'a> {
    bytes: &'a [u8],
    width: usize,
}

/// Every row to `taps.len()` pixels; the first pixel of `source` is the input `offset` of the taps.
fn resize_columns(source: &Pixels, taps: &[Taps], offset: usize) -> Vec<u8> {
    let rows = source.bytes.par_chunks_exact(source.width * 3);
    let mut output = vec![0; taps.len() * 3 * rows.len()];
    let targets = output.par_chunks_exact_mut(taps.len() * 3);
    targets.zip(rows).for_each(|(target, source)| {
        for (pixel, taps) in target.chunks_exact_mut(3).zip(taps) {
            let mut sums = [HALF; 3];
            let sources = source[(taps.first - offset) * 3..].chunks_exact(3);
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
    output
}

/// `taps.len()` rows of the `columns`; the first row of `source` is the input `offset` of the taps.
fn resize_rows(source: &Pixels, taps: &[Taps], offset: usize, columns: Range<usize>) -> Vec<u8> {
    let stride = source.width * 3;
    let shown = columns.start * 3..columns.end * 3;
    let mut output = vec![0; shown.len() * taps.len()];
    let targets = output.par_chunks_exact_mut(shown.len());
    targets.zip(taps).for_each(|(target, taps)| {
        let mut sums = vec![HALF; shown.len()];
        let sources = source.bytes[(taps.first - offset) * stride..].chunks_exact(stride);
        for (source, &weight) in sources.zip(&taps.weights) {
            for (sum, &value) in sums.iter_mut().zip(&source[shown.clone()]) {
                *sum += i32::from(value) * weight;
            }
        }
        for (value, sum) in target.iter_mut().zip(sums) {
            *value = to_byte(sum);
        }
    });
    output
}
