//! PNG files that say in their text chunks what made them.

use std::io::{BufReader, Cursor, Read as _};
use std::path::Path;

use image::RgbImage;

use crate::error::{Error, Result};
use crate::files::{self, write_atomically};

/// The keyword that says in a file that its other chunks are ours.
pub(super) const SOFTWARE: &str = "software";

/// Writes an image atomically, with `text` as (keyword, value) chunks in UTF-8 and a word on who wrote them.
pub fn write(path: &Path, image: &RgbImage, text: &[(&str, String)]) -> Result<()> {
    let mut bytes = Vec::new();
    let failed =
        |error: png::EncodingError| Error::data(path, format!("cannot be encoded: {error}"));
    let mut encoder = png::Encoder::new(Cursor::new(&mut bytes), image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let ours = concat!("preftune ", env!("CARGO_PKG_VERSION")).to_owned();
    let software = (!text.is_empty()).then_some((SOFTWARE, ours));
    for (keyword, value) in text.iter().chain(&software) {
        encoder
            .add_itxt_chunk((*keyword).to_owned(), value.clone())
            .map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(image.as_raw()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    write_atomically(path, &bytes)
}

/// `true` if the content is PNG; the name may say otherwise.
pub fn is_png(path: &Path) -> bool {
    let mut start = [0; 8];
    files::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok())
        && start == *b"\x89PNG\r\n\x1a\n"
}

/// The text chunk `keyword` of a PNG file, if it has one.
pub fn read_text(path: &Path, keyword: &str) -> Result<Option<String>> {
    let mut texts = texts(path)?.into_iter();
    let found = texts.find(|(known, _)| known == keyword);
    Ok(found.map(|(_, text)| text))
}

/// All text chunks (`iTXt`, `tEXt`, `zTXt`) of a PNG file as keyword and text, those in UTF-8 first.
pub(super) fn texts(path: &Path) -> Result<Vec<(String, String)>> {
    let file = files::open(path)?;
    let mut reader = png::Decoder::new(BufReader::new(file))
        .read_info()
        .map_err(|error| Error::data(path, format!("not a readable PNG file: {error}")))?;
    let before_pixels = chunks(reader.info(), path)?;
    if !before_pixels.is_empty() {
        return Ok(before_pixels);
    }
    // Some programs write them behind the pixels. Of a truncated file, decoding says what is wrong.
    match reader.finish() {
        Ok(()) => chunks(reader.info(), path),
        Err(_) => Ok(Vec::new()),
    }
}

fn chunks(info: &png::Info, path: &Path) -> Result<Vec<(String, String)>> {
    let broken = |error| Error::data(path, format!("unreadable text chunk: {error}"));
    let mut texts = Vec::new();
    for chunk in &info.utf8_text {
        texts.push((chunk.keyword.clone(), chunk.get_text().map_err(broken)?));
    }
    for chunk in &info.uncompressed_latin1_text {
        texts.push((chunk.keyword.clone(), as_written(&chunk.text)));
    }
    for chunk in &info.compressed_latin1_text {
        let text = chunk.get_text().map_err(broken)?;
        texts.push((chunk.keyword.clone(), as_written(&text)));
    }
    Ok(texts)
}

/// The standard says Latin-1, but some programs write UTF-8, which hardly any Latin-1 text happens to be.
fn as_written(latin: &str) -> String {
    let bytes: Option<Vec<u8>> = latin
        .chars()
        .map(|letter| u8::try_from(letter).ok())
        .collect();
    let utf8 = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    utf8.unwrap_or_else(|| latin.to_owned())
}
