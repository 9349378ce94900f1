//! `config.json` of language models: what of it changes the numbers, with the defaults of transformers. What is set to
//! something that is not implemented here is refused by its name.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use tch::Kind;

use super::gguf;
use super::rope::{RopeConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::hub::refuse_broken_links;
use crate::models::json;
use crate::models::recognize::{not_a, recognize};
use crate::models::transformer::Activation;

/// Most layers a model can have: a damaged number is refused before memory is asked for.
const MOST_LAYERS: i64 = 1024;

/// Kind of model, as `model_type` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Llama 2 and 3, SmolLM2, and all that follow them.
    Llama,
    /// Mistral 7B and its kin: a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on queries, keys and values.
    Qwen2,
    /// Qwen3: normalised queries and keys.
    Qwen3,
    /// GPT-2: learned positions, layer norms, biases.
    Gpt2,
}

/// Names of tensors and modules in transformers.
pub(super) struct Names {
    /// Prefix of all but the output layer.
    pub(super) root: &'static str,
    /// Token vectors.
    pub(super) tokens: &'static str,
    /// Position vectors.
    pub(super) positions: Option<&'static str>,
    /// Blocks.
    pub(super) layers: &'static str,
    /// Norm before the attention.
    pub(super) norm_1: &'static str,
    /// Attention.
    pub(super) attention: &'static str,
    /// Norm before the feed-forward part.
    pub(super) norm_2: &'static str,
    /// Norm after the last block.
    pub(super) norm: &'static str,
}

const LLAMA: Names = Names {
    root: "model",
    tokens: "embed_tokens",
    positions: None,
    layers: "layers",
    norm_1: "input_layernorm",
    attention: "self_attn",
    norm_2: "post_attention_layernorm",
    norm: "norm",
};

const GPT2: Names = Names {
    root: "transformer",
    tokens: "wte",
    positions: Some("wpe"),
    layers: "h",
    norm_1: "ln_1",
    attention: "attn",
    norm_2: "ln_2",
    norm: "ln_f",
};

impl Family {
    /// The beginning of the names of its classes in transformers.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Llama => "Llama",
            Self::Mistral => "Mistral",
            Self::Qwen2 => "Qwen2",
            Self::Qwen3 => "Qwen3",
            Self::Gpt2 => "GPT2",
        }
    }

    pub(super) fn names(self) -> &'static Names {
        match self {
            Self::Gpt2 => &GPT2,
            _ => &LLAMA,
        }
    }
}

/// Which layers of the attention have biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionBias {
    /// None of them.
    None,
    /// Those that make queries, keys and values.
    Inputs,
    /// The output layer too.
    All,
}

/// Shape and features of a language model.
#[derive(Clone, Debug, PartialEq)]
pub struct LmConfig {
    /// Kind of model.
    pub family: Family,
    /// Token vectors.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width inside the feed-forward parts.
    pub intermediate_size: i64,
    /// Blocks.
    pub layers: i64,
    /// Heads of queries.
    pub heads: i64,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Longest text of pretraining; for GPT-2 the longest possible one.
    pub max_position_embeddings: i64,
    /// Of every norm.
    pub norm_eps: f64,
    /// Of the feed-forward parts.
    pub activation: Activation,
    /// Which layers of the attention have biases.
    pub attention_bias: AttentionBias,
    /// `true` if the feed-forward layers have some.
    pub mlp_bias: bool,
    /// `true` if the output layer is the table of token vectors.
    pub tie_word_embeddings: bool,
    /// Tokens that each block's attention looks back over, its own included; `None` for all. One size a model.
    pub windows: Vec<Option<i64>>,
    /// Rotary positions; GPT-2 has none.
    pub rope: Option<RopeConfig>,
    /// The factor of each block's products of queries and keys.
    pub attention_scales: Vec<f64>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<i64>,
}

/// Most tokens of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Longest {
    /// How many.
    pub tokens: usize,
    /// `true` if a longer text is impossible, because positions are learned vectors; else it is beyond what the model was made for.
    pub is_bound: bool,
}

impl Longest {
    /// `true` if the model was made for a text of so many tokens.
    ///
    /// # Errors
    /// The model cannot read it: says so in words.
    pub fn fits(self, tokens: usize) -> Result<bool, String> {
        if self.is_bound && tokens > self.tokens {
            return Err(format!(
                "has {tokens} tokens, but the model reads at most {} (`max_position_embeddings`)",
                self.tokens
            ));
        }
        Ok(tokens <= self.tokens)
    }
}

/// Keys as they are written. GPT-2 has its own names.
#[derive(Deserialize)]
struct Raw {
    vocab_size: Option<i64>,
    #[serde(alias = "n_embd")]
    hidden_size: Option<i64>,
    #[serde(alias = "n_inner")]
    intermediate_size: Option<i64>,
    #[serde(alias = "n_layer")]
    num_hidden_layers: Option<i64>,
    #[serde(alias = "n_head")]
    num_attention_heads: Option<i64>,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    #[serde(alias = "n_positions")]
    max_position_embeddings: Option<i64>,
    #[serde(alias = "layer_norm_epsilon")]
    rms_norm_eps: Option<f64>,
    #[serde(alias = "activation_function")]
    hidden_act: Option<Activation>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    sliding_window: Option<i64>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<i64>,
    layer_types: Option<Vec<String>>,
    scale_attn_weights: Option<bool>,
    scale_attn_by_inverse_layer_idx: Option<bool>,
}

/// The defaults of transformers' classes where they differ.
struct Defaults {
    vocab: i64,
    width: i64,
    inner: i64,
    layers: i64,
    heads: i64,
    kv_heads: Option<i64>,
    positions: i64,
}

impl Defaults {
    fn for_family(family: Family) -> Self {
        let llama = Self {
            vocab: 32_000,
            width: 4096,
            inner: 11_008,
            layers: 32,
            heads: 32,
            kv_heads: None,
            positions: 2048,
        };
        match family {
            Family::Llama => llama,
            Family::Mistral => Self {
                inner: 14_336,
                kv_heads: Some(8),
                positions: 131_072,
                ..llama
            },
            Family::Qwen2 | Family::Qwen3 => Self {
                vocab: 151_936,
                inner: 22_016,
                kv_heads: Some(32),
                positions: 32_768,
                ..llama
            },
            Family::Gpt2 => Self {
                vocab: 50_257,
                width: 768,
                inner: 3072,
                layers: 12,
                heads: 12,
                kv_heads: None,
                positions: 1024,
            },
        }
    }
}

impl LmConfig {
    /// Reads a GGUF file's metadata, or `config.json` of a model folder and the tokens that end a text from `generation_config.json` where there
    /// is one.
    ///
    /// # Errors
    /// An unknown architecture, a feature that is not implemented, or sizes that do not go together.
    pub fn open(folder: &Path) -> Result<Self> {
        if gguf::is_gguf(folder) && folder.exists() {
            return Self::parse(folder, &gguf::config(folder, Kind::Float)?, &Map::new());
        }
        refuse_broken_links(folder)?;
        let path = folder.join("config.json");
        if !path.exists() {
            return Err(not_a(folder, "a language model"));
        }
        let generation = json::read_object_if_there(&folder.join("generation_config.json"))?;
        Self::parse(&path, &json::read_object_as_written(&path)?, &generation)
    }

    fn parse(
        path: &Path,
        object: &Map<String, Value>,
        generation: &Map<String, Value>,
    ) -> Result<Self> {
        let family = family(path, object)?;
        refuse_features(path, object, family)?;
        let eos = generation
            .get("eos_token_id")
            .or_else(|| object.get("eos_token_id"));
        let eos_token_ids = eos.map_or_else(Vec::new, tokens);
        let names_window = object.contains_key("sliding_window");
        let raw: Raw = json::parse(path, object.clone())?;
        let defaults = Defaults::for_family(family);
        let hidden_size = raw.hidden_size.unwrap_or(defaults.width);
        let layers = raw.num_hidden_layers.unwrap_or(defaults.layers);
        let heads = raw.num_attention_heads.unwrap_or(defaults.heads);
        let null_kv = object.get("num_key_value_heads") == Some(&Value::Null);
        let kv_default = defaults.kv_heads.filter(|_| !null_kv).unwrap_or(heads);
        let positions = raw.max_position_embeddings.unwrap_or(defaults.positions);
        let head_dim = match (raw.head_dim, family) {
            (Some(width), _) => width,
            (None, Family::Qwen3) => 128,
            (None, _) => hidden_size / heads.max(1),
        };
        let is_gpt2 = family == Family::Gpt2;
        let attention_bias = match family {
            Family::Llama | Family::Qwen3 if raw.attention_bias == Some(true) => AttentionBias::All,
            Family::Llama | Family::Qwen3 | Family::Mistral => AttentionBias::None,
            Family::Qwen2 => AttentionBias::Inputs,
            Family::Gpt2 => AttentionBias::All,
        };
        let config = Self {
            family,
            vocab_size: raw.vocab_size.unwrap_or(defaults.vocab),
            hidden_size,
            intermediate_size: match (raw.intermediate_size, is_gpt2) {
                (Some(width), _) => width,
                (None, true) => 4 * hidden_size,
                (None, false) => defaults.inner,
            },
            layers,
            heads,
            kv_heads: raw.num_key_value_heads.unwrap_or(kv_default),
            head_dim,
            max_position_embeddings: positions,
            norm_eps: raw
                .rms_norm_eps
                .unwrap_or(if is_gpt2 { 1e-5 } else { 1e-6 }),
            activation: raw.hidden_act.unwrap_or(if is_gpt2 {
                Activation::GeluNew
            } else {
                Activation::Silu
            }),
            attention_bias,
            mlp_bias: is_gpt2 || family == Family::Llama && raw.mlp_bias.unwrap_or(false),
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(is_gpt2),
            windows: windows(path, &raw, family, names_window, layers)?,
            rope: if is_gpt2 {
                None
            } else {
                Some(RopeConfig::parse(path, object, positions)?)
            },
            attention_scales: attention_scales(&raw, head_dim, layers),
            eos_token_ids,
        };
        config.check(path)?;
        Ok(config)
    }

    /// Most tokens of a text, stretched rotations counted.
    pub fn longest(&self) -> Longest {
        let trained = self.max_position_embeddings as f64;
        let stretched = match self.rope.as_ref().map(|rope| &rope.scaling) {
            Some(RopeScaling::Dynamic { factor }) => trained * factor,
            Some(RopeScaling::Yarn {
                factor, original, ..
            }) => original * factor,
            _ => trained,
        };
        Longest {
            tokens: trained.max(stretched) as usize,
            is_bound: self.rope.is_none(),
        }
    }

    /// `true` if rows of `length` tokens may hold several sequences: sliding windows count neighbours in a row, not
    /// positions.
    pub fn takes_layouts(&self, length: usize) -> bool {
        let mut windows = self.windows.iter().flatten();
        windows.all(|&window| window >= length as i64)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let refuse = |message: String| Err(Error::weights(path, message));
        for (name, size) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if size < 1 {
                return refuse(format!("`{name}` is {size}, but must be at least 1"));
            }
        }
        if self.layers > MOST_LAYERS {
            return refuse(format!("`num_hidden_layers` is {}", self.layers));
        }
        if self.heads % self.kv_heads != 0 {
            return refuse(format!(
                "{} attention heads cannot share {} key-value heads evenly",
                self.heads, self.kv_heads
            ));
        }
        if self.family == Family::Gpt2 && self.heads * self.head_dim != self.hidden_size {
            return refuse(format!(
                "a width of {} does not divide into {} attention heads",
                self.hidden_size, self.heads
            ));
        }
        let odd = self.rope.is_some() && self.head_dim % 2 != 0;
        let single = matches!(
            self.rope.as_ref().map(|rope| &rope.scaling),
            Some(RopeScaling::Dynamic { .. })
        ) && self.head_dim == 2;
        if odd || single {
            return refuse(format!(
                "attention heads of width {} cannot be rotated",
                self.head_dim
            ));
        }
        Ok(())
    }
}

fn family(path: &Path, object: &Map<String, Value>) -> Result<Family> {
    let known = "known are `llama` (Llama 2, Llama 3, SmolLM2), `mistral`, `qwen2` (Qwen2, Qwen2.5), `qwen3` and `gpt2`";
    let is_folder = path.ends_with("config.json");
    let folder = path.parent().unwrap_or(path);
    let Some(name) = object.get("model_type").and_then(Value::as_str) else {
        return Err(not_a(folder, "a language model"));
    };
    serde_json::from_value(name.into()).map_err(|_| {
        let what = if is_folder {
            recognize(folder).what
        } else {
            format!("a `{name}` model")
        };
        let message = format!("is {what}, which preftune does not run as a language model");
        Error::weights(path, message).with_hint(known)
    })
}

fn refuse_features(path: &Path, object: &Map<String, Value>, family: Family) -> Result<()> {
    let is_set = |key: &str| object.get(key).is_some_and(|value| !value.is_null());
    if is_set("quantization_config") {
        return Err(Error::weights(
            path,
            "has quantised weights (`quantization_config`), which preftune does not read",
        )
        .with_hint("take the model it was made from, in bf16, f16 or f32"));
    }
    if object.get("add_cross_attention") == Some(&Value::Bool(true)) {
        let message = "has cross-attention (`add_cross_attention`), which preftune does not run";
        return Err(Error::weights(path, message));
    }
    if family == Family::Mistral && is_set("layer_types") {
        let message = "mixes kinds of attention (`layer_types`), which Mistral models do not";
        return Err(Error::weights(path, message));
    }
    Ok(())
}

/// One over the root of the head's width. GPT-2 may leave that out, or divide by the number of the block too, from 1.
fn attention_scales(raw: &Raw, head_dim: i64, layers: i64) -> Vec<f64> {
    let root = (head_dim.max(1) as f64).sqrt();
    let scale = |number| {
        let by_width = if raw.scale_attn_weights == Some(false) {
            1.0
        } else {
            root
        };
        let by_layer = if raw.scale_attn_by_inverse_layer_idx == Some(true) {
            number as f64
        } else {
            1.0
        };
        1.0 / (by_width * by_layer)
    };
    (1..=layers.min(MOST_LAYERS)).map(scale).collect()
}

/// One token or a list of them.
fn tokens(value: &Value) -> Vec<i64> {
    match value {
        Value::Array(values) => values.iter().filter_map(Value::as_i64).collect(),
        value => value.as_i64().into_iter().collect(),
    }
}

/// The window of each block. An explicit null means no window in Mistral's files, absence one of 4096.
fn windows(
    path: &Path,
    raw: &Raw,
    family: Family,
    names_window: bool,
    layers: i64,
) -> Result<Vec<Option<i64>>> {
    let count = layers.clamp(0, MOST_LAYERS) as usize;
    let written = if names_window {
        raw.sliding_window
    } else {
        Some(4096)
    };
    let window = match family {
        Family::Llama | Family::Gpt2 => None,
        Family::Mistral => written,
        Family::Qwen2 | Family::Qwen3 => written.filter(|_| raw.use_sliding_window == Some(true)),
    };
    if window.is_some_and(|window| window < 1) {
        return Err(Error::weights(path, "`sliding_window` must be at least 1"));
    }
    let listed = match (&raw.layer_types, family) {
        (Some(types), Family::Qwen2 | Family::Qwen3) => types,
        (_, Family::Qwen2 | Family::Qwen3) => {
            let first = raw.max_window_layers.unwrap_or(28).max(0) as usize;
            let of = |index| window.filter(|_| index >= first);
            return Ok((0..count).map(of).collect());
        }
        _ => return Ok(vec![window; count]),
    };
    if listed.len() != count {
        let message = format!("`layer_types` names {} of {layers} layers", listed.len());
        return Err(Error::weights(path, message));
    }
    let of = |name: &String| match name.as_str() {
        "full_attention" => Ok(None),
        "sliding_attention" if window.is_some() => Ok(window),
        "sliding_attention" => Err(Error::weights(
            path,
            "`layer_types` asks for a sliding window, but there is none",
        )),
        other => Err(Error::weights(
            path,
            format!("has `{other}` layers, which preftune does not run"),
        )),
    };
    listed.iter().map(of).collect()
}
