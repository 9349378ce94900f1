//! Folders of image pairs as other tools lay them out: a table, sharded Parquet files, or two folders side by side.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::captions;
use super::left_out::Place;
use super::listing::Listing;
use crate::error::{Error, Result};

/// Names of a table of pairs.
const TABLES: [&str; 6] = [
    "pairs.jsonl",
    "pairs.json",
    "pairs.csv",
    "metadata.jsonl",
    "metadata.csv",
    "metadata.parquet",
];
/// Names of the folders of preferred and of other images; the second are those of sd-scripts.
const SIDES: [[&str; 2]; 2] = [["chosen", "rejected"], ["w", "l"]];

/// The layout of a folder's content.
pub(super) enum Layout {
    /// Files of rows, in their order.
    Tables(Vec<PathBuf>),
    /// Pairs of files of one name.
    SideBySide(Sides),
}

/// The files of two folders.
pub(super) struct Sides {
    /// Pairs, in the order of their names.
    pub(super) pairs: Vec<Found>,
    /// Files that make no pair, and why.
    pub(super) alone: Vec<(Place, String)>,
    /// Notes on what else is in the folders.
    pub(super) notes: Vec<String>,
}

/// A pair of files.
pub(super) struct Found {
    pub(super) chosen: PathBuf,
    pub(super) rejected: PathBuf,
    /// The text that is written beside one of them, or the prompt that the PNG says that it was made from.
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

/// Pairs by the names of files without their endings, which may differ.
fn side_by_side(sides: &[PathBuf; 2]) -> Result<Sides> {
    let (mut alone, mut notes) = (Vec::new(), Vec::new());
    let mut by_name = |folder: &Path| -> Result<Vec<(String, PathBuf)>> {
        let listing = Listing::open(folder)?;
        notes.extend(listing.notes(None));
        let name = |path: &Path| {
            let name = path.file_stem().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let mut counts: HashMap<String, usize> = HashMap::new();
        for path in &listing.images {
            *counts.entry(name(path)).or_default() += 1;
        }
        let mut named = Vec::new();
        for path in listing.images {
            let name = name(&path);
            if counts[&name] > 1 {
                // Which of them is meant cannot be known.
                let problem = "there is another image of this name beside it";
                alone.push((Place::of_file(&path), problem.to_owned()));
            } else {
                named.push((name, path));
            }
        }
        Ok(named)
    };
    let (chosen, rejected) = (by_name(&sides[0])?, by_name(&sides[1])?);
    let mut rejected_by_name: HashMap<&String, &PathBuf> =
        rejected.iter().map(|(name, path)| (name, path)).collect();
    let missing =
        |name: &str, side: &Path| format!("there is no image \"{name}\" in `{}`", side.display());
    let mut pairs = Vec::new();
    for (name, chosen) in chosen {
        let Some(rejected) = rejected_by_name.remove(&name) else {
            alone.push((Place::of_file(&chosen), missing(&name, &sides[1])));
            continue;
        };
        match caption(&chosen, rejected)? {
            Ok(prompt) => pairs.push(Found {
                chosen,
                rejected: rejected.clone(),
                prompt,
            }),
            Err(problem) => alone.push((Place::of_file(&chosen), problem)),
        }
    }
    for (name, path) in &rejected {
        if rejected_by_name.contains_key(name) {
            alone.push((Place::of_file(path), missing(name, &sides[0])));
        }
    }
    Ok(Sides {
        pairs,
        alone,
        notes,
    })
}

/// The text beside either image or, without one, the prompt within; or that both images have one and they differ.
fn caption(chosen: &Path, rejected: &Path) -> Result<Result<Option<String>, String>> {
    for prompt_of in [captions::beside, captions::within_known] {
        match (prompt_of(chosen)?, prompt_of(rejected)?) {
            (Some(one), Some(other)) if one != other => {
                return Ok(Err("the prompts of both images differ".to_owned()));
            }
            (None, None) => {}
            (one, other) => return Ok(Ok(one.or(other))),
        }
    }
    Ok(Ok(None))
}
