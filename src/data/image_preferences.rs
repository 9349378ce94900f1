//! Preferences between images and ratings of them: rows that name files, also in the columns of Pick-a-Pic, or folders.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::json_lines::text_of;
use super::pair_folder::{Found, Layout, layout};
use super::pictures::{self, Source};
use super::preferences::{Pair, Rating};
use super::text::{Numbers, Row, columns, has_column, held_out, parquet_records, read_rows};
use crate::error::{Error, Result};

/// Columns of Pick-a-Pic's tables that hold its images.
const CELLS: [&str; 2] = ["jpg_0", "jpg_1"];
/// Endings that an image named by its id may have.
const ENDINGS: [&str; 4] = ["jpg", "png", "jpeg", "webp"];

/// A preference between two images, rows of [`Images`], with what an objective may ask of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImagePair {
    /// The preference.
    pub pair: Pair,
    /// Where it was read, for messages.
    pub place: String,
    /// Probabilities that the preferred and the rejected image win, where they are given.
    pub wins: Option<[f64; 2]>,
    /// Scores of both, where they are given.
    pub scores: Option<[f64; 2]>,
    /// By how much the preferred image should win; 0 where the data do not say.
    pub margin: f64,
}

/// The different images and prompts of some rows, in the order of their first use; rows of pairs point to them.
#[derive(Debug, Default)]
pub struct Images {
    folder: PathBuf,
    /// Images, each once.
    pub sources: Vec<Source>,
    /// Prompts, each once.
    pub prompts: Vec<String>,
    file_rows: HashMap<PathBuf, usize>,
    /// Images in tables by the hash of their content.
    cell_rows: HashMap<[u8; 32], usize>,
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
    /// are left out. Of a Parquet file with Pick-a-Pic's `jpg_0` and `jpg_1` the images are in these columns. Or a folder:
    /// with `pairs.jsonl`, with Parquet files, or with images of the same names in `chosen` and `rejected`.
    ///
    /// # Errors
    /// With the line or row: something is missing or not of its kind, or there is no such file.
    pub fn read_pairs(&mut self, path: &Path) -> Result<Vec<ImagePair>> {
        if !path.is_dir() {
            return self.read_table(path);
        }
        match layout(path)? {
            Layout::Tables(tables) => {
                let tables = tables.iter().map(|table| self.read_table(table));
                Ok(tables.collect::<Result<Vec<_>>>()?.concat())
            }
            Layout::SideBySide(found) => {
                let pair = |found: &Found| {
                    let mut columns = Map::new();
                    columns.extend(
                        found
                            .prompt
                            .clone()
                            .map(|text| ("prompt".to_owned(), text.into())),
                    );
                    let ends = (self.source(&found.chosen), self.source(&found.rejected));
                    let place = format!("`{}`", found.chosen.display());
                    let pair = self.pair_of(&columns, ends, place);
                    pair.map_err(|problem| Error::data(&found.chosen, problem))
                };
                found.iter().map(pair).collect()
            }
        }
    }

    fn read_table(&mut self, path: &Path) -> Result<Vec<ImagePair>> {
        let is_table = path
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"));
        if is_table && has_column(path, CELLS[0])? {
            return self.read_cells(path);
        }
        let mut pairs = Vec::new();
        for row in read_rows(path)? {
            let pair = self.pair(&row.columns, row.place(path));
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

    /// Pairs of a table that holds the images.
    fn read_cells(&mut self, path: &Path) -> Result<Vec<ImagePair>> {
        let mut pairs = Vec::new();
        for (place, record) in parquet_records(path)?.enumerate() {
            let record = record?;
            let fail = |problem: String| Error::data(path, format!("row {}: {problem}", place + 1));
            let columns = columns(path, place, &record, &CELLS)?;
            let Some(chosen) = first_is_chosen(&columns).map_err(fail)? else {
                continue;
            };
            let [first, second] = CELLS;
            let (chosen, rejected) = if chosen {
                (first, second)
            } else {
                (second, first)
            };
            let mut row = |column| {
                let content = pictures::content(&record, column)?;
                Ok(self.cell(path, place, column, content))
            };
            let ends = (row(chosen).map_err(fail)?, row(rejected).map_err(fail)?);
            let at = format!("`{}`, row {}", path.display(), place + 1);
            pairs.push(self.pair_of(&columns, ends, at).map_err(fail)?);
        }
        if pairs.is_empty() {
            return Err(Error::data(path, "there are no pairs in it"));
        }
        Ok(pairs)
    }

    fn pair(
        &mut self,
        columns: &Map<String, Value>,
        place: String,
    ) -> Result<Option<ImagePair>, String> {
        let (chosen, rejected) = if columns.contains_key("image_0_uid") {
            match first_is_chosen(columns)? {
                None => return Ok(None),
                Some(true) => ("image_0_uid", "image_1_uid"),
                Some(false) => ("image_1_uid", "image_0_uid"),
            }
        } else {
            ("chosen", "rejected")
        };
        let ends = (self.file(columns, chosen)?, self.file(columns, rejected)?);
        self.pair_of(columns, ends, place).map(Some)
    }

    /// The pair of a row whose better image is the first of two.
    fn pair_of(
        &mut self,
        columns: &Map<String, Value>,
        (chosen, rejected): (usize, usize),
        place: String,
    ) -> Result<ImagePair, String> {
        if chosen == rejected {
            return Err("the two images are one".to_owned());
        }
        let prompt = ["prompt", "caption"]
            .iter()
            .find_map(|name| columns.get(*name)?.as_str());
        let numbers = Numbers::of(columns, 2)?;
        if let Some(margin) = numbers.margin.filter(|margin| *margin < 0.0) {
            return Err(format!("`margin` is {margin}, below 0"));
        }
        let user = ["user", "user_id"]
            .into_iter()
            .find(|name| columns.contains_key(*name));
        let pair = Pair {
            chosen,
            rejected,
            prompt: prompt.map(|prompt| self.prompt(prompt)),
            strength: numbers.margin.unwrap_or(1.0),
            weight: numbers.weight,
            user: user.map(|name| text_of(columns, name)).transpose()?,
            held_out: held_out(columns)?,
        };
        Ok(ImagePair {
            pair,
            place,
            wins: numbers.wins,
            scores: numbers.scores,
            margin: numbers.margin.unwrap_or(0.0),
        })
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
        Ok(self.source(&path))
    }

    fn source(&mut self, path: &Path) -> usize {
        let next = self.sources.len();
        let row = *self.file_rows.entry(path.to_owned()).or_insert(next);
        if row == next {
            self.sources.push(Source::File(path.to_owned()));
        }
        row
    }

    fn cell(&mut self, table: &Path, row: usize, column: &'static str, content: &[u8]) -> usize {
        let sha256: [u8; 32] = Sha256::digest(content).into();
        let next = self.sources.len();
        let known = *self.cell_rows.entry(sha256).or_insert(next);
        if known == next {
            self.sources.push(Source::Cell {
                table: table.to_owned(),
                row,
                column,
                sha256,
            });
        }
        known
    }

    /// The row of a prompt, a new one where it is not known.
    pub fn prompt(&mut self, prompt: &str) -> usize {
        let next = self.prompts.len();
        let row = *self.prompt_rows.entry(prompt.to_owned()).or_insert(next);
        if row == next {
            self.prompts.push(prompt.to_owned());
        }
        row
    }
}

/// Whether Pick-a-Pic's first image is the better one; `None` of a tie.
fn first_is_chosen(columns: &Map<String, Value>) -> Result<Option<bool>, String> {
    let first = number(columns, "label_0")?.ok_or("`label_0` is missing")?;
    let tie = (first - 0.5).abs() < 0.5 - f64::EPSILON;
    Ok((!tie).then_some(first > 0.5))
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
