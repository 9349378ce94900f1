//! JPEG through libjpeg, whose pixels are those of Pillow; the decoders written in Rust differ by up to 5 of 255.
//!
//! libjpeg fills what a truncated file lacks with grey and calls it a warning, so the markers are walked first.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::RgbImage;
use image::metadata::Orientation;

/// The header of a JPEG: all that it says of itself before its pixels.
pub(super) struct Header {
    /// Width in pixels, as stored.
    pub(super) width: u32,
    /// Height in pixels, as stored.
    pub(super) height: u32,
    /// How to turn the stored pixels.
    pub(super) orientation: Orientation,
    /// How often the pixels, or a part of what they are made from, are gone through.
    pub(super) scans: usize,
    /// `true` if the end of the image is there.
    pub(super) complete: bool,
}

/// Walks the markers of the first image in the file: a preview inside its metadata is skipped, a second image after
/// it (multi-picture files of phones) is not looked at. `None` where no frame header is found.
pub(super) fn header(bytes: &[u8]) -> Option<Header> {
    let mut size = None;
    let mut orientation = Orientation::NoTransforms;
    let (mut scans, mut complete) = (0, false);
    let mut at = 2;
    while let Some((marker, next)) = next_marker(bytes, at) {
        if marker == 0xd9 {
            complete = true;
            break;
        }
        let Some(segment) = segment(bytes, next) else {
            break;
        };
        at = next + 2 + segment.len();
        match marker {
            // Frame headers: precision, height, width; C4, C8 and CC are tables.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) && segment.len() >= 5 => {
                let pair = |at: usize| u32::from(segment[at]) << 8 | u32::from(segment[at + 1]);
                size = Some((pair(3), pair(1)));
            }
            0xda => scans += 1,
            0xe1 if segment.starts_with(b"Exif\0\0") => {
                orientation = Orientation::from_exif_chunk(&segment[6..]).unwrap_or(orientation);
            }
            _ => {}
        }
    }
    size.map(|(width, height)| Header {
        width,
        height,
        orientation,
        scans,
        complete,
    })
}

/// The next marker at or after `at` and the position behind it. In coded data an FF is followed by 00 (a plain FF)
/// or by a restart marker; neither ends a scan.
fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        match *bytes.get(at + 1)? {
            0xff => at += 1,
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            marker => return Some((marker, at + 2)),
        }
    }
}

/// The payload of the segment whose length field is at `at`.
fn segment(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    bytes.get(at + 2..at + length.max(2))
}

/// Decodes the first image in the file; the error is libjpeg's message.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    // libjpeg reports an error by unwinding with its message.
    catch_unwind(AssertUnwindSafe(|| pixels(bytes)))
        .map_err(|payload| match payload.downcast::<String>() {
            Ok(message) => *message,
            Err(_) => "the decoder failed".to_owned(),
        })?
        .map_err(|error| error.to_string())
}

fn pixels(bytes: &[u8]) -> io::Result<RgbImage> {
    use mozjpeg::ColorSpace::{JCS_CMYK, JCS_YCCK};
    let decoder = mozjpeg::Decompress::new_mem(bytes)?;
    let four_inks = matches!(decoder.color_space(), JCS_CMYK | JCS_YCCK);
    let mut decoder = if four_inks {
        decoder.to_colorspace(JCS_CMYK)?
    } else {
        decoder.rgb()?
    };
    let (width, height) = (decoder.width() as u32, decoder.height() as u32);
    let mut pixels: Vec<u8> = decoder.read_scanlines()?;
    decoder.finish()?;
    if four_inks {
        pixels = pixels.chunks_exact(4).flat_map(rgb_of_inks).collect();
    }
    RgbImage::from_raw(width, height, pixels)
        .ok_or_else(|| io::Error::other("fewer pixels than the header says"))
}

/// Cyan, magenta, yellow and black, stored inverted as Adobe does, without a colour profile.
fn rgb_of_inks(inks: &[u8]) -> [u8; 3] {
    let light = u32::from(inks[3]);
    [0, 1, 2].map(|ink| (light - scale(255 - u32::from(inks[ink]), light)) as u8)
}

/// `a * b / 255`, rounded.
pub(super) fn scale(a: u32, b: u32) -> u32 {
    let product = a * b + 128;
    (product + (product >> 8)) >> 8
}
