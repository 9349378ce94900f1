//! Images inside the page: data URIs, small enough that a page of a hundred stays light.

use std::io::Cursor;
use std::path::Path;

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use serde::Serialize;

use crate::data::{photo, png};

/// Side of an image in the page at most, in pixels: twice what the largest is shown at, for dense screens.
const SIDE: u32 = 320;
/// Images up to this side keep every pixel; JPEG would blur them and save nothing.
const LOSSLESS: u32 = 128;
const JPEG_QUALITY: u8 = 88;

/// An image of the page and what it was made from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Picture {
    /// Data URI: base64 of our own making, which needs no escaping.
    pub(super) source: String,
    /// Width and height as shown, in pixels of the file.
    pub(super) width: u32,
    pub(super) height: u32,
    /// A description of it, for those who do not see it.
    pub(super) words: String,
}

/// Reads an image file whole; `None` where it is gone or damaged.
pub(super) fn whole(path: &Path, words: String) -> Option<Picture> {
    let image = photo::load(path).ok()?;
    let largest = image.width().max(image.height());
    if largest <= SIDE {
        return encode(&image, words);
    }
    let scaled = |side: u32| (side * SIDE / largest).max(1);
    let image = image::imageops::thumbnail(&image, scaled(image.width()), scaled(image.height()));
    encode(&image, words)
}

/// Reads the middle square of an image file, as training sees it; `None` where it is gone or damaged.
pub(super) fn middle(path: &Path, words: String) -> Option<Picture> {
    let image = photo::load(path).ok()?;
    let side = image.width().min(image.height()).min(SIDE);
    encode(&photo::square(&image, side), words)
}

/// The prompt and the seed that a generated image says it was made from.
pub(super) fn origin(path: &Path) -> (String, String) {
    let text = |keyword| png::read_text(path, keyword).ok().flatten();
    (
        text("prompt").unwrap_or_default(),
        text("seed").unwrap_or_default(),
    )
}

fn encode(image: &RgbImage, words: String) -> Option<Picture> {
    let mut bytes = Vec::new();
    let target = Cursor::new(&mut bytes);
    let (width, height) = image.dimensions();
    let (kind, written) = if width.max(height) <= LOSSLESS {
        ("png", image.write_with_encoder(PngEncoder::new(target)))
    } else {
        let encoder = JpegEncoder::new_with_quality(target, JPEG_QUALITY);
        ("jpeg", image.write_with_encoder(encoder))
    };
    written.ok()?;
    Some(Picture {
        source: format!("data:image/{kind};base64,{}", base64::encode(bytes)),
        width,
        height,
        words,
    })
}
