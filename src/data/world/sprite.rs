//! The sprites' folder: `index.json` and the images that it lists.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use image::ImageFormat;
use rayon::prelude::*;
use serde::Deserialize;

use super::caption;
use crate::error::{Error, Result};
use crate::files::{self, inside};

/// Pixels across and down of a sprite's image.
pub(super) const TILE: usize = 64;
/// Room around the tile into which its shadow spreads.
pub(super) const MARGIN: f32 = 8.0;
/// Pixels across and down of a shadow.
pub(super) const SHADOW: usize = TILE + 2 * MARGIN as usize;
/// Pixels to either side over which a shadow is blurred, three times.
const BLUR: usize = 2;

/// The pixels of a sprite that are drawn.
pub(super) struct Pixels {
    /// Premultiplied red, green, blue, alpha in [0, 1], [`TILE`] across and down.
    pub(super) colours: Vec<[f32; 4]>,
    /// Blurred alpha, [`SHADOW`] across and down.
    pub(super) shadow: Vec<[f32; 1]>,
}

/// One drawing of one thing.
pub struct Sprite {
    /// Which of the world's classes it shows.
    pub class: usize,
    /// The emoji set that it is from.
    pub set: String,
    /// Its name in the set.
    pub drawing: String,
    /// `true` if it is kept from all training.
    pub held_out: bool,
    /// The word that names this drawing in captions, if it has one.
    pub called: Option<String>,
    pub(super) pixels: Pixels,
}

/// A thing to tune a model to: one held-out sprite.
pub struct Subject {
    /// Its name; no other subject has it.
    pub name: String,
    /// The class that it belongs to.
    pub class: usize,
    /// The sprite that its photos show.
    pub sprite: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    classes: Vec<String>,
    subjects: Vec<SubjectEntry>,
    sprites: Vec<SpriteEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubjectEntry {
    name: String,
    class: String,
    set: String,
    drawing: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpriteEntry {
    class: String,
    set: String,
    name: String,
    file: String,
    called: Option<String>,
}

/// The content of a folder of sprites.
pub(super) struct Collection {
    pub(super) classes: Vec<String>,
    pub(super) sprites: Vec<Sprite>,
    pub(super) subjects: Vec<Subject>,
}

/// Reads the index and all images.
///
/// # Errors
/// A missing or malformed index, an entry that contradicts another, a class without a sprite to train on, an image
/// that is missing, damaged or of another size.
pub(super) fn open(folder: &Path) -> Result<Collection> {
    let path = folder.join("index.json");
    let text = fs::read_to_string(&path).map_err(|source| {
        Error::io("read", &path, source)
            .with_hint("name the folder of the sprites, `assets/sprites` in the repository")
    })?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|error| Error::data_line(&path, error.line(), error.to_string()))?;
    let wrong = |message: String| Error::data(&path, message);
    check_classes(&index.classes).map_err(wrong)?;
    check_names(&index).map_err(wrong)?;
    if index.subjects.is_empty() {
        return Err(wrong("no subjects: nothing would be held out".to_owned()));
    }
    let class_of = |name: &str| {
        let found = index.classes.iter().position(|class| class == name);
        found.ok_or_else(|| wrong(format!("`{name}` is not among the classes")))
    };
    let held_out = |sprite: &SpriteEntry| {
        let same =
            |subject: &SubjectEntry| subject.class == sprite.class && subject.set == sprite.set;
        index.subjects.iter().any(same)
    };
    let sprites =
        index
            .sprites
            .par_iter()
            .map(|entry| {
                Ok(Sprite {
                    class: class_of(&entry.class)?,
                    set: entry.set.clone(),
                    drawing: entry.name.clone(),
                    held_out: held_out(entry),
                    called: entry.called.clone(),
                    pixels: load(&inside(folder, &entry.file).ok_or_else(|| {
                        wrong(format!("`{}` lies outside the folder", entry.file))
                    })?)?,
                })
            })
            .collect::<Vec<Result<Sprite>>>();
    let sprites = sprites.into_iter().collect::<Result<Vec<Sprite>>>()?;
    for (class, name) in index.classes.iter().enumerate() {
        let usable = |sprite: &Sprite| sprite.class == class && !sprite.held_out;
        if !sprites.iter().any(usable) {
            return Err(wrong(format!(
                "the class `{name}` has no sprite that is not held out"
            )));
        }
    }
    let mut names = HashSet::new();
    let subjects = index.subjects.iter().map(|entry| {
        let class = class_of(&entry.class)?;
        let same = |sprite: &Sprite| {
            sprite.class == class && sprite.set == entry.set && sprite.drawing == entry.drawing
        };
        let sprite = sprites.iter().position(same).ok_or_else(|| {
            wrong(format!(
                "the subject `{}` is not among the sprites: {} {} {}",
                entry.name, entry.class, entry.set, entry.drawing
            ))
        })?;
        if !names.insert(&entry.name) {
            return Err(wrong(format!("two subjects are called `{}`", entry.name)));
        }
        Ok(Subject {
            name: entry.name.clone(),
            class,
            sprite,
        })
    });
    Ok(Collection {
        subjects: subjects.collect::<Result<_>>()?,
        classes: index.classes,
        sprites,
    })
}

/// Classes go into captions, whose words are split at spaces.
fn check_classes(classes: &[String]) -> std::result::Result<(), String> {
    if classes.is_empty() {
        return Err("no classes".to_owned());
    }
    let mut seen = HashSet::new();
    for class in classes {
        if !is_word(class) {
            return Err(format!("the class `{class}` is not one lower-case word"));
        }
        if !seen.insert(class) {
            return Err(format!("the class `{class}` is listed twice"));
        }
    }
    Ok(())
}

/// A name goes into captions too, and means one drawing.
fn check_names(index: &Index) -> std::result::Result<(), String> {
    let mut seen = HashSet::new();
    for name in index
        .sprites
        .iter()
        .filter_map(|sprite| sprite.called.as_ref())
    {
        if !is_word(name) {
            return Err(format!("the name `{name}` is not one lower-case word"));
        }
        if !seen.insert(name) {
            return Err(format!("two drawings are called `{name}`"));
        }
        if caption::words(&index.classes, &[]).contains(name) {
            return Err(format!("the name `{name}` is a word of captions already"));
        }
    }
    Ok(())
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|letter| letter.is_ascii_lowercase())
}

fn load(path: &Path) -> Result<Pixels> {
    let bytes = files::read(path)?;
    let image = image::load_from_memory_with_format(&bytes, ImageFormat::Png)
        .map_err(|error| Error::data(path, format!("a damaged PNG image: {error}")))?;
    let size = (image.width(), image.height());
    if size != (TILE as u32, TILE as u32) || !image.color().has_alpha() {
        return Err(Error::data(
            path,
            format!(
                "a sprite has {TILE} x {TILE} pixels and is transparent around them; this has {} x {}{}",
                size.0,
                size.1,
                if image.color().has_alpha() {
                    ""
                } else {
                    " and no alpha"
                }
            ),
        ));
    }
    let unit = |value: u8| f32::from(value) / 255.0;
    let colours: Vec<[f32; 4]> = image
        .into_rgba8()
        .pixels()
        .map(|pixel| {
            let [red, green, blue, alpha] = pixel.0.map(unit);
            [red * alpha, green * alpha, blue * alpha, alpha]
        })
        .collect();
    Ok(Pixels {
        shadow: shadow(&colours),
        colours,
    })
}

/// The alpha with room around it, blurred by three boxes, which is close to a Gaussian.
fn shadow(colours: &[[f32; 4]]) -> Vec<[f32; 1]> {
    let margin = MARGIN as usize;
    let mut plane = vec![0.0; SHADOW * SHADOW];
    for (index, pixel) in colours.iter().enumerate() {
        plane[(index / TILE + margin) * SHADOW + index % TILE + margin] = pixel[3];
    }
    for _ in 0..3 {
        for stride in [1, SHADOW] {
            plane = blur(&plane, stride);
        }
    }
    plane.into_iter().map(|value| [value]).collect()
}

/// The mean of the pixels up to [`BLUR`] away along one axis. The margin is empty, so that rows do not touch.
fn blur(plane: &[f32], stride: usize) -> Vec<f32> {
    let reach = BLUR * stride;
    let mean = |at: usize| {
        let start = at.saturating_sub(reach);
        let around = (start..=at + reach).step_by(stride);
        let sum: f32 = around.filter_map(|index| plane.get(index)).sum();
        sum / (2 * BLUR + 1) as f32
    };
    (0..plane.len()).map(mean).collect()
}
