//! Preferences between images and ratings of them: rows that name files, also in the columns of Pick-a-Pic.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::json_lines::text_of;
use super::preferences::{Pair, Rating};
use super::text::{Row, held_out, read_rows};
use crate::error::{Error, Result};

/// Endings that an image named by its id may have.
const ENDINGS: [&str; 4] = ["jpg", "png", "jpeg", "webp"];

/// The different images and prompts of some rows, in the order of their first use; rows of pairs point to them.
#[derive(Debug, Default)]
pub struct Images {
    folder: PathBuf,
    /// Files, each once.
    pub files: Vec<PathBuf>,
    /// Prompts, each once.
    pub prompts: Vec<String>,
    file_rows: HashMap<PathBuf, usize>,
    prompt_rows: HashMap<String, usize>,
}

impl Images {
    /// Of rows that name files below `folder`.
    pub fn below(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            ..Self::default()
        }
    }

    /// Reads pairs: `chosen` and `rejected` are files, with `prompt`, `margin`, `weight`, `user`, `split` where they are
    /// there. Or Pick-a-Pic's `image_0_uid`, `image_1_uid` (files of that name), `label_0`, `caption`, `user_id`; its ties
    /// are left out.
    ///
    /// # Errors
    /// With the line or row: something is missing or not of its kind, or there is no such file.
    pub fn read_pairs(&mut self, path: &Path) -> Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        for row in read_rows(path)? {
            let pair = self.pair(&row.columns);
            pairs.extend(pair.map_err(|problem| row.error(path, &problem))?);
        }
        if pairs.is_empty() {
            return Err(Error::data(path, "there are no pairs in it"));
        }
        Ok(pairs)
    }

    /// Reads ratings: `image` is a file, and there is a number for each of `attributes`.
    ///
    /// # Errors
    /// As [`Self::read_pairs`].
    pub fn read_ratings(&mut self, path: &Path, attributes: &[String]) -> Result<Vec<Rating>> {
        let mut ratings = Vec::new();
        for row in read_rows(path)? {
            let rating = self.rating(&row, attributes);
            ratings.push(rating.map_err(|problem| row.error(path, &problem))?);
        }
        if ratings.is_empty() {
            return Err(Error::data(path, "there are no rows in it"));
        }
        Ok(ratings)
    }

    fn pair(&mut self, columns: &Map<String, Value>) -> Result<Option<Pair>, String> {
        let pick_a_pic = columns.contains_key("image_0_uid");
        let (chosen, rejected) = if pick_a_pic {
            let first = number(columns, "label_0")?.ok_or("`label_0` is missing")?;
            if (first - 0.5).abs() < 0.5 - f64::EPSILON {
                return Ok(None);
            }
            if first > 0.5 {
                ("image_0_uid", "image_1_uid")
            } else {
                ("image_1_uid", "image_0_uid")
            }
        } else {
            ("chosen", "rejected")
        };
        let (chosen, rejected) = (self.file(columns, chosen)?, self.file(columns, rejected)?);
        if chosen == rejected {
            return Err("the two images are one file".to_owned());
        }
        let prompt = ["prompt", "caption"]
            .iter()
            .find_map(|name| columns.get(*name)?.as_str());
        let amount = |name: &str| match number(columns, name)? {
            Some(value) if value < 0.0 => Err(format!("`{name}` is {value}, below 0")),
            value => Ok(value.unwrap_or(1.0)),
        };
        let user = ["user", "user_id"]
            .into_iter()
            .find(|name| columns.contains_key(*name));
        Ok(Some(Pair {
            chosen,
            rejected,
            prompt: prompt.map(|prompt| self.prompt(prompt)),
            strength: amount("margin")?,
            weight: amount("weight")?,
            user: user.map(|name| text_of(columns, name)).transpose()?,
            held_out: held_out(columns)?,
        }))
    }

    fn rating(&mut self, row: &Row, attributes: &[String]) -> Result<Rating, String> {
        let columns = &row.columns;
        let values = attributes.iter().map(|name| {
            let value = number(columns, name)?;
            value.ok_or_else(|| format!("`{name}` is missing"))
        });
        Ok(Rating {
            values: values.collect::<Result<_, _>>()?,
            row: self.file(columns, "image")?,
            held_out: held_out(columns)?,
        })
    }

    fn file(&mut self, columns: &Map<String, Value>, key: &str) -> Result<usize, String> {
        let name = text_of(columns, key)?;
        let whole = self.folder.join(&name);
        let path = if whole.is_file() {
            Some(whole)
        } else {
            let with = ENDINGS.map(|ending| self.folder.join(format!("{name}.{ending}")));
            with.into_iter().find(|path| path.is_file())
        };
        let path =
            path.ok_or_else(|| format!("no image `{name}` in `{}`", self.folder.display()))?;
        let next = self.files.len();
        let row = *self.file_rows.entry(path.clone()).or_insert(next);
        if row == next {
            self.files.push(path);
        }
        Ok(row)
    }

    fn prompt(&mut self, prompt: &str) -> usize {
        let next = self.prompts.len();
        let row = *self.prompt_rows.entry(prompt.to_owned()).or_insert(next);
        if row == next {
            self.prompts.push(prompt.to_owned());
        }
        row
    }
}

fn number(columns: &Map<String, Value>, name: &str) -> Result<Option<f64>, String> {
    match columns.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number = value.as_f64().filter(|number| number.is_finite());
            let number = number.ok_or_else(|| format!("`{name}` is {value}, not a number"))?;
            Ok(Some(number))
        }
    }
}
