//! How rows of pairs name their images.

use std::path::{Path, PathBuf};

use crate::files::{absolute, below};

/// From the rows' own folder on where all images lie below it, else by whole paths.
pub struct Placed {
    folder: PathBuf,
    above: Option<PathBuf>,
}

impl Placed {
    /// Of rows in the file `rows` that name these images.
    pub fn new<'a>(rows: &Path, images: impl Iterator<Item = &'a Path> + Clone) -> Self {
        let folder = rows.parent().unwrap_or(Path::new("")).to_owned();
        if images
            .clone()
            .all(|file| below(file, &folder).is_relative())
        {
            return Self {
                folder,
                above: None,
            };
        }
        let mut above = absolute(&folder);
        for file in images {
            let file = absolute(file);
            while !file.starts_with(&above) && above.pop() {}
        }
        Self {
            folder,
            above: Some(above),
        }
    }

    /// The folder that holds all images, where they do not lie below the rows' own: what reads the rows must be told.
    pub fn above(&self) -> Option<&Path> {
        self.above.as_deref()
    }

    /// The name of an image in the rows.
    pub fn name(&self, file: &Path) -> PathBuf {
        match self.above {
            Some(_) => absolute(file),
            None => below(file, &self.folder),
        }
    }
}
