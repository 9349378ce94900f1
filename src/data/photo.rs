//! Photos from files: whatever the camera or the editor wrote becomes upright 8-bit RGB, or an error that names
//! the file. Colour profiles are ignored, as in the Python tools.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use rayon::prelude::*;

use super::jpeg;
use super::listing::Listing;
use crate::error::{Error, Result};
use crate::files;
use crate::ops::resample::{Filter, Window, resize_window};

/// Longest side that is decoded, in pixels.
pub const MAX_SIDE: u32 = 12_000;
/// Most pixels that are decoded: what the largest phone sensors give in their usual modes.
pub const MAX_PIXELS: u64 = 100_000_000;
/// Most scans of a JPEG image that are decoded: the largest number in use is about 20, and each costs as much as an image.
const MAX_SCANS: usize = 100;
/// Largest file that is read. An uncompressed photo of `MAX_PIXELS` with 16 bits a channel is smaller.
const MAX_BYTES: u64 = 1 << 30;
const CONVERT: &str = "JPEG, PNG, WebP and BMP are read: convert it to one of them";

/// A decoded photo and where it came from.
pub struct Photo {
    /// The file.
    pub path: PathBuf,
    /// Upright pixels.
    pub image: RgbImage,
}

/// Reads one photo; the format is that of the content, whatever the name says.
///
/// The EXIF orientation is applied; of a file with several images (MPO, animations) the first is taken; grey,
/// palette, CMYK and 16-bit images become 8-bit RGB; transparent ones are laid over white.
///
/// # Errors
/// A file that cannot be read, is empty, truncated or no image, or whose header claims more than [`MAX_SIDE`] or
/// [`MAX_PIXELS`] (refused before any pixel is allocated).
pub fn load(path: &Path) -> Result<RgbImage> {
    let metadata = fs::metadata(path).map_err(|source| Error::io("read", path, source))?;
    if metadata.is_dir() {
        return Err(Error::data(path, "a folder, where an image file is needed"));
    }
    if metadata.len() > MAX_BYTES {
        return Err(Error::data(path, "larger than 1 GiB").with_hint("resize the photo first"));
    }
    decode(&files::read(path)?, path)
}

/// The image files of a folder in the natural order of their names, not of its subfolders; see [`Listing`].
///
/// # Errors
/// No such folder, or no image in it.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(Listing::open(folder)?.images)
}

/// Reads all images of a folder in the order of their names, in parallel; see [`list`] and [`load`].
pub fn load_folder(folder: &Path) -> Result<Vec<Photo>> {
    load_all(&list(folder)?)
}

/// Reads these photos in parallel and keeps their order; the error is that of the first one that fails.
pub fn load_all(paths: &[PathBuf]) -> Result<Vec<Photo>> {
    let photos: Vec<Result<Photo>> = paths
        .par_iter()
        .map(|path| {
            Ok(Photo {
                path: path.clone(),
                image: load(path)?,
            })
        })
        .collect();
    photos.into_iter().collect()
}

/// The middle of an image as a square of `size` pixels: the shortest side is resized (Lanczos, antialiased), the
/// aspect ratio kept, the rest cut off evenly.
pub fn square(image: &RgbImage, size: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let shortest = u64::from(width.min(height));
    let scaled = |side: u32| (u64::from(side) * u64::from(size) / shortest) as u32;
    let (width, height) = (scaled(width), scaled(height));
    let middle = Window {
        left: (width - size) / 2,
        top: (height - size) / 2,
        width: size,
        height: size,
    };
    resize_window(image, width, height, Filter::Lanczos, middle)
}

/// `true` if a file that starts with these bytes is an image of a format that is read.
pub(super) fn is_readable(start: &[u8]) -> bool {
    format_of(start).is_ok()
}

/// As [`load`], of a file's content; `path` names it in errors.
pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<RgbImage> {
    match format_of(bytes).map_err(|what| Error::data(path, what).with_hint(CONVERT))? {
        ImageFormat::Jpeg => decode_jpeg(bytes, path),
        format => decode_other(bytes, format, path),
    }
}

/// The format that the first bytes show, or what the file is instead.
fn format_of(bytes: &[u8]) -> std::result::Result<ImageFormat, String> {
    if bytes.is_empty() {
        return Err("an empty file".to_owned());
    }
    let brand = bytes.get(4..12).unwrap_or_default();
    if [&b"ftyphei"[..], b"ftyphev", b"ftypmif", b"ftypmsf"]
        .iter()
        .any(|start| brand.starts_with(start))
    {
        return Err("a HEIC image, which is not read".to_owned());
    }
    match image::guess_format(bytes) {
        Ok(format) if format.reading_enabled() => Ok(format),
        Ok(format) => Err(format!("a {format:?} image, which is not read")),
        Err(_) if is_text(&bytes[..bytes.len().min(512)]) => Err("text, not an image".to_owned()),
        Err(_) => Err("not an image, or its first bytes are damaged".to_owned()),
    }
}

fn is_text(start: &[u8]) -> bool {
    let cut_or_valid = match std::str::from_utf8(start) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    cut_or_valid && !start.contains(&0)
}

fn check_size(width: u32, height: u32, path: &Path) -> Result<()> {
    let pixels = u64::from(width) * u64::from(height);
    if width == 0 || height == 0 {
        return Err(Error::data(
            path,
            format!("an image of {width} x {height} pixels"),
        ));
    }
    if width > MAX_SIDE || height > MAX_SIDE || pixels > MAX_PIXELS {
        let limit = format!(
            "at most {MAX_SIDE} pixels a side and {} million in all are read",
            MAX_PIXELS / 1_000_000
        );
        return Err(Error::data(
            path,
            format!("an image of {width} x {height} pixels; {limit}"),
        )
        .with_hint("resize the photo first; a few thousand pixels a side are plenty"));
    }
    Ok(())
}

fn truncated(path: &Path) -> Error {
    Error::data(path, "a truncated image: its end is missing")
        .with_hint("copy or download the file again, or remove it")
}

fn decode_jpeg(bytes: &[u8], path: &Path) -> Result<RgbImage> {
    let header = jpeg::header(bytes).ok_or_else(|| truncated(path))?;
    check_size(header.width, header.height, path)?;
    if !header.complete {
        return Err(truncated(path));
    }
    if header.scans > MAX_SCANS {
        let scans = header.scans;
        let problem = format!("a JPEG image of {scans} scans; at most {MAX_SCANS} are read");
        return Err(Error::data(path, problem).with_hint("save it again in an image editor"));
    }
    let image = jpeg::decode(bytes)
        .map_err(|message| Error::data(path, format!("a damaged JPEG image: {message}")))?;
    Ok(upright(DynamicImage::ImageRgb8(image), header.orientation).into_rgb8())
}

fn decode_other(bytes: &[u8], format: ImageFormat, path: &Path) -> Result<RgbImage> {
    if let (ImageFormat::Png, Some(size)) = (format, bytes.get(16..24)) {
        // The decoder reads on to the pixels before it tells the size; a file can end before them.
        let side =
            |at: usize| u32::from_be_bytes([size[at], size[at + 1], size[at + 2], size[at + 3]]);
        check_size(side(0), side(4), path)?;
    }
    let broken = |error: image::ImageError| match &error {
        image::ImageError::IoError(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => {
            truncated(path)
        }
        _ => Error::data(path, format!("a damaged {format:?} image: {error}")),
    };
    let mut decoder = ImageReader::with_format(Cursor::new(bytes), format)
        .into_decoder()
        .map_err(broken)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, path)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    Ok(over_white(upright(image, orientation)))
}

fn upright(mut image: DynamicImage, orientation: Orientation) -> DynamicImage {
    image.apply_orientation(orientation);
    image
}

fn over_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    let mut flat = RgbImage::new(image.width(), image.height());
    for (target, source) in flat.pixels_mut().zip(image.pixels()) {
        let alpha = u32::from(source[3]);
        for channel in 0..3 {
            let ink = jpeg::scale(255 - u32::from(source[channel]), alpha);
            target[channel] = (255 - ink) as u8;
        }
    }
    flat
}
