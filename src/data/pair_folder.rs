//! Folders of image pairs as other tools lay them out: a table, sharded Parquet files, or two folders side by side.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{photo, png};
use crate::error::{Error, Result};

/// Names of a table of pairs.
const TABLES: [&str; 2] = ["pairs.jsonl", "metadata.jsonl"];
/// Names of the folders of preferred and of other images; the second are those of sd-scripts.
const SIDES: [[&str; 2]; 2] = [["chosen", "rejected"], ["w", "l"]];
/// Endings of the text beside an image.
const CAPTIONS: [&str; 2] = ["txt", "caption"];

/// What a folder holds.
pub(super) enum Layout {
    /// Files of rows, in their order.
    Tables(Vec<PathBuf>),
    /// Pairs of files of one name.
    SideBySide(Vec<Found>),
}

/// A pair of files.
pub(super) struct Found {
    pub(super) chosen: PathBuf,
    pub(super) rejected: PathBuf,
    /// What is written beside one of them, or what the PNG says that it was made from.
    pub(super) prompt: Option<String>,
}

/// Looks into a folder.
///
/// # Errors
/// None of the layouts, or an image without its counterpart.
pub(super) fn layout(folder: &Path) -> Result<Layout> {
    if let Some(table) = TABLES
        .map(|name| folder.join(name))
        .into_iter()
        .find(|path| path.is_file())
    {
        return Ok(Layout::Tables(vec![table]));
    }
    for sides in SIDES.map(|names| names.map(|name| folder.join(name))) {
        if sides.iter().all(|side| side.is_dir()) {
            return side_by_side(&sides).map(Layout::SideBySide);
        }
    }
    let shards = shards(folder)?;
    if shards.is_empty() {
        return Err(Error::data(folder, "no pairs of images in it").with_hint(
            "it is to hold `pairs.jsonl`, Parquet files, or the folders `chosen` and `rejected` with images of the same names",
        ));
    }
    Ok(Layout::Tables(shards))
}

/// The Parquet files of a folder or of its `data`, those for training where some are named so.
fn shards(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for place in [folder.to_owned(), folder.join("data")] {
        if !place.is_dir() {
            continue;
        }
        let entries = fs::read_dir(&place).map_err(|source| Error::io("read", &place, source))?;
        for entry in entries {
            let path = entry
                .map_err(|source| Error::io("read", &place, source))?
                .path();
            found.extend(
                path.extension()
                    .is_some_and(|ending| ending == "parquet")
                    .then_some(path),
            );
        }
    }
    found.sort();
    let for_training = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("train")
    };
    if found.iter().any(for_training) {
        found.retain(for_training);
    }
    Ok(found)
}

fn side_by_side(sides: &[PathBuf; 2]) -> Result<Vec<Found>> {
    let by_name = |folder: &Path| -> Result<BTreeMap<String, PathBuf>> {
        let named = |path: PathBuf| {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            (stem.into_owned(), path)
        };
        Ok(photo::list(folder)?.into_iter().map(named).collect())
    };
    let (chosen, mut rejected) = (by_name(&sides[0])?, by_name(&sides[1])?);
    let mut pairs = Vec::new();
    for (name, chosen) in chosen {
        let rejected = rejected.remove(&name).ok_or_else(|| {
            let problem = format!("there is no image `{name}` in `{}`", sides[1].display());
            Error::data(&chosen, problem)
        })?;
        let prompt = caption(&chosen, &rejected)?;
        pairs.push(Found {
            chosen,
            rejected,
            prompt,
        });
    }
    if let Some((name, alone)) = rejected.pop_first() {
        let problem = format!("there is no image `{name}` in `{}`", sides[0].display());
        return Err(Error::data(alone, problem));
    }
    Ok(pairs)
}

/// The text beside either image, or the prompt within.
fn caption(chosen: &Path, rejected: &Path) -> Result<Option<String>> {
    for image in [chosen, rejected] {
        for ending in CAPTIONS {
            let path = image.with_extension(ending);
            if path.is_file() {
                let text =
                    fs::read_to_string(&path).map_err(|source| Error::io("read", &path, source))?;
                return Ok(Some(text.trim().to_owned()));
            }
        }
        if png::is_png(image)
            && let Some(prompt) = png::read_text(image, "prompt")?
        {
            return Ok(Some(prompt));
        }
    }
    Ok(None)
}
