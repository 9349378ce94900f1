//! Image resizing as Pillow does it, bit for bit on 8-bit RGB: separable filters that widen when they shrink
//! (antialiasing), weights in fixed point, rounded to 8 bits between the two passes.

use std::ops::Range;

use image::RgbImage;
use rayon::prelude::*;

/// Fraction bits of a weight: 32, less 8 for the sample and 2 for filters whose lobes overshoot.
const FRACTION: u32 = 32 - 8 - 2;

/// Interpolation kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Triangle.
    Bilinear,
    /// Cubic convolution with a = -0.5 (Keys 1981).
    Bicubic,
    /// Sinc windowed by sinc, three lobes.
    Lanczos,
}

impl Filter {
    /// Half the kernel's width at scale 1.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let distance = x.abs();
        match self {
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Bicubic if distance < 1.0 => {
                ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0
            }
            Self::Bicubic if distance < 2.0 => {
                (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A
            }
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
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

/// A rectangle of the resized image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// For each position of the output axis: the input samples it is made of, and their weights.
struct Taps {
    /// First input sample and number of samples.
    spans: Vec<(usize, usize)>,
    /// `stride` fixed-point weights each, the unused ones zero.
    weights: Vec<i32>,
    stride: usize,
}

impl Taps {
    /// Taps for output positions `begin..begin + count` of an axis that goes from `input` to `output` samples.
    fn new(filter: Filter, input: usize, output: usize, begin: usize, count: usize) -> Self {
        let scale = input as f64 / output as f64;
        let widening = scale.max(1.0);
        let support = filter.support() * widening;
        let stride = support.ceil() as usize * 2 + 1;
        let mut spans = Vec::with_capacity(count);
        let mut weights = vec![0; count * stride];
        let mut exact = Vec::with_capacity(stride);
        for (position, fixed) in (begin..begin + count).zip(weights.chunks_exact_mut(stride)) {
            let centre = (position as f64 + 0.5) * scale;
            // Casts to unsigned saturate at zero, which is the border.
            let first = (centre - support + 0.5) as usize;
            let last = ((centre + support + 0.5) as usize).min(input);
            exact.clear();
            exact
                .extend((first..last).map(|sample| {
                    filter.weight((sample as f64 - centre + 0.5) * (1.0 / widening))
                }));
            let sum: f64 = exact.iter().sum();
            for (fixed, &weight) in fixed.iter_mut().zip(&exact) {
                let weight = if sum == 0.0 { weight } else { weight / sum };
                let scaled = weight * f64::from(1 << FRACTION);
                *fixed = (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32;
            }
            spans.push((first, last - first));
        }
        Self {
            spans,
            weights,
            stride,
        }
    }

    fn at(&self, position: usize) -> (usize, &[i32]) {
        let (first, count) = self.spans[position];
        let begin = position * self.stride;
        (first, &self.weights[begin..begin + count])
    }

    /// All input samples that are used.
    fn reach(&self) -> Range<usize> {
        let first = self.spans.iter().map(|span| span.0).min();
        let end = self.spans.iter().map(|span| span.0 + span.1).max();
        first.unwrap_or(0)..end.unwrap_or(0)
    }
}

fn round(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}

/// Resizes `image` to `width` x `height` and returns the `window` of the result, rows of RGB samples.
///
/// Only what the window shows is computed. All sizes are at least 1 and the window lies inside the result.
pub fn resize(
    image: &RgbImage,
    width: usize,
    height: usize,
    filter: Filter,
    window: Window,
) -> Vec<u8> {
    let (from_width, from_height) = (image.width() as usize, image.height() as usize);
    let columns = Taps::new(filter, from_width, width, window.left, window.width);
    let rows = Taps::new(filter, from_height, height, window.top, window.height);
    let stride = from_width * 3;
    if is_vertical_first((from_width, from_height), (width, height)) {
        let reach = columns.reach();
        let bytes = reach.start * 3..reach.end * 3;
        let flat = vertical(image.as_raw(), stride, bytes, &rows, 0);
        horizontal(&flat, reach.len(), &columns, reach.start)
    } else {
        let reach = rows.reach();
        let shown = &image.as_raw()[reach.start * stride..reach.end * stride];
        let narrow = horizontal(shown, from_width, &columns, 0);
        let stride = window.width * 3;
        vertical(&narrow, stride, 0..stride, &rows, reach.start)
    }
}

/// Which pass comes first shows in the last bit, because samples are rounded between them. Pillow from version 13
/// on starts with the rows where that saves work by this measure; earlier ones always start with the columns.
/// Square images that stay square are the same in both.
fn is_vertical_first(from: (usize, usize), to: (usize, usize)) -> bool {
    let saved = |from: usize, to: usize| from as i64 - to as i64;
    let (columns, rows) = (saved(from.0, to.0), saved(from.1, to.1));
    rows > 0 && rows > 2 * columns
}

/// Resizes each row of `width` pixels; its first pixel has the position `offset`.
fn horizontal(source: &[u8], width: usize, columns: &Taps, offset: usize) -> Vec<u8> {
    let stride = columns.spans.len() * 3;
    let mut target = vec![0u8; source.len() / (width * 3) * stride];
    target
        .par_chunks_exact_mut(stride)
        .zip(source.par_chunks_exact(width * 3))
        .for_each(|(target, source)| {
            for (position, target) in target.chunks_exact_mut(3).enumerate() {
                let (first, weights) = columns.at(position);
                let mut sums = [1i32 << (FRACTION - 1); 3];
                let samples = source[(first - offset) * 3..].chunks_exact(3);
                for (&weight, sample) in weights.iter().zip(samples) {
                    for (sum, &sample) in sums.iter_mut().zip(sample) {
                        *sum += weight * i32::from(sample);
                    }
                }
                for (sample, sum) in target.iter_mut().zip(sums) {
                    *sample = round(sum);
                }
            }
        });
    target
}

/// Resizes the `bytes` of all rows, which are `stride` bytes long; the first row has the position `offset`.
fn vertical(
    source: &[u8],
    stride: usize,
    bytes: Range<usize>,
    rows: &Taps,
    offset: usize,
) -> Vec<u8> {
    let mut target = vec![0u8; rows.spans.len() * bytes.len()];
    target
        .par_chunks_exact_mut(bytes.len())
        .enumerate()
        .for_each(|(position, target)| {
            let (first, weights) = rows.at(position);
            let mut sums = vec![1 << (FRACTION - 1); bytes.len()];
            let sources = source[(first - offset) * stride..].chunks_exact(stride);
            for (&weight, source) in weights.iter().zip(sources) {
                for (sum, &sample) in sums.iter_mut().zip(&source[bytes.clone()]) {
                    *sum += weight * i32::from(sample);
                }
            }
            for (sample, &sum) in target.iter_mut().zip(&sums) {
                *sample = round(sum);
            }
        });
    target
}
