//! Which prompt an image was made from: `metadata.jsonl` beside it (`file_name`, `prompt` or `text`), a text file of its
//! name, or what the program that wrote the PNG file says in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::json_lines::JsonLines;
use super::left_out::counted;
use super::listing::some;
use super::{node_graph, png};
use crate::error::{Error, Result};
use crate::files::read_text;

/// Endings of the text beside an image.
const BESIDE: [&str; 2] = ["txt", "caption"];

/// The prompt that an image was made from, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stated {
    /// The prompt.
    Prompt(String),
    /// There is something, but not one sure prompt in it: why.
    Unclear(String),
    /// Nothing.
    Nothing,
}

impl Stated {
    /// `true` if the prompt is known.
    pub fn is_prompt(&self) -> bool {
        matches!(self, Self::Prompt(_))
    }
}

/// The prompts that images were made from, with notes for the user.
#[derive(Debug)]
pub struct Captions<T> {
    /// In the order of the images.
    pub prompts: Vec<T>,
    /// One sentence each: rows for images that are not there, images that say two things.
    pub notes: Vec<String>,
}

/// The prompt of each image: what the folder's `metadata.jsonl` gives it, what is written in a file beside it, or what it
/// says itself.
///
/// # Errors
/// An image without a prompt, or a malformed line of `metadata.jsonl`.
pub fn own_prompts(folder: &Path, images: &[PathBuf]) -> Result<Captions<String>> {
    let Captions { prompts, notes } = known_prompts(folder, images)?;
    let prompts = prompts.into_iter().zip(images);
    let known = |(stated, path): (Stated, &PathBuf)| {
        let unknown = "the prompt of this image is not known";
        let problem = match stated {
            Stated::Prompt(prompt) => return Ok(prompt),
            Stated::Unclear(why) => format!("{unknown}: {why}"),
            Stated::Nothing => unknown.to_owned(),
        };
        Err(Error::data(path, problem).with_hint(
            "give `--prompt TEXT`, `--prompts FILE`, or a `metadata.jsonl` beside the images",
        ))
    };
    let prompts = prompts.map(known).collect::<Result<_>>()?;
    Ok(Captions { prompts, notes })
}

/// As [`own_prompts`], of images that need not have a prompt; that of a broken file is unclear.
///
/// # Errors
/// A malformed line of `metadata.jsonl`, a file that the system does not read.
pub fn known_prompts(folder: &Path, images: &[PathBuf]) -> Result<Captions<Stated>> {
    let file = folder.join("metadata.jsonl");
    let mut listed = metadata(&file)?;
    let (mut prompts, mut doubled) = (Vec::new(), Vec::new());
    for path in images {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let given = match listed.remove(name.as_ref()) {
            Some(prompt) => Some(prompt),
            None => beside(path)?,
        };
        let said = match given {
            Some(prompt) => Within::single(Stated::Prompt(prompt)),
            None => match within(path) {
                Ok(said) => said,
                Err(Error::Data { message, .. }) => Within::single(Stated::Unclear(message)),
                Err(error) => return Err(error),
            },
        };
        if said.is_doubled {
            doubled.push(path.clone());
        }
        prompts.push(said.stated);
    }
    let mut notes = Vec::new();
    if !listed.is_empty() {
        let mut names: Vec<PathBuf> = listed.into_keys().map(PathBuf::from).collect();
        names.sort();
        notes.push(format!(
            "{} of `{}` are for images that are not in the folder, and are not used: {}",
            counted(names.len(), "row"),
            file.display(),
            some(&names)
        ));
    }
    if !doubled.is_empty() {
        notes.push(format!(
            "{} of `{}` say two prompts, in their chunks `parameters` and `prompt`; that of `parameters` is taken: {}",
            counted(doubled.len(), "image"),
            folder.display(),
            some(&doubled)
        ));
    }
    Ok(Captions { prompts, notes })
}

/// The text file that stands beside an image.
pub(super) fn file_beside(image: &Path) -> Option<PathBuf> {
    let paths = BESIDE.map(|ending| image.with_extension(ending));
    paths.into_iter().find(|path| path.is_file())
}

/// The text that is written beside an image, without a byte order mark and blanks around it; `None` of an empty file.
///
/// # Errors
/// The file cannot be read.
pub(super) fn beside(image: &Path) -> Result<Option<String>> {
    let Some(path) = file_beside(image) else {
        return Ok(None);
    };
    let text = read_text(&path)?;
    let text = text.trim_start_matches('\u{feff}').trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// The prompt that a file surely says it was made from.
///
/// # Errors
/// The file or a chunk of it cannot be read.
pub(super) fn within_known(image: &Path) -> Result<Option<String>> {
    Ok(match within(image)?.stated {
        Stated::Prompt(prompt) => Some(prompt),
        Stated::Unclear(_) | Stated::Nothing => None,
    })
}

/// The seed that a PNG file says it was drawn from, as it is written there: ours, or that of Stable Diffusion web UI; `None` of
/// other files.
///
/// # Errors
/// The file or a chunk of it cannot be read.
pub fn seed(path: &Path) -> Result<Option<String>> {
    if !png::is_png(path) {
        return Ok(None);
    }
    let chunks = png::texts(path)?;
    let chunk = |keyword: &str| chunks.iter().find(|(known, _)| known == keyword);
    if let Some((_, seed)) = chunk("seed") {
        return Ok(Some(seed.clone()));
    }
    let settings =
        chunk("parameters").and_then(|(_, text)| text.lines().rfind(|line| is_settings(line)));
    let seed = settings.and_then(|line| {
        line.split(", ")
            .find_map(|part| part.strip_prefix("Seed: "))
    });
    Ok(seed.map(str::to_owned))
}

/// The prompt that a PNG file says it was made from, told by who wrote it.
///
/// `parameters` is the text of Stable Diffusion web UI: the prompt up to `Negative prompt:` or `Steps:`; weights in brackets
/// stay as they are, tags of adapters are left out. `prompt` is our own, or the node graph of ComfyUI.
///
/// # Errors
/// The file or a chunk of it cannot be read.
fn within(path: &Path) -> Result<Within> {
    if !png::is_png(path) {
        return Ok(Within::single(Stated::Nothing));
    }
    let chunks = png::texts(path)?;
    let chunk = |keyword: &str| {
        let found = chunks.iter().find(|(known, _)| known == keyword);
        found.map(|(_, text)| text.as_str())
    };
    let ours = chunk(png::SOFTWARE).is_some_and(|software| software.starts_with("preftune"));
    if let Some(prompt) = chunk("prompt").filter(|_| ours) {
        return Ok(Within::single(Stated::Prompt(prompt.to_owned())));
    }
    let parameters = chunk("parameters");
    let graph = chunk("prompt").map(of_prompt);
    if let Some(prompt) = parameters.and_then(of_parameters) {
        let is_other = |other: &Stated| match other {
            Stated::Prompt(other) => other.trim() != prompt,
            Stated::Unclear(_) | Stated::Nothing => false,
        };
        return Ok(Within {
            is_doubled: graph.as_ref().is_some_and(is_other),
            stated: Stated::Prompt(prompt),
        });
    }
    Ok(Within::single(match (graph, parameters) {
        (Some(stated), _) => stated,
        (None, Some(_)) => {
            let unknown =
                "its chunk `parameters` begins with no prompt, or has a form that is not known";
            Stated::Unclear(unknown.to_owned())
        }
        (None, None) => Stated::Nothing,
    }))
}

/// What a PNG file says in itself.
struct Within {
    stated: Stated,
    /// `true` if it says another prompt too, which is not taken.
    is_doubled: bool,
}

impl Within {
    fn single(stated: Stated) -> Self {
        Self {
            stated,
            is_doubled: false,
        }
    }
}

/// The prompt in a chunk `prompt` that is not ours.
fn of_prompt(prompt: &str) -> Stated {
    match node_graph::parse(prompt) {
        Some(nodes) => match node_graph::positive_text(&nodes) {
            Ok(text) => Stated::Prompt(text),
            Err(why) => Stated::Unclear(format!("of ComfyUI's node graph in it, {why}")),
        },
        None if prompt.trim_start().starts_with(['{', '[']) => {
            Stated::Unclear("its chunk `prompt` is JSON of a kind that is not known".to_owned())
        }
        None if prompt.trim().is_empty() => Stated::Nothing,
        None => Stated::Prompt(prompt.to_owned()),
    }
}

/// The prompt in a web UI's `parameters`; `None` where they are of another form or begin without one.
fn of_parameters(text: &str) -> Option<String> {
    let ends = |line: &&str| line.starts_with("Negative prompt:") || is_settings(line);
    let lines = text.lines();
    if !lines.clone().any(is_settings) {
        return None;
    }
    let prompt: Vec<&str> = lines.take_while(|line| !ends(line)).collect();
    let prompt = without_tags(&prompt.join("\n")).trim().to_owned();
    (!prompt.is_empty()).then_some(prompt)
}

/// A prompt without the tags that name adapters (`<lora:name:0.8>`): a web UI takes them out before it encodes the rest.
fn without_tags(prompt: &str) -> String {
    let mut text = String::new();
    let mut rest = prompt;
    while let Some((before, tag)) = rest.split_once('<') {
        let end = tag.split_once('>').filter(|(tag, _)| {
            let kind = tag.split_once(':').map(|(kind, _)| kind);
            matches!(kind, Some("lora" | "lyco" | "hypernet"))
        });
        text.push_str(before);
        rest = if let Some((_, after)) = end {
            text.truncate(text.trim_end_matches(' ').len());
            after
        } else {
            text.push('<');
            tag
        };
    }
    text + rest
}

/// `true` if a line is the one of settings: `Steps: 20, Sampler: ...`.
fn is_settings(line: &str) -> bool {
    let steps = line.strip_prefix("Steps: ");
    steps.is_some_and(|rest| rest.starts_with(|letter: char| letter.is_ascii_digit()))
}

/// The seeds that `metadata.jsonl` of a folder gives its images, by file name; empty where there is no such file.
///
/// # Errors
/// A malformed line.
pub fn listed_seeds(folder: &Path) -> Result<HashMap<String, String>> {
    let path = folder.join("metadata.jsonl");
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let mut seeds = HashMap::new();
    for row in JsonLines::open(&path)? {
        let (_, record) = row?;
        let name = record.get("file_name").and_then(Value::as_str);
        let seed = match record.get("seed") {
            Some(Value::String(seed)) => Some(seed.clone()),
            Some(Value::Number(seed)) => Some(seed.to_string()),
            _ => None,
        };
        seeds.extend(name.map(str::to_owned).zip(seed));
    }
    Ok(seeds)
}

/// Prompts by file name; empty where there is no such file.
fn metadata(path: &Path) -> Result<HashMap<String, String>> {
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let mut prompts = HashMap::new();
    for row in JsonLines::open(path)? {
        let (line, record) = row?;
        let field = |name: &str| record.get(name).and_then(Value::as_str);
        let (Some(name), Some(prompt)) = (field("file_name"), field("prompt").or(field("text")))
        else {
            return Err(Error::data_line(
                path,
                line,
                "needs the texts `file_name` and `prompt` (or `text`)",
            ));
        };
        let before = prompts.insert(name.to_owned(), prompt.to_owned());
        if before.is_some_and(|before| before != prompt) {
            let problem = format!("`{name}` has another prompt in an earlier line");
            return Err(Error::data_line(path, line, problem));
        }
    }
    Ok(prompts)
}
