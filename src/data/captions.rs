//! Which prompt an image was made from: `metadata.jsonl` beside it (`file_name`, `prompt` or `text`), or the text
//! chunk that `preftune generate` writes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::png;
use crate::error::{Error, Result};

/// The prompt of each image: what the folder's `metadata.jsonl` gives it, or what its PNG text chunk says.
///
/// # Errors
/// An image without a prompt, or a malformed line of `metadata.jsonl`.
pub fn own_prompts(folder: &Path, images: &[PathBuf]) -> Result<Vec<String>> {
    let listed = metadata(&folder.join("metadata.jsonl"))?;
    let prompt_of = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(prompt) = listed.get(name.as_ref()) {
            return Ok(prompt.clone());
        }
        let chunk = if png::is_png(path) {
            png::read_text(path, "prompt")?
        } else {
            None
        };
        chunk.ok_or_else(|| {
            Error::data(path, "the prompt of this image is not known").with_hint(
                "give `--prompt TEXT`, `--prompts FILE`, or a `metadata.jsonl` beside the images",
            )
        })
    };
    images.iter().map(prompt_of).collect()
}

/// Prompts by file name; empty where there is no such file.
fn metadata(path: &Path) -> Result<HashMap<String, String>> {
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let text = fs::read_to_string(path).map_err(|source| Error::io("read", path, source))?;
    let mut prompts = HashMap::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let record: Value = serde_json::from_str(line)
            .map_err(|error| Error::data_line(path, index + 1, format!("not JSON: {error}")))?;
        let field = |name: &str| record.get(name).and_then(Value::as_str);
        let (Some(name), Some(prompt)) = (field("file_name"), field("prompt").or(field("text")))
        else {
            return Err(Error::data_line(
                path,
                index + 1,
                "needs the texts `file_name` and `prompt` (or `text`)",
            ));
        };
        prompts.insert(name.to_owned(), prompt.to_owned());
    }
    Ok(prompts)
}
