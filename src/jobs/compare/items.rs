//! What is compared: images or answers, those to one prompt in a group. Within a group any two may be shown side by side.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::sources::{self, Place, Source};
use crate::data::captions::{self, Stated};
use crate::data::left_out::counted;
use crate::data::photo;
use crate::data::text::{Read, Text, answers};
use crate::error::{Error, Result};
use crate::models::weights::hex;

/// Letters of an item's hash: enough for billions of items.
const LETTERS: usize = 24;

/// One image or answer.
#[derive(Clone, Debug)]
pub struct Item {
    /// Hash of what it is and what it is of: judgements name items by it, so that none is taken for one of another image
    /// that has come to its place.
    pub id: String,
    /// Number of its source.
    pub source: usize,
    /// Its file, or that of its answers.
    pub path: PathBuf,
    /// What is shown.
    pub content: Content,
    /// Hash of what it is: of an image, of its pixels.
    pub hash: Vec<u8>,
}

impl Item {
    /// Checks that an image's file still has the image that it had when the session began.
    ///
    /// # Errors
    /// It has not.
    pub(super) fn check(&self) -> Result<()> {
        if !matches!(self.content, Content::Image { .. }) {
            return Ok(());
        }
        let same = look(&self.path).is_ok_and(|(_, hash)| hash == self.hash);
        if same {
            return Ok(());
        }
        let problem =
            "has changed since the session was opened: what was seen may be another picture";
        Err(Error::data(&self.path, problem).with_hint(
            "put it back, or end the session and start it again, which leaves out what has changed",
        ))
    }
}

/// What is shown of an item.
#[derive(Clone, Debug)]
pub enum Content {
    /// The item's file, upright, in pixels.
    Image {
        /// Width.
        width: u32,
        /// Height.
        height: u32,
    },
    /// An answer.
    Answer(Text),
}

/// Items that are of the same prompt and, of images, of the same size.
#[derive(Clone, Debug)]
pub struct Group {
    /// The prompt.
    pub prompt: Text,
    /// Variables of a chat's template beside it.
    pub variables: Map<String, Value>,
    /// Numbers of the items, one of each source where there are several.
    pub items: Vec<usize>,
}

/// Everything that is compared.
#[derive(Clone, Debug)]
pub struct Items {
    /// Names of the sources. With one, all items of a group are compared with each other; with several, sources are.
    pub sources: Vec<String>,
    /// Of each source the run whose tuned model it is; none of folders, of files and of untuned models.
    pub runs: Vec<Option<PathBuf>>,
    /// Every item.
    pub items: Vec<Item>,
    /// Groups of two items at least.
    pub groups: Vec<Group>,
    /// What a user should know of what is left out, a sentence each.
    pub notes: Vec<String>,
}

/// An item before it has a group.
struct Found {
    source: usize,
    prompt: Text,
    variables: Map<String, Value>,
    /// What it shares with its partners of other sources, beside the prompt.
    key: String,
    path: PathBuf,
    content: Content,
    hash: Vec<u8>,
}

/// By what items are compared with each other; the second image of one seed in a source stands beside the second of the others.
fn group_key(one: &Found, several: bool, times: &mut HashMap<(usize, String), usize>) -> String {
    let mut key = format!(
        "{}\0{}",
        one.prompt.to_value(),
        Value::Object(one.variables.clone())
    );
    if let Content::Image { width, height } = one.content {
        let _ = write!(key, "\0{width}x{height}");
    }
    if several {
        let _ = write!(key, "\0{}", one.key);
        let time = times.entry((one.source, key.clone())).or_default();
        let _ = write!(key, "\0{time}");
        *time += 1;
    }
    key
}

impl Items {
    /// Reads what these paths name: a folder of images, folders or runs that drew the same prompts from the same seeds, or
    /// files of answers.
    ///
    /// # Errors
    /// A path that is nothing of these, or nothing that can be compared.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let sources = sources::find(paths)?;
        let several = sources.len() > 1;
        let mut notes = Vec::new();
        let mut found = Vec::new();
        let mut seedless = false;
        for (number, source) in sources.iter().enumerate() {
            notes.extend(source.note.clone());
            let own = match &source.place {
                Place::Answers(path) => read_answers(number, path, &mut notes)?,
                Place::Images(listing) => {
                    let mut listing = listing.clone();
                    // Sessions that lie in a folder are none of its images.
                    listing.subfolders -= sources::sessions_in(&listing.folder);
                    notes.extend(listing.notes(None));
                    let images = read_images(number, source, &listing.images, &mut notes)?;
                    seedless |= images.iter().any(|(_, seed)| seed.is_none());
                    let keyed = images.into_iter().map(|(mut found, seed)| {
                        found.key = seed.unwrap_or_default();
                        found
                    });
                    keyed.collect()
                }
            };
            found.extend(own);
        }
        if several && seedless {
            notes.push(
                "some images do not say the seed that they were drawn from: images of equal prompts are paired by the names \
                 of their files"
                    .to_owned(),
            );
            for one in &mut found {
                let name = one.path.file_name().unwrap_or_default();
                one.key = name.to_string_lossy().into_owned();
            }
        }
        let items = Self::group(sources, found, notes);
        if items.groups.is_empty() {
            let hint = if several {
                "both need images of the same prompts, seeds and sizes, or answers to the same prompts"
            } else {
                "make several of each prompt, as `preftune generate --count 4` does"
            };
            let problem = format!("no two in it can be compared; {}", items.notes.join("; "));
            let path = paths.last().map_or(Path::new(""), PathBuf::as_path);
            return Err(Error::data(path, problem.trim_end_matches("; ")).with_hint(hint));
        }
        Ok(items)
    }

    fn group(sources: Vec<Source>, found: Vec<Found>, mut notes: Vec<String>) -> Self {
        let several = sources.len() > 1;
        let mut items: Vec<Item> = Vec::new();
        let mut groups: Vec<Group> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut copies = 0;
        let mut times: HashMap<(usize, String), usize> = HashMap::new();
        for one in found {
            let key = group_key(&one, several, &mut times);
            let mut hash = Sha256::new();
            hash.update(&key);
            hash.update(&one.hash);
            let id = hex(&hash.finalize())[..LETTERS].to_owned();
            let next = groups.len();
            let place = *places.entry(key).or_insert(next);
            if place == next {
                groups.push(Group {
                    prompt: one.prompt,
                    variables: one.variables,
                    items: Vec::new(),
                });
            }
            if !several
                && groups[place]
                    .items
                    .iter()
                    .any(|&other| items[other].id == id)
            {
                copies += 1;
                continue;
            }
            groups[place].items.push(items.len());
            items.push(Item {
                id,
                source: one.source,
                path: one.path,
                content: one.content,
                hash: one.hash,
            });
        }
        if copies > 0 {
            notes.push(format!(
                "{} left out: copies of others of their prompt",
                counted(copies, "item")
            ));
        }
        let ids = |group: &Group| {
            group
                .items
                .iter()
                .map(|&item| items[item].id.clone())
                .collect::<HashSet<_>>()
        };
        let (mut alone, mut equal) = (0, 0);
        groups.retain(|group| {
            let is_alone = group.items.len() < 2;
            let is_equal = !is_alone && ids(group).len() < group.items.len();
            alone += usize::from(is_alone);
            equal += usize::from(is_equal);
            !is_alone && !is_equal
        });
        if alone > 0 {
            let why = if several {
                "no other source has one of the same prompt, seed and size"
            } else {
                "nothing else is of the same prompt and size"
            };
            notes.push(format!("{} left out: {why}", counted(alone, "item")));
        }
        if equal > 0 {
            notes.push(format!(
                "{} left out: they are equal in two sources, so that figures are of those that differ",
                counted(equal, "match-up")
            ));
        }
        let (sources, runs) = sources
            .into_iter()
            .map(|source| (source.name, source.run))
            .unzip();
        Self {
            sources,
            runs,
            items,
            groups,
            notes,
        }
    }

    /// `true` if sources are compared, and not the items of a group.
    pub fn compares_sources(&self) -> bool {
        self.sources.len() > 1
    }

    /// `true` of images.
    pub fn are_images(&self) -> bool {
        let first = self.items.first();
        first.is_some_and(|item| matches!(item.content, Content::Image { .. }))
    }
}

/// Images with their seeds; those that cannot be read or whose prompt is not known are counted.
fn read_images(
    source: usize,
    Source { name, .. }: &Source,
    images: &[PathBuf],
    notes: &mut Vec<String>,
) -> Result<Vec<(Found, Option<String>)>> {
    let folder = images
        .first()
        .and_then(|path| path.parent())
        .unwrap_or(Path::new(""));
    let known = captions::known_prompts(folder, images)?;
    let seeds = captions::listed_seeds(folder)?;
    notes.extend(known.notes);
    let of = images.par_iter().zip(known.prompts).map(|(path, stated)| {
        let problem = |problem: &str| Err(Error::data(path, problem));
        let prompt = match stated {
            Stated::Prompt(prompt) => prompt,
            Stated::Unclear(why) => return problem(&why),
            Stated::Nothing => return problem("its prompt is not known"),
        };
        let ((width, height), hash) = look(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let seed = match seeds.get(name.as_ref()) {
            Some(seed) => Some(seed.clone()),
            None => captions::seed(path)?,
        };
        let found = Found {
            source,
            prompt: Text::Plain(prompt),
            variables: Map::new(),
            key: String::new(),
            path: path.clone(),
            content: Content::Image { width, height },
            hash,
        };
        Ok((found, seed))
    });
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for one in of.collect::<Vec<Result<_>>>() {
        match one {
            Ok(one) => found.push(one),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if let Some(first) = problems.first() {
        notes.push(format!(
            "{} of `{name}` left out, the first is {first}",
            counted(problems.len(), "image")
        ));
    }
    if found.is_empty() {
        let first = problems.first().map_or("", String::as_str);
        let problem = format!("no image in it can be compared; the first is {first}");
        return Err(Error::data(folder, problem).with_hint(
            "images say their prompt in `metadata.jsonl` (`file_name`, `prompt`), in a text file of their name, or in the PNG \
             text that preftune, A1111 and ComfyUI write",
        ));
    }
    Ok(found)
}

/// The size of an image and the hash of its pixels: what is in the file beside them makes no picture another one.
fn look(path: &Path) -> Result<((u32, u32), Vec<u8>)> {
    let image = photo::load(path)?;
    Ok((image.dimensions(), Sha256::digest(image.as_raw()).to_vec()))
}

fn read_answers(source: usize, path: &Path, notes: &mut Vec<String>) -> Result<Vec<Found>> {
    let Read { rows, notes: own } = answers::read(path)?;
    notes.extend(own.lines());
    let mut found = Vec::new();
    for row in rows {
        for answer in row.answers {
            found.push(Found {
                source,
                prompt: row.prompt.clone(),
                variables: row.variables.clone(),
                key: String::new(),
                path: path.to_owned(),
                hash: answer.text.to_value().to_string().into_bytes(),
                content: Content::Answer(answer.text),
            });
        }
    }
    Ok(found)
}
