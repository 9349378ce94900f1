//! A GGUF file as a model folder: names, orders and settings as transformers has them, read without writing anything.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use super::gguf_tokenizer::TokenizerFiles;
use super::rope;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::models::gguf::Gguf;
use crate::models::weights::{Checkpoint, ReadTensor};

/// llama.cpp keeps of Llama 3's scaling only its effect on each frequency. These are the values of all published models;
/// the factor differs.
const LLAMA3: (f64, f64, f64) = (1.0, 4.0, 8192.0);

/// Names of parts of a block, in llama.cpp and in transformers.
const LLAMA_PARTS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
const GPT2_PARTS: [(&str, &str); 6] = [
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

/// Effect of Llama 3's scaling, `[head_dim / 2]`.
const FREQUENCIES: &str = "rope_freqs.weight";

/// `true` if a path is a GGUF file rather than a model folder.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "gguf") && !path.is_dir()
}

/// The model's `config.json` as it would be, its weights being stored as `kind`.
pub(super) fn config(file: &Path, kind: Kind) -> Result<Map<String, Value>> {
    Source::open(file)?.config(kind)
}

/// The weights under their names in transformers, read one at a time as f32.
///
/// # Errors
/// Another architecture than `llama` (Llama, Mistral, SmolLM2), `qwen2`, `qwen3` and `gpt2`; experts, windows or scalings
/// that are not implemented; tensors that have no place; see also [`Gguf::open`].
pub(super) fn checkpoint(file: &Path) -> Result<Checkpoint> {
    let source = Rc::new(Source::open(file)?);
    let names: Vec<String> = source.gguf.names().map(str::to_owned).collect();
    let names = names.into_iter().filter(|name| name != FREQUENCIES);
    let tensors = names.map(|name| {
        let (new, shape) = (source.new_name(&name)?, source.new_shape(&name));
        let source = Rc::clone(&source);
        let read: ReadTensor = Box::new(move || source.tensor(&name));
        Ok((new, shape, read))
    });
    let tensors = tensors.collect::<Result<_>>()?;
    Checkpoint::of_other_format(file, source.gguf.files(), tensors)
}

/// Writes `tokenizer.json` and `tokenizer_config.json` into `folder`.
pub(super) fn write_tokenizer(file: &Path, folder: &Path) -> Result<()> {
    let files = tokenizer(file)?;
    let settings = files.settings.into();
    for (name, value) in [
        ("tokenizer.json", &files.tokenizer),
        ("tokenizer_config.json", &settings),
    ] {
        write_atomically(&folder.join(name), json_text(file, value)?.as_bytes())?;
    }
    Ok(())
}

/// The tokenizer of the file `file`.
pub(super) fn tokenizer(file: &Path) -> Result<TokenizerFiles> {
    TokenizerFiles::read(&Gguf::open(file)?)
}

fn json_text(file: &Path, value: &Value) -> Result<String> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n")
        .map_err(|error| Error::weights(file, error.to_string()))
}

struct Source {
    file: PathBuf,
    gguf: Gguf,
    architecture: String,
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
}

impl Source {
    fn open(file: &Path) -> Result<Self> {
        let gguf = Gguf::open(file)?;
        let architecture = gguf.metadata().get("general.architecture");
        let architecture = architecture.and_then(Value::as_str).unwrap_or_default();
        if !["llama", "qwen2", "qwen3", "gpt2"].contains(&architecture) {
            let message = format!("is a `{architecture}` model, which preftune does not run");
            return Err(Error::weights(file, message).with_hint(
                "known are `llama` (Llama, Mistral, SmolLM2), `qwen2`, `qwen3` and `gpt2`",
            ));
        }
        let mut source = Self {
            file: file.to_owned(),
            architecture: architecture.to_owned(),
            gguf,
            heads: 0,
            kv_heads: 0,
            head_dim: 0,
        };
        for feature in ["expert_count", "attention.sliding_window"] {
            if source.number(feature)?.is_some_and(|count| count > 0.0) {
                let message = format!("has `{feature}`, which preftune does not run from GGUF");
                return Err(Error::weights(file, message)
                    .with_hint("take the safetensors folder of the same model"));
            }
        }
        source.heads = source.size("attention.head_count")?;
        source.kv_heads = match source.number("attention.head_count_kv")? {
            Some(count) => count as i64,
            None => source.heads,
        };
        source.head_dim = match source.number("attention.key_length")? {
            Some(width) => width as i64,
            None => source.size("embedding_length")? / source.heads.max(1),
        };
        Ok(source)
    }

    /// A number of this architecture's settings.
    fn number(&self, key: &str) -> Result<Option<f64>> {
        let key = format!("{}.{key}", self.architecture);
        match self.gguf.metadata().get(&key) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .map(Some)
                .ok_or_else(|| Error::weights(&self.file, format!("`{key}` is not one number"))),
        }
    }

    fn size(&self, key: &str) -> Result<i64> {
        match self.number(key)? {
            Some(number) => Ok(number as i64),
            None => Err(Error::weights(
                &self.file,
                format!("lacks `{}.{key}`", self.architecture),
            )),
        }
    }

    fn is_gpt2(&self) -> bool {
        self.architecture == "gpt2"
    }

    fn has(&self, name: &str) -> bool {
        self.gguf.shape(name).is_some()
    }

    fn config(&self, kind: Kind) -> Result<Map<String, Value>> {
        let vocab = self.gguf.shape("token_embd.weight").map(|shape| shape[0]);
        let class = match self.architecture.as_str() {
            "llama" => "LlamaForCausalLM",
            "qwen2" => "Qwen2ForCausalLM",
            "qwen3" => "Qwen3ForCausalLM",
            _ => "GPT2LMHeadModel",
        };
        let common = json!({
            "architectures": [class],
            "model_type": self.architecture,
            "vocab_size": vocab,
            "tie_word_embeddings": !self.has("output.weight"),
            "torch_dtype": super::save::dtype(kind),
        });
        let own = if self.is_gpt2() {
            json!({
                "n_embd": self.size("embedding_length")?,
                "n_inner": self.size("feed_forward_length")?,
                "n_layer": self.size("block_count")?,
                "n_head": self.heads,
                "n_positions": self.size("context_length")?,
                "layer_norm_epsilon": self.number("attention.layer_norm_epsilon")?,
            })
        } else {
            json!({
                "hidden_size": self.size("embedding_length")?,
                "intermediate_size": self.size("feed_forward_length")?,
                "num_hidden_layers": self.size("block_count")?,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv_heads,
                "head_dim": self.head_dim,
                "max_position_embeddings": self.size("context_length")?,
                "rms_norm_eps": self.number("attention.layer_norm_rms_epsilon")?,
                "rope_theta": self.theta()?,
                "rope_scaling": self.scaling()?,
                "attention_bias": self.has("blk.0.attn_q.bias"),
                "mlp_bias": self.has("blk.0.ffn_up.bias"),
            })
        };
        let token = |key: &str| {
            let value = self.gguf.metadata().get(&format!("tokenizer.ggml.{key}"));
            value.cloned().unwrap_or(Value::Null)
        };
        // The end of a turn ends an answer too.
        let ends = match (token("eos_token_id"), token("eot_token_id")) {
            (eos, Value::Null) => eos,
            (eos, turn) if eos == turn => eos,
            (eos, turn) => json!([eos, turn]),
        };
        let tokens = json!({
            "bos_token_id": token("bos_token_id"),
            "eos_token_id": ends,
            "pad_token_id": token("padding_token_id"),
        });
        let parts = [common, own, tokens]
            .into_iter()
            .filter_map(|part| match part {
                Value::Object(part) => Some(part),
                _ => None,
            });
        Ok(parts.flatten().collect())
    }

    fn theta(&self) -> Result<f64> {
        Ok(self.number("rope.freq_base")?.unwrap_or(10_000.0))
    }

    fn scaling(&self) -> Result<Value> {
        let key = format!("{}.rope.scaling.type", self.architecture);
        let named = self.gguf.metadata().get(&key).and_then(Value::as_str);
        let factor = self.number("rope.scaling.factor")?;
        match named {
            None | Some("none") if self.has(FREQUENCIES) => self.llama3(),
            None | Some("none") => Ok(Value::Null),
            Some("linear") => Ok(json!({"rope_type": "linear", "factor": factor})),
            Some("yarn") => Ok(json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": self.number("rope.scaling.original_context_length")?,
            })),
            Some(other) => {
                let message =
                    format!("scales rotary positions by `{other}`, which preftune does not run");
                Err(Error::weights(&self.file, message))
            }
        }
    }

    /// The settings of which the stored effect on each frequency is the result.
    fn llama3(&self) -> Result<Value> {
        let effect = self.gguf.tensor(FREQUENCIES)?.flatten(0, -1);
        let factor = (effect.max().double_value(&[]) * 1000.0).round() / 1000.0;
        let (low, high, original) = LLAMA3;
        let plain = rope::plain(self.theta()?, self.head_dim);
        let expected = &plain / rope::llama3(&plain, factor, low, high, original);
        let agrees = expected.size() == effect.size()
            && (&effect / expected - 1.0).abs().max().double_value(&[]) < 1e-3;
        if !agrees {
            return Err(Error::tensor(
                &self.file,
                FREQUENCIES,
                "is not the scaling of a published Llama 3 model",
            )
            .with_hint("take the safetensors folder of the same model"));
        }
        Ok(json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original as i64,
        }))
    }

    /// The name in transformers of a tensor of llama.cpp.
    fn new_name(&self, name: &str) -> Result<String> {
        let parts: &[(&str, &str)] = if self.is_gpt2() {
            &GPT2_PARTS
        } else {
            &LLAMA_PARTS
        };
        let new = match (name, self.is_gpt2()) {
            ("output.weight", _) => Some("lm_head.weight".to_owned()),
            ("token_embd.weight", false) => Some("model.embed_tokens.weight".to_owned()),
            ("output_norm.weight", false) => Some("model.norm.weight".to_owned()),
            ("token_embd.weight", true) => Some("transformer.wte.weight".to_owned()),
            ("position_embd.weight", true) => Some("transformer.wpe.weight".to_owned()),
            ("output_norm.weight", true) => Some("transformer.ln_f.weight".to_owned()),
            ("output_norm.bias", true) => Some("transformer.ln_f.bias".to_owned()),
            _ => {
                let (_, part, suffix) = split(name).ok_or_else(|| self.unknown(name))?;
                let part = parts.iter().find(|(old, _)| *old == part);
                let layer = name.split('.').nth(1).unwrap_or_default();
                let layers = if self.is_gpt2() {
                    "transformer.h"
                } else {
                    "model.layers"
                };
                part.map(|(_, new)| format!("{layers}.{layer}.{new}.{suffix}"))
            }
        };
        new.ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> Error {
        Error::tensor(&self.file, name, "has no place in such a model")
    }

    /// `true` if transformers has the tensor transposed.
    fn is_transposed(&self, name: &str) -> bool {
        let matrix = self.gguf.shape(name).is_some_and(|shape| shape.len() == 2);
        self.is_gpt2() && matrix && split(name).is_some_and(|(_, _, suffix)| suffix == "weight")
    }

    /// Shape of a tensor as transformers has it.
    fn new_shape(&self, name: &str) -> Vec<i64> {
        let mut shape = self.gguf.shape(name).unwrap_or_default().to_vec();
        if self.is_transposed(name) {
            shape.reverse();
        }
        shape
    }

    /// A tensor in the order that transformers has it in.
    fn tensor(&self, name: &str) -> Result<Tensor> {
        let tensor = self.gguf.tensor(name)?;
        if self.is_transposed(name) {
            return Ok(tensor.tr().contiguous());
        }
        let heads = match split(name) {
            Some((_, "attn_q", _)) => self.heads,
            Some((_, "attn_k", _)) => self.kv_heads,
            _ => return Ok(tensor),
        };
        if self.architecture != "llama" {
            return Ok(tensor);
        }
        // llama.cpp rotates neighbours, transformers halves: the rows of a head lie in another order.
        let shape = tensor.size();
        let in_pairs = [heads, self.head_dim / 2, 2, -1];
        let pairs = tensor.f_reshape(in_pairs).map_err(|_| {
            Error::tensor(
                &self.file,
                name,
                format!("does not divide into {heads} heads"),
            )
        })?;
        Ok(pairs.transpose(1, 2).reshape(shape))
    }
}

/// `blk.N.PART.SUFFIX` in its parts.
fn split(name: &str) -> Option<(u32, &str, &str)> {
    let mut words = name.strip_prefix("blk.")?.splitn(3, '.');
    Some((words.next()?.parse().ok()?, words.next()?, words.next()?))
}
