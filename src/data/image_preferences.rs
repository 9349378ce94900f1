//! Preferences between images and ratings of them: rows that name files or hold images, or folders of both.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Map;

use super::columns::{Columns, Usage};
use super::left_out::{Place, RowHint};
use super::pair_columns::{Compared, Preference, Without, file_name, preference, prompt};
use super::pair_folder::{Layout, layout};
use super::pictures::{Cell, Source, cells};
use super::preferences::{Pair, Rating};
use super::text::{
    Notes, Numbers, Row, columns, held_out, is_parquet, number, parquet_records, read_rows,
};
use crate::error::{Error, Result};
use crate::files::{inside, is_link_out};

/// Endings that an image named by its id may have.
const ENDINGS: [&str; 4] = ["jpg", "png", "jpeg", "webp"];

/// A preference between two images, rows of [`Images`], with what an objective may ask of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImagePair {
    /// The preference.
    pub pair: Pair,
    /// Where it was read.
    pub place: Place,
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
    /// The folder of all images, where the user named one.
    folder: Option<PathBuf>,
    /// The folder that the rows are in: files that they name lie below one of the two.
    own: PathBuf,
    /// Images, each once.
    pub sources: Vec<Source>,
    /// Prompts, each once.
    pub prompts: Vec<String>,
    /// How many rows were read, and what of them is left out.
    pub notes: Notes,
    /// Notes on what else is in folders of images side by side.
    sides: Vec<String>,
    usage: Usage,
    file_rows: HashMap<PathBuf, usize>,
    /// Images in tables by the hash of their content.
    cell_rows: HashMap<[u8; 32], usize>,
    prompt_rows: HashMap<String, usize>,
}

/// The images of a table's row by their columns.
type Pictures = HashMap<String, Cell>;

impl Images {
    /// Of rows that name files below `folder`, or below the folder that they are in themselves.
    pub fn below(folder: Option<&Path>) -> Self {
        Self {
            folder: folder.map(Path::to_owned),
            ..Self::default()
        }
    }

    /// Begins with another file or folder of rows.
    fn begin(&mut self, rows: &Path) {
        rows.clone_into(&mut self.notes.path);
        let own = if rows.is_dir() {
            rows
        } else {
            rows.parent().unwrap_or(Path::new(""))
        };
        own.clone_into(&mut self.own);
    }

    /// Reads pairs: `chosen` and `rejected` are files or, in Parquet, images, with `prompt`, `margin`, `weight`, `user`,
    /// `split` where they are there; `label` and `probability` below one half turn a pair round. Or the columns of
    /// Pick-a-Pic or of HPD; see `pair_columns.rs`. Or a folder: with `pairs.jsonl`, with Parquet files, or with images of
    /// the same names in `chosen` and `rejected`.
    ///
    /// Rows with faults and rows that prefer neither image are in [`Self::notes`].
    ///
    /// # Errors
    /// A file cannot be read as rows, or nothing in it is a pair.
    pub fn read_pairs(&mut self, path: &Path) -> Result<Vec<ImagePair>> {
        self.begin(path);
        let mut pairs = Vec::new();
        if path.is_dir() {
            match layout(path)? {
                Layout::Tables(tables) => {
                    for table in tables {
                        self.read_table(&table, &mut pairs)?;
                    }
                }
                Layout::SideBySide(sides) => {
                    self.notes.rows += sides.pairs.len() + sides.alone.len();
                    self.sides = sides.notes;
                    for (place, problem) in sides.alone {
                        self.notes.left_out.fault(&problem, place);
                    }
                    for found in sides.pairs {
                        let mut columns = Map::new();
                        let prompt = found.prompt.map(|text| ("prompt".to_owned(), text.into()));
                        columns.extend(prompt);
                        let ends = (self.source(&found.chosen), self.source(&found.rejected));
                        let place = Place::of_file(&found.chosen);
                        let pair = self.pair_of(&columns.into(), ends, place.clone(), &AS_WRITTEN);
                        self.take(pair.map_err(Without::from), place, &mut pairs);
                    }
                }
            }
        } else {
            self.read_table(path, &mut pairs)?;
        }
        self.notes.unused = self.usage.unused();
        if pairs.is_empty() {
            // Where all rows have faults, these are what is to be said.
            self.check(true)?;
            return Err(Error::data(path, "no row in it prefers one image to another")
                .with_hint("rows have a better and a worse image: `chosen` and `rejected`, or `label_0` of Pick-a-Pic"));
        }
        Ok(pairs)
    }

    /// Refuses what was read where too many rows have faults or, where they are not to be dropped, any.
    ///
    /// # Errors
    /// With all reasons and the first row of each.
    pub fn check(&self, dropped: bool) -> Result<()> {
        let Notes {
            path,
            rows,
            left_out,
            ..
        } = &self.notes;
        let checked = left_out.check(path, *rows, dropped, RowHint::Rows);
        checked.map_err(|error| {
            error.with_hint("mend or remove these rows; pairs without a prompt of their own take `pairs.prompt`")
        })
    }

    /// A sentence on everything that a user should know of what was read.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.notes.lines();
        lines.extend_from_slice(&self.sides);
        lines
    }

    fn read_table(&mut self, path: &Path, pairs: &mut Vec<ImagePair>) -> Result<()> {
        let named = path
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"));
        if named || is_parquet(path) {
            return self.read_parquet(path, pairs);
        }
        for row in read_rows(path)? {
            self.notes.rows += 1;
            self.add_row(&row.columns, &Pictures::new(), &row.place, pairs);
        }
        Ok(())
    }

    /// Rows of a table that may hold images.
    fn read_parquet(&mut self, path: &Path, pairs: &mut Vec<ImagePair>) -> Result<()> {
        for (number, record) in parquet_records(path)?.enumerate() {
            let record = record?;
            self.notes.rows += 1;
            let place = Place {
                file: path.to_owned(),
                number: number + 1,
                is_line: false,
            };
            let pictures = cells(&record);
            let names: Vec<&str> = pictures.keys().map(String::as_str).collect();
            let columns = columns(path, &record, &names)?;
            self.add_row(&columns, &pictures, &place, pairs);
        }
        Ok(())
    }

    /// Takes the pairs of a row, or counts why there are none.
    fn add_row(
        &mut self,
        columns: &Columns,
        pictures: &Pictures,
        place: &Place,
        pairs: &mut Vec<ImagePair>,
    ) {
        let has =
            |name: &str| pictures.contains_key(name) || columns.names().any(|own| own == name);
        match preference(columns, has) {
            Err(without) => {
                let without = columns.fault().map_or(without, Without::Fault);
                self.take(Err(without), place.clone(), pairs);
            }
            Ok(preference) => {
                for ends in self.ends(columns, pictures, &preference, place) {
                    if ends.as_ref().is_ok_and(|(one, other)| one == other) && !pictures.is_empty()
                    {
                        let same = Without::Undecided("its two images are the same");
                        self.take(Err(same), place.clone(), pairs);
                        continue;
                    }
                    let pair = ends
                        .and_then(|ends| self.pair_of(columns, ends, place.clone(), &preference));
                    let pair = columns.fault().map_or(pair, Err);
                    self.take(pair.map_err(Without::from), place.clone(), pairs);
                }
            }
        }
        self.usage.add(columns);
    }

    fn take(&mut self, pair: Result<ImagePair, Without>, place: Place, pairs: &mut Vec<ImagePair>) {
        match pair {
            Ok(pair) => pairs.push(pair),
            Err(Without::Fault(problem)) => self.notes.left_out.fault(&problem, place),
            Err(Without::Undecided(reason)) => self.notes.left_out.says_nothing(reason, place),
        }
    }

    /// The rows of the images that a row compares, of each pair the better one first.
    fn ends(
        &mut self,
        columns: &Columns,
        pictures: &Pictures,
        preference: &Preference,
        place: &Place,
    ) -> Vec<Result<(usize, usize), String>> {
        match &preference.compared {
            Compared::Columns([chosen, rejected]) => {
                let mut end = |name: &str| self.end(columns, pictures, name, place);
                vec![end(chosen).and_then(|chosen| Ok((chosen, end(rejected)?)))]
            }
            Compared::Files(files) => {
                let pair = |[chosen, rejected]: &[String; 2]| {
                    Ok((self.file(chosen)?, self.file(rejected)?))
                };
                files.iter().map(pair).collect()
            }
        }
    }

    /// The row of the image in a column: what the table holds, or the file that it names.
    fn end(
        &mut self,
        columns: &Columns,
        pictures: &Pictures,
        name: &str,
        place: &Place,
    ) -> Result<usize, String> {
        match pictures.get(name) {
            Some(Cell::Content(sha256)) => Ok(self.cell(place, name, *sha256)),
            Some(Cell::File(file)) => self.file(file),
            Some(Cell::Empty) => Err(format!("no image under `{name}`")),
            None => {
                let value = columns.get(name).unwrap_or(&serde_json::Value::Null);
                self.file(&file_name(value, name)?)
            }
        }
    }

    /// Reads ratings: `image` is a file, and there is a number for each of `attributes`. Rows with faults are in
    /// [`Self::notes`].
    ///
    /// # Errors
    /// A file cannot be read as rows, or nothing in it is a rating.
    pub fn read_ratings(
        &mut self,
        path: &Path,
        attributes: &[String],
    ) -> Result<Vec<(Rating, Place)>> {
        self.begin(path);
        let mut ratings = Vec::new();
        for row in read_rows(path)? {
            self.notes.rows += 1;
            let rating = self.rating(&row, attributes);
            match row.columns.fault().map_or(rating, Err) {
                Ok(rating) => ratings.push((rating, row.place)),
                Err(problem) => self.notes.left_out.fault(&problem, row.place),
            }
            self.usage.add(&row.columns);
        }
        self.notes.unused = self.usage.unused();
        if ratings.is_empty() {
            self.check(true)?;
            return Err(Error::data(path, "there are no rows in it"));
        }
        Ok(ratings)
    }

    /// The pair of a row whose better image is the first of two.
    fn pair_of(
        &mut self,
        columns: &Columns,
        (chosen, rejected): (usize, usize),
        place: Place,
        preference: &Preference,
    ) -> Result<ImagePair, String> {
        let prompt = prompt(columns)?;
        let numbers = Numbers::read(columns, 2)?;
        if chosen == rejected {
            return Err("the two images are one".to_owned());
        }
        if preference.turned && numbers.margin.is_some() {
            return Err("`margin` and a `label` against `chosen` contradict each other".to_owned());
        }
        let turn = |both: [f64; 2]| {
            let [one, other] = both;
            if preference.turned {
                [other, one]
            } else {
                both
            }
        };
        let user = ["user", "user_id"]
            .into_iter()
            .find(|name| columns.has(name));
        let pair = Pair {
            chosen,
            rejected,
            prompt: prompt.map(|prompt| self.prompt(prompt)),
            strength: numbers.margin.unwrap_or(1.0),
            weight: numbers.weight,
            user: user.map(|name| columns.text_of(name)).transpose()?,
            held_out: held_out(columns)?,
        };
        Ok(ImagePair {
            pair,
            place,
            wins: numbers.wins.map(turn).or(preference.wins),
            scores: numbers.scores.map(turn),
            margin: numbers.margin.unwrap_or(0.0),
        })
    }

    fn rating(&mut self, row: &Row, attributes: &[String]) -> Result<Rating, String> {
        let columns = &row.columns;
        let values = attributes.iter().map(|name| {
            let value = number(columns, name)?;
            value.ok_or_else(|| format!("`{name}` is missing"))
        });
        let image = columns.get("image").ok_or("`image` is missing")?;
        Ok(Rating {
            values: values.collect::<Result<_, _>>()?,
            row: self.file(&file_name(image, "image")?)?,
            held_out: held_out(columns)?,
        })
    }

    fn file(&mut self, name: &str) -> Result<usize, String> {
        let folders: Vec<&Path> = self
            .folder
            .as_deref()
            .into_iter()
            .chain([&*self.own])
            .collect();
        let places = folders.iter().map(|folder| match folder.to_str() {
            Some("") => "`.`".to_owned(),
            _ => format!("`{}`", folder.display()),
        });
        let places = places.collect::<Vec<_>>().join(" or ");
        let below = folders.iter().filter_map(|folder| inside(folder, name));
        let mut below = below.peekable();
        if below.peek().is_none() {
            return Err(format!(
                "\"{name}\" leads out of {places}; `pairs.images`, or `data.images` of rewards, can name a folder that holds \
                 all images"
            ));
        }
        let found = below.find_map(|whole| {
            if whole.is_file() {
                return Some(whole);
            }
            let with = |ending: &str| PathBuf::from(format!("{}.{ending}", whole.display()));
            ENDINGS.map(with).into_iter().find(|path| path.is_file())
        });
        let path = found.ok_or_else(|| format!("no image \"{name}\" in {places}"))?;
        if folders.iter().all(|folder| is_link_out(folder, &path)) {
            return Err(format!(
                "\"{name}\" is a link that leads out of {places}; `pairs.images`, or `data.images` of rewards, can name the \
                 folder that it leads to"
            ));
        }
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

    fn cell(&mut self, place: &Place, column: &str, sha256: [u8; 32]) -> usize {
        let next = self.sources.len();
        let known = *self.cell_rows.entry(sha256).or_insert(next);
        if known == next {
            self.sources.push(Source::Cell {
                table: place.file.clone(),
                row: place.number - 1,
                column: column.to_owned(),
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

/// Of images whose folders say which is better.
const AS_WRITTEN: Preference = Preference {
    compared: Compared::Columns(["chosen", "rejected"]),
    turned: false,
    wins: None,
};
