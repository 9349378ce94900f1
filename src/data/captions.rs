//! Which prompt an image was made from: `metadata.jsonl` beside it (`file_name`, `prompt` or `text`), a text file of its
//! name, or what the program that wrote the PNG file says in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::json_lines::JsonLines;
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

/// The prompt of each image: what the folder's `metadata.jsonl` gives it, what is written in a file beside it, or what it
/// says itself.
///
/// # Errors
/// An image without a prompt, or a malformed line of `metadata.jsonl`.
pub fn own_prompts(folder: &Path, images: &[PathBuf]) -> Result<Vec<String>> {
    let prompts = known_prompts(folder, images)?.into_iter().zip(images);
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
    prompts.map(known).collect()
}

/// As [`own_prompts`], of images that need not have a prompt.
///
/// # Errors
/// A malformed line of `metadata.jsonl`, a file that cannot be read.
pub fn known_prompts(folder: &Path, images: &[PathBuf]) -> Result<Vec<Stated>> {
    let listed = metadata(&folder.join("metadata.jsonl"))?;
    let prompt_of = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match listed.get(name.as_ref()) {
            Some(prompt) => Ok(Stated::Prompt(prompt.clone())),
            None => stated(path),
        }
    };
    images.iter().map(prompt_of).collect()
}

/// The text beside an image, or the prompt within.
fn stated(image: &Path) -> Result<Stated> {
    match beside(image)? {
        Some(text) => Ok(Stated::Prompt(text)),
        None => within(image),
    }
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
    Ok(match within(image)? {
        Stated::Prompt(prompt) => Some(prompt),
        Stated::Unclear(_) | Stated::Nothing => None,
    })
}

/// The prompt that a PNG file says it was made from, told by who wrote it.
///
/// `parameters` is the text of Stable Diffusion web UI: the prompt up to `Negative prompt:` or `Steps:`; weights in brackets
/// stay as they are, tags of adapters are left out. `prompt` is our own, or the node graph of ComfyUI.
///
/// # Errors
/// The file or a chunk of it cannot be read.
fn within(path: &Path) -> Result<Stated> {
    if !png::is_png(path) {
        return Ok(Stated::Nothing);
    }
    let chunks = png::texts(path)?;
    let chunk = |keyword: &str| {
        let found = chunks.iter().find(|(known, _)| known == keyword);
        found.map(|(_, text)| text.as_str())
    };
    let ours = chunk(png::SOFTWARE).is_some_and(|software| software.starts_with("preftune"));
    if let Some(prompt) = chunk("prompt").filter(|_| ours) {
        return Ok(Stated::Prompt(prompt.to_owned()));
    }
    let parameters = chunk("parameters");
    if let Some(prompt) = parameters.and_then(of_parameters) {
        return Ok(Stated::Prompt(prompt));
    }
    let Some(prompt) = chunk("prompt") else {
        return Ok(match parameters {
            Some(_) => {
                let unknown =
                    "its chunk `parameters` begins with no prompt, or has a form that is not known";
                Stated::Unclear(unknown.to_owned())
            }
            None => Stated::Nothing,
        });
    };
    Ok(match node_graph::parse(prompt) {
        Some(nodes) => match node_graph::positive_text(&nodes) {
            Ok(text) => Stated::Prompt(text),
            Err(why) => Stated::Unclear(format!("of ComfyUI's node graph in it, {why}")),
        },
        None if prompt.trim_start().starts_with(['{', '[']) => {
            Stated::Unclear("its chunk `prompt` is JSON of a kind that is not known".to_owned())
        }
        None if prompt.trim().is_empty() => Stated::Nothing,
        None => Stated::Prompt(prompt.to_owned()),
    })
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
        prompts.insert(name.to_owned(), prompt.to_owned());
    }
    Ok(prompts)
}
