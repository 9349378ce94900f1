//! PNG files that say in their text chunks what made them.

use std::fs::File;
use std::io::{BufReader, Cursor, Read as _};
use std::path::Path;

use image::RgbImage;

use crate::error::{Error, Result};
use crate::files::write_atomically;

/// Writes an image atomically, with `text` as (keyword, value) chunks in UTF-8.
pub fn write(path: &Path, image: &RgbImage, text: &[(&str, String)]) -> Result<()> {
    let mut bytes = Vec::new();
    let failed =
        |error: png::EncodingError| Error::data(path, format!("cannot be encoded: {error}"));
    let mut encoder = png::Encoder::new(Cursor::new(&mut bytes), image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, value) in text {
        encoder
            .add_itxt_chunk((*keyword).to_owned(), value.clone())
            .map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(image.as_raw()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    write_atomically(path, &bytes)
}

/// Whether the content is PNG; the name may say otherwise.
pub fn is_png(path: &Path) -> bool {
    let mut start = [0; 8];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut start))
        .is_ok_and(|()| start == *b"\x89PNG\r\n\x1a\n")
}

/// The text chunk `keyword` of a PNG file, if it has one.
pub fn read_text(path: &Path, keyword: &str) -> Result<Option<String>> {
    let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    let reader = png::Decoder::new(BufReader::new(file))
        .read_info()
        .map_err(|error| Error::data(path, format!("not a readable PNG file: {error}")))?;
    let info = reader.info();
    if let Some(chunk) = info.utf8_text.iter().find(|chunk| chunk.keyword == keyword) {
        let text = chunk
            .get_text()
            .map_err(|error| Error::data(path, format!("unreadable text chunk: {error}")))?;
        return Ok(Some(text));
    }
    let latin = info
        .uncompressed_latin1_text
        .iter()
        .find(|chunk| chunk.keyword == keyword);
    Ok(latin.map(|chunk| chunk.text.clone()))
}
