//! OpenCLIP's vision transformers with its text transformer (Ilharco et al. 2021; Cherti et al. 2022, arXiv 2212.07143), read
//! as the `CLIPModel` that they are under other names: a folder with `open_clip_config.json`, or a state dict in one file,
//! as HPSv2's (Wu et al. 2023, arXiv 2306.09341) come.

mod names;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::clip::{ClipConfig, ClipTextConfig, ClipVisionConfig};
use super::json;
use super::recognize::not_a;
use super::transformer::Activation;
use super::weights::Checkpoint;
use crate::error::{Error, Result};

/// Settings of a folder.
const CONFIG: &str = "open_clip_config.json";

/// Files of weights of a folder, in the order in which they are looked for.
const WEIGHTS: [&str; 2] = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"];

/// The width of a head of both transformers, where nothing else is said.
const HEAD: i64 = 64;

/// Heads of vision transformers that are wider than 1024: H, g, G and e have 16, each wider than those of the smaller ones.
const WIDE_HEADS: i64 = 16;

const OTHER_LAYOUT: &str =
    "take the same model in transformers' layout, a folder with a `config.json`";

/// A model's sizes, and how it sees images.
pub struct OpenClip {
    /// The sizes, as those of a `CLIPModel`.
    pub config: ClipConfig,
    /// The settings for images; those that are missing have OpenCLIP's defaults.
    pub preprocessing: Map<String, Value>,
    /// The file that they stand in, or the model itself.
    pub settings: PathBuf,
    /// Assumptions that no file confirms, a sentence each.
    pub assumed: Vec<String>,
}

/// `true` if OpenCLIP's layout is what to read at `path`: a file, or a folder that has it and no other.
pub fn is_there(path: &Path) -> bool {
    let has = |name: &str| path.join(name).exists();
    path.is_file() || !has("config.json") && (has(CONFIG) || WEIGHTS.into_iter().any(has))
}

impl OpenClip {
    /// Reads the sizes: from `open_clip_config.json`, else off the tensors.
    ///
    /// # Errors
    /// A file cannot be read, or the model is of another kind.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default();
        let config = if path.is_file() && WEIGHTS.iter().any(|known| *known == name) {
            path.with_file_name(CONFIG)
        } else {
            path.join(CONFIG)
        };
        if config.exists() {
            return Self::from_config(config);
        }
        let weights = weights(path)?;
        let config = sizes(&weights)?;
        let vision = &config.vision;
        let named = name.to_string_lossy();
        let mut assumed = vec![format!(
            "`{named}` comes without `{CONFIG}`: by its tensors it has {} layers of a width of {} for images of {} pixels, and it is \
             taken to have GELU and the heads that OpenCLIP gives such a model",
            vision.num_hidden_layers, vision.hidden_size, vision.image_size
        )];
        let mut preprocessing = Map::new();
        if named.to_ascii_lowercase().starts_with("hps") {
            // `hpsv2/src/open_clip/factory.py` asks for it.
            preprocessing.insert("resize_mode".to_owned(), json!("longest"));
            assumed.push(format!(
                "`{named}` is taken for a model of HPSv2 by its name: images that are not square are filled up with black, as its code does"
            ));
        }
        Ok(Self {
            config,
            preprocessing,
            settings: path.to_owned(),
            assumed,
        })
    }

    fn from_config(path: PathBuf) -> Result<Self> {
        let object = json::read_object(&path)?;
        let Some(model) = json::section(&object, "model_cfg") else {
            return Err(Error::weights(&path, "has no `model_cfg`"));
        };
        let part = |key: &str, known: &[&str]| {
            let section = json::section(&model, key).unwrap_or_default();
            refuse_unknown(&path, key, &section, known)?;
            Ok::<_, Error>(section)
        };
        let known = [
            "embed_dim",
            "vision_cfg",
            "text_cfg",
            "quick_gelu",
            "custom_text",
            "init_logit_scale",
        ];
        refuse_unknown(&path, "model_cfg", &model, &known)?;
        let text: TextConfig = json::parse(&path, part("text_cfg", &TEXT_KEYS)?)?;
        let vision: VisionConfig = json::parse(&path, part("vision_cfg", &VISION_KEYS)?)?;
        let Some(projection_dim) = model.get("embed_dim").and_then(Value::as_i64) else {
            return Err(Error::weights(&path, "has no `model_cfg.embed_dim`"));
        };
        let activation = if model.get("quick_gelu") == Some(&Value::Bool(true)) {
            Activation::QuickGelu
        } else {
            Activation::Gelu
        };
        if vision.head_width < 1 {
            return Err(Error::weights(&path, "`head_width` must be at least 1"));
        }
        let inner = |width: i64, ratio: f64| (width as f64 * ratio) as i64;
        let config = ClipConfig {
            text: ClipTextConfig {
                vocab_size: text.vocab_size,
                hidden_size: text.width,
                intermediate_size: inner(text.width, text.mlp_ratio),
                num_hidden_layers: text.layers,
                num_attention_heads: text.heads,
                max_position_embeddings: text.context_length,
                ..text_defaults(activation, projection_dim)
            },
            vision: ClipVisionConfig {
                hidden_size: vision.width,
                intermediate_size: inner(vision.width, vision.mlp_ratio),
                num_hidden_layers: vision.layers,
                num_attention_heads: vision.width / vision.head_width,
                image_size: vision.image_size,
                patch_size: vision.patch_size,
                hidden_act: activation,
                ..ClipVisionConfig::default()
            },
            projection_dim,
        };
        Ok(Self {
            config,
            preprocessing: json::section(&object, "preprocess_cfg").unwrap_or_default(),
            settings: path,
            assumed: Vec::new(),
        })
    }
}

/// The weights of a folder or a file, under the names of a `CLIPModel`.
///
/// # Errors
/// A file cannot be read, or the model is of another kind.
pub fn weights(path: &Path) -> Result<Checkpoint> {
    let file = if path.is_dir() {
        let mut files = WEIGHTS.iter().map(|name| path.join(name));
        let file = files.find(|file| file.exists());
        file.ok_or_else(|| {
            let [safetensors, bin] = WEIGHTS;
            Error::weights(path, format!("no `{safetensors}` or `{bin}` in it"))
        })?
    } else {
        path.to_owned()
    };
    let wanted = "an encoder of images and texts, such as a file of OpenCLIP,";
    let opened = Checkpoint::open_file(&file);
    let mut checkpoint = if path.is_file() {
        // A file that is given may be anything, and is named for what it is.
        opened.map_err(|_| not_a(&file, wanted))?
    } else {
        opened?
    };
    let is_clip = |name: &str| {
        name.strip_prefix("module.")
            .unwrap_or(name)
            .starts_with("visual.")
    };
    if !checkpoint.names().any(is_clip) {
        return Err(not_a(&file, wanted));
    }
    checkpoint.regroup(|name, _| names::of_transformers(name))?;
    let is_placed = |name: &str| {
        let parts = [
            "text_model.",
            "vision_model.",
            "text_projection.",
            "visual_projection.",
            "logit_",
        ];
        parts.iter().any(|part| name.starts_with(part))
    };
    if let Some(other) = checkpoint.names().find(|name| !is_placed(name)) {
        let message =
            "is no part of OpenCLIP's plain vision and text transformers, which alone are read";
        return Err(Error::tensor(&file, other, message).with_hint(OTHER_LAYOUT));
    }
    Ok(checkpoint)
}

/// Settings of texts that all models of OpenCLIP share. The end of a text is its largest id.
fn text_defaults(activation: Activation, projection_dim: i64) -> ClipTextConfig {
    ClipTextConfig {
        hidden_act: activation,
        projection_dim,
        eos_token_id: 2,
        ..ClipTextConfig::default()
    }
}

/// The sizes of a model by its tensors, which do not say its heads and its activation.
fn sizes(weights: &Checkpoint) -> Result<ClipConfig> {
    let size = |name: &str, dim: usize| {
        let shape = weights.shape(name);
        let size = shape.and_then(|shape| shape.get(dim).copied());
        size.ok_or_else(|| {
            let message = "missing: not a vision and a text transformer of OpenCLIP";
            Error::tensor(weights.path(), name, message).with_hint(OTHER_LAYOUT)
        })
    };
    let layers = |part: &str| {
        let is_there = |layer: &i64| {
            weights.contains(&format!("{part}.encoder.layers.{layer}.layer_norm1.weight"))
        };
        (0..10_000).take_while(is_there).count() as i64
    };
    let inner = |part: &str| size(&format!("{part}.encoder.layers.0.mlp.fc1.weight"), 0);
    let (text, vision) = ("text_model", "vision_model");
    let width = size("vision_model.embeddings.class_embedding", 0)?;
    let patch_size = size("vision_model.embeddings.patch_embedding.weight", 2)?;
    let positions = size("vision_model.embeddings.position_embedding.weight", 0)?;
    let side = ((positions - 1).max(0) as f64).sqrt().round() as i64;
    let text_width = size("text_model.embeddings.token_embedding.weight", 1)?;
    let projection_dim = size("visual_projection.weight", 0)?;
    let heads = |width: i64| (width / HEAD).max(1);
    Ok(ClipConfig {
        text: ClipTextConfig {
            vocab_size: size("text_model.embeddings.token_embedding.weight", 0)?,
            hidden_size: text_width,
            intermediate_size: inner(text)?,
            num_hidden_layers: layers(text),
            num_attention_heads: heads(text_width),
            max_position_embeddings: size("text_model.embeddings.position_embedding.weight", 0)?,
            ..text_defaults(Activation::Gelu, projection_dim)
        },
        vision: ClipVisionConfig {
            hidden_size: width,
            intermediate_size: inner(vision)?,
            num_hidden_layers: layers(vision),
            num_attention_heads: if width > 1024 {
                WIDE_HEADS
            } else {
                heads(width)
            },
            image_size: side * patch_size,
            patch_size,
            hidden_act: Activation::Gelu,
            ..ClipVisionConfig::default()
        },
        projection_dim,
    })
}

const VISION_KEYS: [&str; 8] = [
    "layers",
    "width",
    "head_width",
    "mlp_ratio",
    "patch_size",
    "image_size",
    // Of training alone.
    "patch_dropout",
    "output_tokens",
];

/// `vision_cfg` of a vision transformer.
#[derive(Deserialize)]
#[serde(default)]
struct VisionConfig {
    layers: i64,
    width: i64,
    head_width: i64,
    mlp_ratio: f64,
    patch_size: i64,
    image_size: i64,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            layers: 12,
            width: 768,
            head_width: HEAD,
            mlp_ratio: 4.0,
            patch_size: 16,
            image_size: 224,
        }
    }
}

const TEXT_KEYS: [&str; 7] = [
    "context_length",
    "vocab_size",
    "width",
    "heads",
    "layers",
    "mlp_ratio",
    "output_tokens",
];

/// `text_cfg` of OpenCLIP's own text transformer.
#[derive(Deserialize)]
#[serde(default)]
struct TextConfig {
    context_length: i64,
    vocab_size: i64,
    width: i64,
    heads: i64,
    layers: i64,
    mlp_ratio: f64,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            context_length: 77,
            vocab_size: 49408,
            width: 512,
            heads: 8,
            layers: 12,
            mlp_ratio: 4.0,
        }
    }
}

/// Refuses a setting that makes a model of another kind (another library's tower, another pooling), by its name.
fn refuse_unknown(
    path: &Path,
    part: &str,
    section: &Map<String, Value>,
    known: &[&str],
) -> Result<()> {
    let is_default = |(key, value): &(&String, &Value)| {
        known.contains(&key.as_str())
            || **value == Value::Bool(false)
            || matches!(
                (key.as_str(), value.as_str()),
                ("pool_type", Some("tok" | "argmax"))
                    | ("pos_embed_type", Some("learnable"))
                    | ("proj_type", Some("linear"))
                    | ("block_type", Some("default"))
            )
    };
    match section.iter().find(|entry| !is_default(entry)) {
        None => Ok(()),
        Some((key, value)) => {
            let message = format!(
                "`{part}.{key}` = {value}: of OpenCLIP, plain vision transformers with OpenCLIP's own text transformer are read"
            );
            Err(Error::weights(path, message).with_hint(OTHER_LAYOUT))
        }
    }
}
