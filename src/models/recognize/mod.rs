//! The kind of content at a path, by its names and headers alone: the error path of every loader. A path that is not
//! what was asked for is named for what it is, with what to do. Nothing here loads weights or runs code.

mod tensors;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::json;
use crate::error::{Error, Result};
use crate::files::{POINTER, POINTER_ADVICE, is_pointer};
use crate::hub::{explain_cache, explain_missing};

/// The kind of content at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognized {
    /// In words, to follow "is": `a PEFT adapter of ...`.
    pub what: String,
    /// The advice for the user, one sentence; empty where there is nothing to say.
    pub advice: String,
}

impl Recognized {
    fn new(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            advice: advice.into(),
        }
    }
}

/// The error for a path where `wanted` (`a Stable Diffusion folder`) is needed and is not.
pub fn not_a(path: &Path, wanted: &str) -> Error {
    if !path.exists() {
        let (message, advice) = explain_missing(path);
        return Error::weights(path, message).with_hint(advice);
    }
    let Recognized { what, advice } = recognize(path);
    let error = Error::weights(path, format!("is {what}; {wanted} is needed here"));
    if advice.is_empty() {
        error
    } else {
        error.with_hint(advice)
    }
}

/// Refuses a file that stands for another one: a git-lfs pointer, a web page saved under its name, or nothing at all.
///
/// # Errors
/// It is one.
pub fn refuse_stand_in(path: &Path) -> Result<()> {
    let head = head(path);
    let is_empty = head.is_empty() && path.is_file();
    match stand_in(&head).or_else(|| is_empty.then(empty)) {
        Some(Recognized { what, advice }) => {
            Err(Error::weights(path, format!("is {what}")).with_hint(advice))
        }
        None => Ok(()),
    }
}

/// `true` of what is certainly no language model: a part of a diffusion model, an encoder, or a GGUF file of either.
pub fn is_no_language_model(path: &Path) -> bool {
    if path.is_dir() {
        let config = object(&path.join("config.json"));
        return !text(&config, "_class_name").is_empty()
            || NO_LANGUAGE.contains(&text(&config, "model_type"));
    }
    if !head(path).starts_with(b"GGUF") {
        return false;
    }
    let gguf = super::gguf::Gguf::open(path);
    gguf.is_ok_and(|gguf| {
        gguf.text("general.architecture")
            .is_some_and(|family| NO_LANGUAGE.contains(&family))
    })
}

/// Types of encoders, and architectures of GGUF files of models of images, videos and speech.
const NO_LANGUAGE: [&str; 25] = [
    "align",
    "aura",
    "clip",
    "clip_text_model",
    "clip_vision_model",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_convnext",
    "dinov3_vit",
    "flux",
    "hidream",
    "hyvid",
    "ltxv",
    "lumina2",
    "pixart",
    "qwen_image",
    "sd1",
    "sd3",
    "sdxl",
    "siglip",
    "siglip2",
    "t5encoder",
    "vit",
    "wan",
    "whisper",
];

/// Recognizes the content of a path that is there.
pub fn recognize(path: &Path) -> Recognized {
    if path.is_dir() {
        folder(path)
    } else {
        file(path)
    }
}

/// The first bytes of a file.
fn head(path: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    // A pipe has no beginning to look at.
    if path.is_file()
        && let Ok(file) = File::open(path)
    {
        let _ = file.take(512).read_to_end(&mut head);
    }
    head
}

fn stand_in(head: &[u8]) -> Option<Recognized> {
    let begins = |start: &str| {
        let head = head.trim_ascii_start();
        head.len() >= start.len() && head[..start.len()].eq_ignore_ascii_case(start.as_bytes())
    };
    if is_pointer(head.trim_ascii_start()) {
        Some(Recognized::new(POINTER, POINTER_ADVICE))
    } else if begins("<!doctype html") || begins("<html") {
        Some(Recognized::new(
            "a web page that was saved under this name",
            "download the file itself: on the Hugging Face hub its address has `/resolve/`, not `/blob/`",
        ))
    } else {
        None
    }
}

fn empty() -> Recognized {
    let advice = "its download or its copy failed: fetch it again";
    Recognized::new("an empty file", advice)
}

fn file(path: &Path) -> Recognized {
    let head = head(path);
    if let Some(stand_in) = stand_in(&head) {
        return stand_in;
    }
    if head.is_empty() {
        return empty();
    }
    if head.starts_with(b"GGUF") {
        return super::gguf::Gguf::open(path).map_or_else(
            |_| Recognized::new("a GGUF file that cannot be read", ""),
            |gguf| {
                let family = gguf.text("general.architecture").unwrap_or("unknown");
                let advice = "language models as GGUF are read; of other models take the folder in \
                              Hugging Face layout";
                Recognized::new(
                    format!("a GGUF file of the architecture `{family}`"),
                    advice,
                )
            },
        );
    }
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    let ending = ending.to_ascii_lowercase();
    if ["safetensors", "ckpt", "pt", "pth", "bin"].contains(&ending.as_str()) {
        return tensors::of_file(path);
    }
    if ending == "json" {
        return Recognized::new("a JSON file", "give the folder that it lies in");
    }
    if ending == "onnx" {
        return Recognized::new("an ONNX file", "take the model in Hugging Face layout");
    }
    Recognized::new("a file of no known kind", "")
}

fn folder(path: &Path) -> Recognized {
    if let Some((what, advice)) = explain_cache(path) {
        return Recognized::new(what, advice);
    }
    let has = |name: &str| path.join(name).exists();
    if has("model_index.json") {
        return pipeline(path);
    }
    if has("manifest.json") && has("config.toml") {
        return Recognized::new(
            "a run of preftune",
            format!(
                "its best weights are in its folder `best`; `preftune export {} --out MODEL` makes one model of them and their base",
                path.display()
            ),
        );
    }
    if has("adapter_config.json") {
        return adapter(path);
    }
    if has("pytorch_lora_weights.safetensors") || has("pytorch_lora_weights.bin") {
        return Recognized::new(
            "a LoRA of diffusers",
            "give its base as the model and this as `--lora`",
        );
    }
    if [
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.bin",
    ]
    .iter()
    .any(|name| has(name))
    {
        return Recognized::new(
            "an OpenCLIP model",
            "it is read as an encoder of images and texts: `--encoder`, `reward.encoder`",
        );
    }
    if has("config.json") {
        return component(path);
    }
    if has("scheduler_config.json")
        || has("tokenizer_config.json")
        || has("preprocessor_config.json")
    {
        let above = path.parent().unwrap_or(path).display();
        let advice = format!("give the folder above, `{above}`");
        return Recognized::new("a part of a model without weights", advice);
    }
    loose_files(path)
}

fn object(path: &Path) -> Map<String, Value> {
    json::read_object(path).unwrap_or_default()
}

fn text<'v>(object: &'v Map<String, Value>, key: &str) -> &'v str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn pipeline(path: &Path) -> Recognized {
    let index = object(&path.join("model_index.json"));
    let class = text(&index, "_class_name");
    let stable = ["StableDiffusionPipeline", "StableDiffusionXLPipeline"];
    let advice = if stable.contains(&class) {
        ""
    } else if class.starts_with("StableDiffusion") && !class.starts_with("StableDiffusion3") {
        "take the text-to-image model of Stable Diffusion 1, 2 or XL that it was made from"
    } else {
        "of image models, Stable Diffusion 1, 2 and XL are read"
    };
    Recognized::new(format!("a `{class}` of diffusers"), advice)
}

fn adapter(path: &Path) -> Recognized {
    let settings = object(&path.join("adapter_config.json"));
    let base = text(&settings, "base_model_name_or_path");
    let kind = match text(&settings, "peft_type") {
        "" | "LORA" => "a LoRA adapter of PEFT".to_owned(),
        other => format!("a `{other}` adapter of PEFT"),
    };
    let what = if base.is_empty() {
        kind
    } else {
        format!("{kind}, made for `{base}`")
    };
    let advice = format!(
        "name its base model, or put the two together once: `preftune export {} --out MODEL` writes one model",
        path.display()
    );
    Recognized::new(what, advice)
}

/// A folder with a `config.json`.
fn component(path: &Path) -> Recognized {
    let config = object(&path.join("config.json"));
    let class = text(&config, "_class_name");
    let above = path.parent().unwrap_or(path);
    if !class.is_empty() {
        let advice = if above.join("model_index.json").exists() {
            format!("give the folder above, `{}`", above.display())
        } else if class == "AutoencoderKL" {
            tensors::VAE_ADVICE.to_owned()
        } else {
            "a whole model has a `model_index.json` beside its parts".to_owned()
        };
        let what = match class {
            "AutoencoderKL" => "an autoencoder (VAE), a part of a model".to_owned(),
            "UNet2DConditionModel" => "a U-Net, a part of a model".to_owned(),
            "ControlNetModel" => "a ControlNet".to_owned(),
            other => format!("a `{other}` of diffusers"),
        };
        return Recognized::new(what, advice);
    }
    let model_type = text(&config, "model_type");
    let encoders = "of encoders, CLIP, OpenCLIP, SigLIP and ALIGN (images and texts) and DINO of the type `vit`, DINOv2 and DINOv3 (images \
                    alone) are read";
    let (what, advice) = match model_type {
        "clip" => ("a CLIP model (`clip`)".to_owned(), encoders),
        "clip_text_model" => ("a text encoder, a part of a model".to_owned(), ""),
        "align" => ("an ALIGN model (`align`)".to_owned(), encoders),
        "siglip" => ("a SigLIP model (`siglip`)".to_owned(), encoders),
        "siglip2" => (
            "a SigLIP 2 model for images of any shape (NaFlex, `siglip2`)".to_owned(),
            "take a SigLIP 2 of one image size, such as google/siglip2-base-patch16-224",
        ),
        "vit" => ("a vision transformer (`vit`)".to_owned(), encoders),
        "dinov2" | "dinov2_with_registers" => ("a DINOv2 model".to_owned(), encoders),
        "dinov3_vit" => ("a DINOv3 model".to_owned(), encoders),
        "dinov3_convnext" => (
            "a DINOv3 model of convolutions (`dinov3_convnext`)".to_owned(),
            "of DINOv3 the vision transformers (`dinov3_vit`) are read",
        ),
        "" => (
            "a folder whose `config.json` names no `model_type`".to_owned(),
            "",
        ),
        other => {
            let language =
                "of language models, `llama`, `mistral`, `qwen2`, `qwen3` and `gpt2` are read";
            (format!("a model of the type `{other}`"), language)
        }
    };
    Recognized::new(what, advice)
}

/// A folder without any settings: what files lie in it.
fn loose_files(path: &Path) -> Recognized {
    let mut names: Vec<PathBuf> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    names.sort();
    let ending = |path: &PathBuf, wanted: &str| {
        path.extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case(wanted))
    };
    let first = |wanted: &str| names.iter().find(|path| ending(path, wanted));
    if names.is_empty() {
        return Recognized::new("an empty folder", "");
    }
    if let Some(file) = first("gguf") {
        let advice = format!("give the file: `{}`", file.display());
        return Recognized::new("a folder with GGUF files", advice);
    }
    if let Some(found) = ["safetensors", "ckpt", "pt", "bin"]
        .into_iter()
        .find_map(first)
    {
        let inner = file(found);
        let name = found.file_name().unwrap_or_default().to_string_lossy();
        let what = format!(
            "a folder without settings; `{name}` in it is {}",
            inner.what
        );
        return Recognized::new(what, inner.advice);
    }
    if names
        .iter()
        .any(|path| path.join("model_index.json").exists())
    {
        let inner = names
            .iter()
            .find(|path| path.join("model_index.json").exists());
        let inner = inner.map_or_else(String::new, |path| path.display().to_string());
        return Recognized::new(
            "a folder of models",
            format!("give one of them, such as `{inner}`"),
        );
    }
    Recognized::new(
        "a folder that holds no model",
        "a model folder in Hugging Face layout has a `config.json`, or a `model_index.json` with a folder for each part",
    )
}
