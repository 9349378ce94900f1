//! Which files of a folder are images that are read, in which order, and what else is there.

use std::cmp::Ordering;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::captions;
use super::left_out::counted;
use super::photo::is_readable;
use crate::error::{Error, Result};
use crate::files::{self, utf8};

/// Endings by which a file claims to be an image of a format that is read; such a file in a folder must decode.
const READ: [&str; 8] = ["jpg", "jpeg", "jpe", "jfif", "mpo", "png", "webp", "bmp"];
/// Endings of pictures that are not read: other formats, what cameras write beside photos, editors' files.
const NOT_READ: [&str; 41] = [
    "heic", "heif", "avif", "gif", "tif", "tiff", "jxl", "jp2", "j2k", "jpx", "tga", "dng", "raw",
    "cr2", "cr3", "nef", "nrw", "arw", "orf", "rw2", "raf", "pef", "srw", "psd", "xcf", "kra",
    "exr", "hdr", "svg", "ico", "ppm", "pgm", "pbm", "pnm", "qoi", "dds", "pcx", "mov", "mp4",
    "livp", "insp",
];
/// Files that give the images of a folder their captions, as data sets of the hub have them.
const METADATA: [&str; 3] = ["metadata.jsonl", "metadata.csv", "metadata.parquet"];
/// Names that a note gives at most.
const NAMED: usize = 5;

/// The files of a folder, not of its subfolders; hidden ones are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The folder.
    pub folder: PathBuf,
    /// Images that are read, in the natural order of their names: `2.jpg` before `10.jpg`.
    pub images: Vec<PathBuf>,
    /// Pictures of formats that are not read.
    pub not_read: Vec<PathBuf>,
    /// Texts beside the images, of the same names.
    pub captions: Vec<PathBuf>,
    /// Files with the captions of all images.
    pub metadata: Vec<PathBuf>,
    /// How many subfolders there are.
    pub subfolders: usize,
}

impl Listing {
    /// Looks into a folder.
    ///
    /// # Errors
    /// No such folder, or no image in it that is read.
    pub fn open(folder: &Path) -> Result<Self> {
        if folder.is_file() {
            return Err(Error::data(
                folder,
                "a file, where a folder of images is needed",
            ));
        }
        let failed = |source| Error::io("read", folder, source);
        let mut listing = Self {
            folder: folder.to_owned(),
            ..Self::default()
        };
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // macOS leaves `._photo.jpg` beside photos on foreign disks.
            if name(&path).starts_with('.') {
                continue;
            }
            if path.is_dir() {
                listing.subfolders += 1;
            } else if is_image(&path) {
                if path.file_name().is_some_and(|name| name.to_str().is_none()) {
                    // Captions, manifests and tables name images by text.
                    utf8(&path)?;
                }
                listing.images.push(path);
            } else if METADATA.contains(&name(&path).as_str()) {
                listing.metadata.push(path);
            } else if NOT_READ.contains(&ending(&path).as_str()) {
                listing.not_read.push(path);
            }
        }
        listing.images.sort_by(|one, other| by_name(one, other));
        listing.metadata.sort();
        listing.not_read.sort_by(|one, other| by_name(one, other));
        if listing.images.is_empty() {
            return Err(listing.nothing_there());
        }
        let captions = listing
            .images
            .iter()
            .filter_map(|image| captions::file_beside(image));
        listing.captions = captions.collect();
        listing.captions.dedup();
        Ok(listing)
    }

    /// Images of several frames, of which the first is read. Looks into every image, which a listing alone does not.
    pub fn animated(&self) -> Vec<PathBuf> {
        let animated = self.images.iter().filter(|path| is_animated(path));
        animated.cloned().collect()
    }

    fn nothing_there(&self) -> Error {
        if !self.not_read.is_empty() {
            let problem = format!(
                "no images in this folder that are read, but {} of other formats: {}",
                self.not_read.len(),
                some(&self.not_read)
            );
            return Error::data(&self.folder, problem)
                .with_hint("JPEG, PNG, WebP and BMP are read: convert them to one of these");
        }
        let hint = if self.subfolders > 0 {
            "it has subfolders: name the one that holds the images"
        } else {
            "JPEG, PNG, WebP and BMP files are read"
        };
        Error::data(&self.folder, "no images in this folder").with_hint(hint)
    }

    /// Notes on what is left out, a sentence each; `instead` says why captions are not used, where they are not.
    pub fn notes(&self, instead: Option<&str>) -> Vec<String> {
        let mut notes = Vec::new();
        let folder = self.folder.display();
        if !self.not_read.is_empty() {
            notes.push(format!(
                "{} of `{folder}` are left out, as their formats are not read: {}; convert them to JPEG or PNG",
                counted(self.not_read.len(), "file"),
                some(&self.not_read)
            ));
        }
        let animated = self.animated();
        if !animated.is_empty() {
            notes.push(format!(
                "`{folder}` has {}, of which the first frame is read: {}",
                counted(animated.len(), "animated image"),
                some(&animated)
            ));
        }
        if let Some(instead) = instead.filter(|_| !self.captions.is_empty()) {
            notes.push(format!(
                "{} beside the images of `{folder}` are not used ({}): {instead}",
                counted(self.captions.len(), "caption"),
                some(&self.captions)
            ));
        }
        if let Some(instead) = instead.filter(|_| !self.metadata.is_empty()) {
            notes.push(format!(
                "captions of the images of `{folder}` are not used ({}): {instead}",
                some(&self.metadata)
            ));
        }
        if self.subfolders > 0 {
            notes.push(format!(
                "{} of `{folder}` {} not looked into",
                counted(self.subfolders, "subfolder"),
                if self.subfolders == 1 { "is" } else { "are" }
            ));
        }
        notes
    }
}

/// The names of the first few files.
pub(super) fn some(paths: &[PathBuf]) -> String {
    let names = paths.iter().take(NAMED);
    let mut text: Vec<String> = names.map(|path| format!("`{}`", name(path))).collect();
    if paths.len() > NAMED {
        text.push(format!("{} more", paths.len() - NAMED));
    }
    text.join(", ")
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn ending(path: &Path) -> String {
    let ending = path.extension().unwrap_or_default();
    ending.to_string_lossy().to_lowercase()
}

/// `true` if a file is an image that is read: by its ending, else by its content.
fn is_image(path: &Path) -> bool {
    let ending = ending(path);
    if READ.contains(&ending.as_str()) {
        return true;
    }
    if !ending.is_empty() && !NOT_READ.contains(&ending.as_str()) {
        return false;
    }
    is_readable(&beginning(path, 64))
}

/// `true` of an animated PNG or WebP file.
fn is_animated(path: &Path) -> bool {
    let start = beginning(path, 1024);
    // WebP says it in the flags of its first chunk, PNG by a chunk before its pixels.
    let webp = start.get(12..16) == Some(b"VP8X")
        && start[16..].get(4).is_some_and(|flags| flags & 2 != 0);
    let pixels = start.windows(4).position(|name| name == b"IDAT");
    let png = start.starts_with(b"\x89PNG")
        && start[..pixels.unwrap_or(start.len())]
            .windows(4)
            .any(|name| name == b"acTL");
    webp || png
}

/// The first bytes of a file; none of one that cannot be read, which is refused where it is decoded.
fn beginning(path: &Path, most: u64) -> Vec<u8> {
    let mut start = Vec::new();
    let read = files::open(path).map(|file| file.take(most).read_to_end(&mut start));
    if matches!(read, Ok(Ok(_))) {
        start
    } else {
        Vec::new()
    }
}

/// The natural order of the names of two files.
fn by_name(one: &Path, other: &Path) -> Ordering {
    natural_order(&name(one), &name(other)).then_with(|| one.cmp(other))
}

/// Numbers in names are compared as numbers, everything else byte by byte.
pub fn natural_order(one: &str, other: &str) -> Ordering {
    let (mut left, mut right) = (one.as_bytes(), other.as_bytes());
    while let (Some(first), Some(second)) = (left.first(), right.first()) {
        let order = if first.is_ascii_digit() && second.is_ascii_digit() {
            let (number, rest) = split_number(left);
            let (other, other_rest) = split_number(right);
            (left, right) = (rest, other_rest);
            // Without leading zeros, the longer number is the greater one.
            number.len().cmp(&other.len()).then(number.cmp(other))
        } else {
            (left, right) = (&left[1..], &right[1..]);
            first.cmp(second)
        };
        if order.is_ne() {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| one.cmp(other))
}

/// The digits at the beginning, without leading zeros, and what follows them.
fn split_number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    let (number, rest) = text.split_at(end.unwrap_or(text.len()));
    let begin = number.iter().position(|byte| *byte != b'0');
    (&number[begin.unwrap_or(number.len())..], rest)
}
