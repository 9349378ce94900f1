//! Which files of a model are needed: settings, tokenizers, schedulers, templates, and one form of the weights. Others bring
//! the same weights again (ONNX, Flax, TensorFlow, OpenVINO, other precisions) or belong to its training.

use std::collections::{BTreeMap, BTreeSet};

use super::Selection;
use super::listing::RemoteFile;
use crate::error::{Error, Result};
use crate::hub::Name;

/// The list of a pipeline's parts, each a folder.
const PIPELINE: &str = "model_index.json";

/// The parts of Stable Diffusion, and what its pipelines name beside them; others have the same parts for other programs.
const PARTS: [&str; 10] = [
    "unet",
    "vae",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "scheduler",
    "feature_extractor",
    "image_encoder",
    "safety_checker",
];

/// Folders that a model without parts has beside its files: templates for chats, the head of a reward model.
const FOLDERS: [&str; 2] = ["additional_chat_templates", "head"];

/// Settings of other programs, and notes of a training.
const OTHERS: [&str; 8] = [
    "trainer_state.json",
    "training_args.json",
    "all_results.json",
    "eval_results.json",
    "train_results.json",
    "params.json",
    "tekken.json",
    "config_sentence_transformers.json",
];

/// Names of weights before the first dot; the two first are of the same model.
const STEMS: [&str; 5] = [
    "model",
    "pytorch_model",
    "diffusion_pytorch_model",
    "adapter_model",
    "pytorch_lora_weights",
];

/// A file of weights by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Weights {
    folder: String,
    stem: String,
    /// `fp16`; empty for the plain ones.
    variant: String,
    is_pickle: bool,
    /// One of several files, or their index.
    is_shard: bool,
}

/// Longest list of names in a message.
const LISTED: usize = 30;

/// The files to fetch.
///
/// # Errors
/// A named file or variant is not there; the model has no weights, or several files of which none is named.
pub(super) fn choose<'a>(
    name: &Name,
    files: &'a [RemoteFile],
    selection: &Selection,
) -> Result<Vec<&'a RemoteFile>> {
    if !selection.files.is_empty() {
        return selection
            .files
            .iter()
            .map(|wanted| named(name, files, wanted))
            .collect();
    }
    let is_pipeline = files.iter().any(|file| file.path == PIPELINE);
    let (mut chosen, mut weights) = (Vec::new(), BTreeMap::new());
    for file in files
        .iter()
        .filter(|file| is_in_place(&file.path, is_pipeline))
    {
        if let Some(known) = weights_of(&file.path) {
            weights.entry(known).or_insert_with(Vec::new).push(file);
        } else if is_setting(&file.path) {
            chosen.push(file);
        }
    }
    if weights.is_empty() {
        return Ok(vec![single(name, files)?]);
    }
    if let Some(variant) = &selection.variant
        && !weights.keys().any(|known| known.variant == *variant)
    {
        let variants: BTreeSet<&str> = weights.keys().map(|known| known.variant.as_str()).collect();
        let variants: Vec<&str> = variants.into_iter().filter(|one| !one.is_empty()).collect();
        let hint = if variants.is_empty() {
            "it has no variants: leave out `--variant`".to_owned()
        } else {
            format!("it has `{}`", variants.join("`, `"))
        };
        let message = format!("has no weights of the variant `{variant}`");
        return Err(Error::failed(name.to_string(), message).with_hint(hint));
    }
    for (known, files) in &weights {
        let rivals = weights
            .keys()
            .filter(|other| (&other.folder, &other.stem) == (&known.folder, &known.stem));
        let wanted = selection.variant.as_deref();
        let best = rivals.min_by_key(|other| {
            let is_wanted = wanted.is_some_and(|variant| other.variant == variant);
            (
                !is_wanted,
                other.variant.as_str(),
                other.is_pickle,
                other.is_shard,
            )
        });
        if best == Some(known) {
            chosen.extend(files);
        }
    }
    chosen.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(chosen)
}

/// `true` of a file where a model has what it is made of: its own folder, and one for each part of a pipeline.
fn is_in_place(path: &str, is_pipeline: bool) -> bool {
    match path.split_once('/') {
        None => !is_pipeline || path == PIPELINE,
        Some((_, file)) if file.contains('/') => false,
        Some((folder, _)) if is_pipeline => PARTS.contains(&folder),
        Some((folder, _)) => FOLDERS.contains(&folder),
    }
}

fn is_setting(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    if file.starts_with('.') || OTHERS.contains(&file) || file.contains(".index.") {
        return false;
    }
    let ending = file.rsplit('.').next().unwrap_or_default();
    match ending {
        "json" => !["flax_", "tf_", "openvino_"]
            .iter()
            .any(|other| file.starts_with(other)),
        "jinja" | "model" => true,
        "txt" => ["vocab.txt", "merges.txt"].contains(&file),
        // The head of a reward model.
        "safetensors" => path.starts_with("head/"),
        _ => false,
    }
}

/// The kind of weights in a file with one of the usual names, as `model.fp16-00001-of-00002.safetensors`.
fn weights_of(path: &str) -> Option<Weights> {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let mut parts = file.split('.');
    let (stem, mut is_shard) = without_shard(parts.next()?);
    let (mut variant, mut is_pickle) = (String::new(), None);
    for part in parts {
        match part {
            "safetensors" => is_pickle = Some(false),
            "bin" => is_pickle = Some(true),
            "index" => is_shard = true,
            // Of an index, as nothing else has weights and this ending.
            "json" if is_shard => {}
            part => {
                let (plain, numbered) = without_shard(part);
                is_shard |= numbered;
                if !variant.is_empty() {
                    return None;
                }
                plain.clone_into(&mut variant);
            }
        }
    }
    let stem = match stem {
        "pytorch_model" => "model",
        stem => STEMS.into_iter().find(|known| *known == stem)?,
    };
    Some(Weights {
        folder: folder.to_owned(),
        stem: stem.to_owned(),
        variant,
        is_pickle: is_pickle?,
        is_shard,
    })
}

/// A part of a name without `-00001-of-00002`, and whether it had that.
fn without_shard(part: &str) -> (&str, bool) {
    let number = |text: &str| text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut pieces = part.rsplitn(4, '-');
    match (pieces.next(), pieces.next(), pieces.next(), pieces.next()) {
        (Some(count), Some("of"), Some(shard), before) if number(count) && number(shard) => {
            (before.unwrap_or_default(), true)
        }
        _ => (part, false),
    }
}

/// A file that a user names: by its path, or by its name alone where only one has that.
fn named<'a>(name: &Name, files: &'a [RemoteFile], wanted: &str) -> Result<&'a RemoteFile> {
    if let Some(exact) = files.iter().find(|file| file.path == wanted) {
        return Ok(exact);
    }
    let ends = format!("/{wanted}");
    let mut alike = files.iter().filter(|file| file.path.ends_with(&ends));
    if let (Some(one), None) = (alike.next(), alike.next()) {
        return Ok(one);
    }
    let all: Vec<&RemoteFile> = files.iter().collect();
    Err(
        Error::failed(name.to_string(), format!("has no file `{wanted}`"))
            .with_hint(format!("it has {}", list(&all))),
    )
}

/// The model in one file of a repository that has no other.
fn single<'a>(name: &Name, files: &'a [RemoteFile]) -> Result<&'a RemoteFile> {
    let is_model = |file: &&RemoteFile| {
        let endings = [".gguf", ".safetensors", ".ckpt"];
        endings.iter().any(|ending| file.path.ends_with(ending))
    };
    let models: Vec<&RemoteFile> = files.iter().filter(is_model).collect();
    match models.as_slice() {
        [one] => Ok(one),
        [] => {
            let all: Vec<&RemoteFile> = files.iter().collect();
            Err(
                Error::failed(name.to_string(), "has no weights of a known kind").with_hint(
                    format!(
                        "safetensors, PyTorch's `.bin`, and GGUF are read; it has {}",
                        list(&all)
                    ),
                ),
            )
        }
        many => Err(
            Error::failed(name.to_string(), "holds several models, each in one file").with_hint(
                format!(
                    "say which, as `--file {}`: it has {}",
                    many[0].path,
                    list(many)
                ),
            ),
        ),
    }
}

/// Names of files with their sizes.
fn list(files: &[&RemoteFile]) -> String {
    let shown = files.iter().take(LISTED).map(|file| {
        let size = file.size as f64;
        let size = match file.size {
            1_000_000_000.. => format!("{:.1} GB", size / 1e9),
            1_000_000.. => format!("{:.1} MB", size / 1e6),
            1_000.. => format!("{:.1} kB", size / 1e3),
            1 => "1 byte".to_owned(),
            bytes => format!("{bytes} bytes"),
        };
        format!("`{}` ({size})", file.path)
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    match files.len().saturating_sub(LISTED) {
        0 if files.is_empty() => "no files".to_owned(),
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
