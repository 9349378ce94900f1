//! The tokenizer in the metadata of a GGUF file: what the file says, as the `tokenizer.json` and `tokenizer_config.json`
//! that transformers would have beside the model.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::models::gguf::Gguf;
use crate::models::tokenizer::NAMED;

/// Types of tokens in the format.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How texts are cut before merges are applied, by the regular expressions in the published `tokenizer.json` files.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Names that llama.cpp gives to ways of cutting.
const LLAMA3_NAMES: [&str; 3] = ["llama-bpe", "llama3", "llama-v3"];
const QWEN2_NAMES: [&str; 2] = ["qwen2", "deepseek-r1-qwen"];
const DIGITS_NAMES: [&str; 4] = ["smollm", "starcoder", "refact", "command-r"];

/// A tokenizer as the files of a model folder.
pub(super) struct TokenizerFiles {
    /// `tokenizer.json`
    pub(super) tokenizer: Value,
    /// `tokenizer_config.json`, the chat template in it.
    pub(super) settings: Map<String, Value>,
    /// A warning about what the file leaves to a guess.
    pub(super) warning: Option<String>,
}

impl TokenizerFiles {
    /// Reads the metadata of `gguf`.
    ///
    /// # Errors
    /// No vocabulary, another kind of one than byte-level BPE, a way of cutting that is not known, or ids without tokens.
    pub(super) fn read(gguf: &Gguf) -> Result<Self> {
        let source = Source { gguf };
        let model = gguf.text("tokenizer.ggml.model").unwrap_or_default();
        if model != "gpt2" {
            let message = if model.is_empty() {
                "has no tokenizer in it".to_owned()
            } else {
                format!("has a tokenizer of kind `{model}`; preftune reads `gpt2` (byte-level BPE)")
            };
            return Err(source.refuse(message));
        }
        let tokens = source.texts("tokens")?;
        let (settings, bos) = source.settings(&tokens)?;
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": source.added(&tokens),
            "normalizer": source.normalizer(),
            "pre_tokenizer": source.pre_tokenizer()?,
            "post_processor": bos.map(|(token, id)| beginning(&token, id)),
            "decoder": byte_level(true),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": source.is(&LLAMA3_NAMES) || source.is(&["tekken"]),
                "vocab": vocabulary(&tokens),
                "merges": source.merges()?,
            },
        });
        // llama.cpp warns in the same case, and guesses the same.
        let guessed = source.value("pre").is_none();
        let warning = guessed.then(|| {
            format!(
                "`{}` does not say how texts are cut before merging (`tokenizer.ggml.pre`), and is read by GPT-2's rules: \
                 tokens may be wrong; convert the model again with a current llama.cpp",
                gguf.path().display()
            )
        });
        Ok(Self {
            tokenizer,
            settings,
            warning,
        })
    }
}

/// Settings, and the token that is put before every text with its id.
type Settings = (Map<String, Value>, Option<(String, u64)>);

struct Source<'g> {
    gguf: &'g Gguf,
}

impl Source<'_> {
    fn refuse(&self, message: String) -> Error {
        Error::weights(self.gguf.path(), message).with_hint(
            "take the model's folder in Hugging Face layout, whose `tokenizer.json` says everything",
        )
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.gguf.metadata().get(&format!("tokenizer.ggml.{key}"))
    }

    fn cutting(&self) -> &str {
        let named = self.value("pre").and_then(Value::as_str);
        named.unwrap_or("gpt-2")
    }

    fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.cutting())
    }

    fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let list = self.value(key).and_then(Value::as_array);
        let texts = list.and_then(|list| list.iter().map(Value::as_str).collect());
        texts.ok_or_else(|| self.refuse(format!("lacks a list of texts `tokenizer.ggml.{key}`")))
    }

    /// Pairs of tokens that become one, first the most frequent.
    fn merges(&self) -> Result<Vec<[&str; 2]>> {
        let pairs = self.texts("merges")?.into_iter().map(|merge| {
            let (left, right) = merge.split_once(' ').ok_or_else(|| {
                self.refuse(format!("has a merge `{merge}` that is not of two tokens"))
            })?;
            Ok([left, right])
        });
        pairs.collect()
    }

    /// Tokens that are cut out of a text before anything else.
    fn added(&self, tokens: &[&str]) -> Vec<Value> {
        let kinds = self.value("token_type").and_then(Value::as_array);
        let kinds = kinds.map(Vec::as_slice).unwrap_or_default();
        let marked = tokens.iter().zip(kinds).enumerate();
        let added = marked.filter_map(|(id, (content, kind))| {
            let special = match kind.as_i64()? {
                CONTROL => true,
                USER_DEFINED => false,
                _ => return None,
            };
            Some(json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            }))
        });
        added.collect()
    }

    fn normalizer(&self) -> Value {
        if self.is(&QWEN2_NAMES) {
            json!({"type": "NFC"})
        } else {
            Value::Null
        }
    }

    fn pre_tokenizer(&self) -> Result<Value> {
        let split = |pattern: &str| {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
                byte_level(false),
            ]})
        };
        let digits = || {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true}, byte_level(true),
            ]})
        };
        match self.cutting() {
            "gpt-2" => Ok(byte_level(true)),
            "tekken" => Ok(split(TEKKEN)),
            _ if self.is(&LLAMA3_NAMES) => Ok(split(LLAMA3)),
            _ if self.is(&QWEN2_NAMES) => Ok(split(QWEN2)),
            _ if self.is(&DIGITS_NAMES) => Ok(digits()),
            other => Err(self.refuse(format!(
                "cuts texts by `{other}`, which preftune does not know"
            ))),
        }
    }

    fn settings(&self, tokens: &[&str]) -> Result<Settings> {
        let mut settings = Map::new();
        settings.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        settings.insert("clean_up_tokenization_spaces".into(), false.into());
        let mut bos = None;
        for name in NAMED {
            let key = match name {
                "unk_token" => "unknown_token_id".to_owned(),
                "sep_token" => "seperator_token_id".to_owned(), // as the format spells it
                "pad_token" => "padding_token_id".to_owned(),
                _ => format!("{name}_id"),
            };
            let Some(id) = self.value(&key).and_then(Value::as_u64) else {
                continue;
            };
            let token = tokens.get(id as usize).ok_or_else(|| {
                self.refuse(format!(
                    "names token {id} as `{key}` and has {} tokens",
                    tokens.len()
                ))
            })?;
            settings.insert(name.to_owned(), (*token).into());
            if name == "bos_token" {
                bos = Some(((*token).to_owned(), id));
            }
        }
        // Where the file does not say, llama.cpp goes by the way of cutting.
        let asked = self.value("add_bos_token").and_then(Value::as_bool);
        let begins = asked.unwrap_or_else(|| self.is(&LLAMA3_NAMES));
        if let Some(template) = self.gguf.text("tokenizer.chat_template") {
            settings.insert("chat_template".to_owned(), template.into());
        }
        Ok((settings, bos.filter(|_| begins)))
    }
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

/// Puts a token before every text.
fn beginning(token: &str, id: u64) -> Value {
    let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |name: &str, part: u64| json!({"Sequence": {"id": name, "type_id": part}});
    json!({
        "type": "TemplateProcessing",
        "single": [special, text("A", 0)],
        "pair": [special, text("A", 0), special, text("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    })
}

fn vocabulary(tokens: &[&str]) -> Map<String, Value> {
    let numbered = tokens.iter().enumerate();
    numbered
        .map(|(id, token)| ((*token).to_owned(), id.into()))
        .collect()
}
