//! A subject: some photos of one thing and the word for what it is.

use std::path::{Path, PathBuf};

use super::photo::{self, Photo};
use crate::error::{Error, Result};

/// The kind of a subject, by which prompts suit it: animals and people wear outfits, objects stand on surfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An animal or a person.
    Live,
    /// Everything else.
    Object,
}

/// Words for animals and people by which a folder without a stated kind is told from an object.
const LIVE: [&str; 31] = [
    "animal", "baby", "bird", "boy", "cat", "child", "cow", "dog", "duck", "elephant", "face",
    "fish", "fox", "frog", "girl", "goat", "hamster", "horse", "kitten", "lion", "man", "monkey",
    "owl", "parrot", "person", "pig", "puppy", "rabbit", "sheep", "tiger", "woman",
];
/// Words that make an object of an animal: a "dog plushie", a "stuffed animal".
const MADE: [&str; 8] = [
    "toy", "plushie", "stuffed", "figurine", "statue", "doll", "backpack", "cartoon",
];

impl Kind {
    /// The kind that the class word suggests; a user may say otherwise.
    pub fn of_class(class: &str) -> Self {
        let class = class.to_lowercase();
        let has = |list: &[&str]| {
            class
                .split(|letter: char| !letter.is_alphanumeric())
                .any(|word| list.contains(&word))
        };
        if has(&LIVE) && !has(&MADE) {
            Self::Live
        } else {
            Self::Object
        }
    }
}

/// A subject and where its photos are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its name: that of its folder.
    pub name: String,
    /// The word for what it is.
    pub class: String,
    /// Live or object.
    pub kind: Kind,
    /// Its photos in the order of their names, at least one.
    pub photos: Vec<PathBuf>,
}

impl Subject {
    /// All photos of one folder. Without a stated kind the class word decides.
    ///
    /// # Errors
    /// An empty class word, no such folder, no photo in it.
    pub fn open(folder: &Path, class: &str, kind: Option<Kind>) -> Result<Self> {
        let class = class.trim();
        if class.is_empty() {
            return Err(Error::config("the class word is empty")
                .with_hint("say what the subject is, such as `dog`"));
        }
        let name = folder
            .canonicalize()
            .ok()
            .and_then(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_else(|| class.to_owned());
        Ok(Self {
            name,
            class: class.to_owned(),
            kind: kind.unwrap_or_else(|| Kind::of_class(class)),
            photos: photo::list(folder)?,
        })
    }

    /// Decodes the photos, in parallel.
    pub fn load(&self) -> Result<Vec<Photo>> {
        photo::load_all(&self.photos)
    }
}
