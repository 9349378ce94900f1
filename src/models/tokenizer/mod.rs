//! Text to token ids as transformers' tokenizers do it: `tokenizer.json`, CLIP's `vocab.json` + `merges.txt`, or
//! BERT's `vocab.txt`; special tokens, padding and length from the files beside them. Prompts that lose their end
//! are reported as values, never printed.

mod cleaning;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tch::Tensor;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{BertNormalizer, Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{
    AddedToken, Encoding, ModelWrapper, PaddingDirection, PaddingParams, PaddingStrategy,
    PostProcessor, SplitDelimiterBehavior, TruncationDirection, TruncationParams,
};

use super::json;
use super::recognize::refuse_stand_in;
use super::single_file;
use crate::error::{Error, Result};

/// Tokens that a configuration names one by one, in the order in which transformers adds them.
pub(super) const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Splits text for CLIP: special tokens, English contractions, runs of letters, single digits, runs of the rest.
const CLIP_PIECES: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Turns prompts into rows of token ids, all of one length.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    folder: PathBuf,
    length: usize,
    vocab_size: i64,
    /// The token that stands for words that the vocabulary lacks.
    unknown: Option<u32>,
}

/// Token ids of a list of texts.
pub struct Encoded {
    /// Ids, i64 `[n, t]` on the CPU, begin and end tokens and padding included.
    pub ids: Tensor,
    /// True where an id is not padding, bool `[n, t]` on the CPU.
    pub mask: Tensor,
    /// Columns up to the last one in which a text has a token; at least 1.
    pub longest: i64,
    /// The texts that were too long.
    pub truncated: Vec<Truncated>,
    /// Words that the vocabulary lacks, each once a text, with the index of their text, from 0.
    pub unknown: Vec<(usize, String)>,
}

/// A text whose end was cut off because the encoder reads no more tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// Which of the texts, from 0.
    pub index: usize,
    /// How many tokens the encoder reads, begin and end tokens included.
    pub length: usize,
    /// The part that the encoder does not see.
    pub lost: String,
}

impl fmt::Display for Truncated {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(
            formatter,
            "the text encoder reads {} tokens; of prompt {} it does not see the end: `{}`",
            self.length,
            self.index + 1,
            self.lost
        )
    }
}

impl Tokenizer {
    /// Opens a tokenizer folder for a model with `positions` positions and `vocab_size` token vectors.
    ///
    /// Rows get the length `model_max_length` of `tokenizer_config.json`, at most `positions`.
    ///
    /// # Errors
    /// No tokenizer files, broken ones, or no padding token.
    pub fn open(folder: &Path, positions: i64, vocab_size: i64) -> Result<Self> {
        let (inner, settings) = load(folder)?;
        Self::with(folder, (inner, settings), positions, vocab_size)
    }

    /// CLIP's tokenizer with the vocabulary that is bundled with the program, for a model in `folder` that comes without
    /// one.
    ///
    /// # Errors
    /// The model has fewer positions than begin and end take.
    pub fn clip(folder: &Path, positions: i64, vocab_size: i64) -> Result<Self> {
        let mut settings = Map::new();
        let inner = clip(folder, &mut settings, true)?;
        Self::with(folder, (inner, settings), positions, vocab_size)
    }

    fn with(
        folder: &Path,
        (inner, settings): (tokenizers::Tokenizer, Map<String, Value>),
        positions: i64,
        vocab_size: i64,
    ) -> Result<Self> {
        let config_path = folder.join("tokenizer_config.json");
        let longest = settings
            .get("model_max_length")
            .or_else(|| settings.get("max_len"))
            .and_then(Value::as_f64)
            .unwrap_or(f64::INFINITY);
        let length = longest.min(positions as f64) as usize;
        let added = inner
            .get_post_processor()
            .map_or(0, |processor| processor.added_tokens(false));
        if length <= added {
            return Err(Error::weights(
                &config_path,
                format!("room for {length} tokens, of which {added} are begin and end tokens"),
            ));
        }
        let unknown = unknown_token(&inner, &settings);
        let unknown = unknown.and_then(|token| inner.token_to_id(&token));
        let mut tokenizer = Self {
            inner,
            folder: folder.to_owned(),
            length,
            vocab_size,
            unknown,
        };
        tokenizer.set_padding_and_truncation(&settings)?;
        Ok(tokenizer)
    }

    fn set_padding_and_truncation(&mut self, settings: &Map<String, Value>) -> Result<()> {
        let from_file = self.inner.get_padding().map(|file| file.pad_token.clone());
        let pad_token = settings
            .get("pad_token")
            .map(|value| content(value).to_owned())
            .or(from_file)
            .ok_or_else(|| Error::weights(&self.folder, "the tokenizer has no `pad_token`"))?;
        let pad_id = self.inner.token_to_id(&pad_token).ok_or_else(|| {
            let message = format!("the padding token `{pad_token}` is not in the vocabulary");
            Error::weights(&self.folder, message)
        })?;
        let is_left = |key| settings.get(key).and_then(Value::as_str) == Some("left");
        self.inner.with_padding(Some(PaddingParams {
            strategy: PaddingStrategy::Fixed(self.length),
            direction: if is_left("padding_side") {
                PaddingDirection::Left
            } else {
                PaddingDirection::Right
            },
            pad_to_multiple_of: None,
            pad_id,
            pad_type_id: 0,
            pad_token,
        }));
        let truncation = TruncationParams {
            max_length: self.length,
            direction: if is_left("truncation_side") {
                TruncationDirection::Left
            } else {
                TruncationDirection::Right
            },
            ..TruncationParams::default()
        };
        self.inner
            .with_truncation(Some(truncation))
            .map_err(|error| Error::weights(&self.folder, error.to_string()))?;
        Ok(())
    }

    /// Tokens in a row of ids.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Id of a token, where the vocabulary has it.
    pub fn id(&self, token: &str) -> Option<i64> {
        self.inner.token_to_id(token).map(i64::from)
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Encodes texts, each to a row of [`Self::length`] ids.
    ///
    /// # Errors
    /// A token has an id for which the model has no vector (the tokenizer is not this model's).
    pub fn encode(&self, texts: &[String]) -> Result<Encoded> {
        let inputs: Vec<&str> = texts.iter().map(String::as_str).collect();
        let encodings = guarded(&self.folder, "cannot encode", || {
            self.inner.encode_batch(inputs, true)
        })?;
        let mut ids = Vec::with_capacity(texts.len() * self.length);
        let mut mask = Vec::with_capacity(texts.len() * self.length);
        let mut longest = 1;
        let (mut truncated, mut unknown) = (Vec::new(), Vec::new());
        for (index, (encoding, text)) in encodings.iter().zip(texts).enumerate() {
            for word in self.unknown_words(encoding, text) {
                if !unknown.contains(&(index, word.to_owned())) {
                    unknown.push((index, word.to_owned()));
                }
            }
            ids.extend(encoding.get_ids().iter().map(|&id| i64::from(id)));
            mask.extend(encoding.get_attention_mask().iter().map(|&one| one == 1));
            let last = encoding
                .get_attention_mask()
                .iter()
                .rposition(|&one| one == 1);
            longest = longest.max(last.map_or(0, |last| last as i64 + 1));
            if let Some(lost) = lost_part(encoding, text) {
                truncated.push(Truncated {
                    index,
                    length: self.length,
                    lost: lost.to_owned(),
                });
            }
        }
        if let Some(&id) = ids.iter().find(|&&id| id >= self.vocab_size) {
            let token = self.inner.id_to_token(id as u32).unwrap_or_default();
            return Err(Error::weights(
                &self.folder,
                format!(
                    "token `{token}` has id {id}, but the model has vectors for {} tokens only",
                    self.vocab_size
                ),
            )
            .with_hint("take the tokenizer that belongs to this text encoder"));
        }
        let shape = [texts.len() as i64, self.length as i64];
        Ok(Encoded {
            ids: Tensor::from_slice(&ids).view(shape),   // [n, t]
            mask: Tensor::from_slice(&mask).view(shape), // [n, t]
            longest,
            truncated,
            unknown,
        })
    }

    /// The parts of `text` that became the unknown token.
    fn unknown_words<'t>(&self, encoding: &Encoding, text: &'t str) -> Vec<&'t str> {
        let Some(unknown) = self.unknown else {
            return Vec::new();
        };
        let places = encoding.get_offsets().iter();
        let special = encoding.get_special_tokens_mask();
        let tokens = encoding.get_ids().iter().zip(special).zip(places);
        tokens
            .filter(|((id, special), _)| **id == unknown && **special == 0)
            .filter_map(|(_, &(from, to))| text.get(from..to))
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .collect()
    }
}

/// The token for words that a vocabulary lacks; none of models that take any word apart into bytes they know.
fn unknown_token(
    tokenizer: &tokenizers::Tokenizer,
    settings: &Map<String, Value>,
) -> Option<String> {
    match tokenizer.get_model() {
        ModelWrapper::WordLevel(model) => Some(model.unk_token.clone()),
        ModelWrapper::WordPiece(model) => Some(model.unk_token.clone()),
        ModelWrapper::BPE(model) => model.unk_token.clone(),
        ModelWrapper::Unigram(_) => {
            let named = settings.get("unk_token").map(content)?;
            Some(named.to_owned())
        }
    }
}

/// The tokenizer of a folder, without padding and truncation of ours, and its settings.
pub(super) fn load(folder: &Path) -> Result<(tokenizers::Tokenizer, Map<String, Value>)> {
    let mut settings = json::read_object_if_there(&folder.join("tokenizer_config.json"))?;
    if !settings.contains_key("added_tokens_decoder") {
        // Folders from before 2023 keep the special tokens in a file of their own, which has the last word.
        settings.extend(json::read_object_if_there(
            &folder.join("special_tokens_map.json"),
        )?);
        let added = json::read_object_if_there(&folder.join("added_tokens.json"))?;
        if !added.is_empty() {
            let decoder = added_by_id(&added, &settings).into();
            settings.insert("added_tokens_decoder".to_owned(), decoder);
        }
    }
    let mut inner = if folder.join("tokenizer.json").exists() {
        let path = folder.join("tokenizer.json");
        refuse_stand_in(&path)?;
        guarded(&path, "not a tokenizer", || {
            tokenizers::Tokenizer::from_file(&path)
        })?
    } else if folder.join("vocab.json").exists() || !folder.exists() && !settings.is_empty() {
        // That of a model in one file, whose settings were found, is bundled.
        clip(folder, &mut settings, !folder.exists())?
    } else if folder.join("vocab.txt").exists() {
        bert(folder, &mut settings)?
    } else {
        return Err(Error::weights(
            folder,
            "no `tokenizer.json`, `vocab.json` with `merges.txt`, or `vocab.txt` in it",
        ));
    };
    guarded(folder, "not a tokenizer", || {
        Ok(inner.add_special_tokens(&special_tokens(&settings)))
    })?;
    Ok((inner, settings))
}

/// The tokens of `added_tokens.json` (learned words of a textual inversion, for instance) in the form of today's
/// `added_tokens_decoder`. As transformers has it, those that the settings name are special and the others are looked
/// for in the normalised text.
fn added_by_id(added: &Map<String, Value>, settings: &Map<String, Value>) -> Map<String, Value> {
    let named = |token: &str| {
        let mut named = NAMED.iter().filter_map(|&key| settings.get(key));
        named.any(|value| content(value) == token)
    };
    let entry = |(token, id): (&String, &Value)| {
        let special = named(token);
        let token =
            serde_json::json!({"content": token, "special": special, "normalized": !special});
        (id.to_string(), token)
    };
    added.iter().map(entry).collect()
}

/// The result of `work` in the crate `tokenizers`. It panics over some files that it reads without complaint (a pattern
/// that matches nothing, a character map cut short): that is the file's fault too, and the error names it.
pub(super) fn guarded<T>(
    path: &Path,
    what: &str,
    work: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T> {
    let refused = |reason: &str| Error::weights(path, format!("{what}: {reason}"));
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(refused(&error.to_string())),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            let reason = text.and_then(|text| text.lines().next());
            Err(refused(reason.unwrap_or("the tokenizer fails"))
                .with_hint("the rules in `tokenizer.json` are damaged or cannot be followed; fetch the file again"))
        }
    }
}

/// The part of `text` that truncation took away.
fn lost_part<'t>(encoding: &Encoding, text: &'t str) -> Option<&'t str> {
    let overflow = encoding.get_overflowing();
    let (mut begin, mut end) = (usize::MAX, 0);
    for piece in overflow {
        for (&(from, to), &special) in piece
            .get_offsets()
            .iter()
            .zip(piece.get_special_tokens_mask())
        {
            if special == 0 {
                begin = begin.min(from);
                end = end.max(to);
            }
        }
    }
    if overflow.is_empty() {
        None
    } else {
        Some(text.get(begin..end).unwrap_or_default().trim())
    }
}

/// `true` if files of a tokenizer lie in a folder.
pub(super) fn is_in(folder: &Path) -> bool {
    ["tokenizer.json", "vocab.json", "vocab.txt"]
        .iter()
        .any(|name| folder.join(name).exists())
}

/// CLIP's byte-level BPE, as transformers' `CLIPTokenizer` sets it up; its vocabulary is that of the folder, or the one that
/// is bundled with the program.
fn clip(
    folder: &Path,
    settings: &mut Map<String, Value>,
    bundled: bool,
) -> Result<tokenizers::Tokenizer> {
    let end = "<|endoftext|>";
    for (key, token) in [
        ("bos_token", "<|startoftext|>"),
        ("eos_token", end),
        ("unk_token", end),
        ("pad_token", end),
    ] {
        settings.entry(key).or_insert_with(|| token.into());
    }
    let broken = |error: tokenizers::Error| Error::weights(folder, format!("not BPE: {error}"));
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    let builder = if bundled {
        let (vocab, merges) = single_file::vocabulary();
        BPE::builder().vocab_and_merges(vocab, merges)
    } else if merges.exists() {
        BPE::from_file(&path_text(&vocab)?, &path_text(&merges)?)
    } else {
        return Err(Error::weights(folder, "`vocab.json` without `merges.txt`"));
    };
    let model = builder
        .unk_token(content(&settings["unk_token"]).to_owned())
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix("</w>".to_owned())
        .build()
        .map_err(broken)?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ").map_err(broken)?;
    tokenizer.with_normalizer(Some(Normalizers::new(vec![
        NFC.into(),
        spaces.into(),
        Lowercase.into(),
    ])));
    let pieces = Split::new(
        SplitPattern::Regex(CLIP_PIECES.to_owned()),
        SplitDelimiterBehavior::Removed,
        true,
    )
    .map_err(broken)?;
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![
        pieces.into(),
        ByteLevel::new(false, true, true).into(),
    ])));
    tokenizer.add_special_tokens(&special_tokens(settings));
    let processor = RobertaProcessing::new(
        named(&tokenizer, settings, "eos_token"),
        named(&tokenizer, settings, "bos_token"),
    );
    tokenizer.with_post_processor(Some(processor.trim_offsets(false).add_prefix_space(false)));
    Ok(tokenizer)
}

/// BERT's WordPiece, as transformers' `BertTokenizer` sets it up.
fn bert(folder: &Path, settings: &mut Map<String, Value>) -> Result<tokenizers::Tokenizer> {
    for (key, token) in [
        ("unk_token", "[UNK]"),
        ("sep_token", "[SEP]"),
        ("pad_token", "[PAD]"),
        ("cls_token", "[CLS]"),
        ("mask_token", "[MASK]"),
    ] {
        settings.entry(key).or_insert_with(|| token.into());
    }
    let vocab = folder.join("vocab.txt");
    let model = WordPiece::from_file(&path_text(&vocab)?)
        .unk_token(content(&settings["unk_token"]).to_owned())
        .build()
        .map_err(|error| Error::weights(&vocab, format!("not a WordPiece list: {error}")))?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let flag = |key: &str| settings.get(key).and_then(Value::as_bool);
    tokenizer.with_normalizer(Some(BertNormalizer::new(
        true,
        flag("tokenize_chinese_chars").unwrap_or(true),
        flag("strip_accents"),
        flag("do_lower_case").unwrap_or(true),
    )));
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.add_special_tokens(&special_tokens(settings));
    let processor = BertProcessing::new(
        named(&tokenizer, settings, "sep_token"),
        named(&tokenizer, settings, "cls_token"),
    );
    tokenizer.with_post_processor(Some(processor));
    Ok(tokenizer)
}

/// A special token with its id.
fn named(
    tokenizer: &tokenizers::Tokenizer,
    settings: &Map<String, Value>,
    key: &str,
) -> (String, u32) {
    let token = content(&settings[key]).to_owned();
    let id = tokenizer.token_to_id(&token).unwrap_or_default();
    (token, id)
}

fn path_text(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Error::weights(path, "the path is not valid UTF-8")),
    }
}

/// A token given as a string or as an object with its `content`.
pub(super) fn content(value: &Value) -> &str {
    value
        .as_str()
        .or_else(|| value.get("content").and_then(Value::as_str))
        .unwrap_or_default()
}

/// The special tokens of the configuration. They are cut out of the text before anything else, so that SD 2.x,
/// whose padding token is `!`, reads an exclamation mark as padding; transformers does the same.
fn special_tokens(settings: &Map<String, Value>) -> Vec<AddedToken> {
    let listed = settings
        .get("added_tokens_decoder")
        .and_then(Value::as_object);
    let mut by_id: Vec<(u64, &Value)> = listed
        .into_iter()
        .flatten()
        .filter_map(|(id, token)| Some((id.parse().ok()?, token)))
        .collect();
    by_id.sort_by_key(|&(id, _)| id);
    let more = ["additional_special_tokens", "extra_special_tokens"]
        .into_iter()
        .filter_map(|key| settings.get(key).and_then(Value::as_array))
        .flatten();
    let mut tokens: Vec<AddedToken> = Vec::new();
    let values = by_id
        .into_iter()
        .map(|(_, token)| token)
        .chain(NAMED.iter().filter_map(|&key| settings.get(key)))
        .chain(more);
    for value in values {
        let token = added_token(value);
        if !token.content.is_empty() && tokens.iter().all(|known| known.content != token.content) {
            tokens.push(token);
        }
    }
    tokens
}

fn added_token(value: &Value) -> AddedToken {
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(true);
    AddedToken::from(content(value), special)
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .single_word(flag("single_word").unwrap_or(false))
        .normalized(flag("normalized").unwrap_or(!special))
}
