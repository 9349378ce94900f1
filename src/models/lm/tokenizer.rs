//! Text of a language model to token ids and back: no padding, no truncation; prompts with their answers, in words or as
//! chats, with the place where the answer begins.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::chat::ChatTemplate;
use super::gguf;
use crate::error::{Error, Result};
use crate::models::tokenizer::{content, load};

/// The tokenizer of a language model with its chat template.
pub struct TextTokenizer {
    inner: tokenizers::Tokenizer,
    folder: PathBuf,
    vocab_size: i64,
    eos: Option<(String, i64)>,
    pad: Option<i64>,
    template: Option<ChatTemplate>,
}

/// A prompt with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids of both.
    pub ids: Vec<i64>,
    /// Where the answer begins: ids before it are not scored.
    pub prompt: usize,
}

impl TextTokenizer {
    /// Opens the tokenizer of a model folder or a GGUF file whose model has `vocab_size` token vectors.
    ///
    /// # Errors
    /// No tokenizer files, broken ones, a chat template that is not valid.
    pub fn open(folder: &Path, vocab_size: i64) -> Result<Self> {
        let refused = |error: tokenizers::Error| Error::weights(folder, error.to_string());
        let (mut inner, settings, template) = if gguf::is_gguf(folder) {
            let files = gguf::tokenizer(folder)?;
            let inner = files.tokenizer.to_string().parse();
            let template = ChatTemplate::of(folder, &files.settings)?;
            (inner.map_err(refused)?, files.settings, template)
        } else {
            // Beside `vocab.json` alone, the rules of splitting are in the code of each model's class.
            if !folder.join("tokenizer.json").exists() {
                return Err(Error::weights(folder, "no `tokenizer.json` in it").with_hint(
                    "load and save the tokenizer with a current version of transformers, which writes it",
                ));
            }
            let (inner, settings) = load(folder)?;
            (inner, settings, ChatTemplate::open(folder)?)
        };
        inner.with_padding(None);
        inner.with_truncation(None).map_err(refused)?;
        let special = |name: &str| {
            let token = content(settings.get(name)?).to_owned();
            let id = inner.token_to_id(&token)?;
            Some((token, i64::from(id)))
        };
        let (eos, pad) = (special("eos_token"), special("pad_token"));
        Ok(Self {
            template,
            inner,
            folder: folder.to_owned(),
            vocab_size,
            eos,
            pad: pad.map(|(_, id)| id),
        })
    }

    /// The chat template, where the model has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Id of the token that ends a text.
    pub fn eos(&self) -> Option<i64> {
        self.eos.as_ref().map(|(_, id)| *id)
    }

    /// Id of the token that fills batches up.
    pub fn pad(&self) -> Option<i64> {
        self.pad
    }

    /// Token ids of a text, with the tokens that the tokenizer puts around every text where `special`.
    ///
    /// # Errors
    /// A token has an id for which the model has no vector.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<i64>> {
        let encoding = self.inner.encode(text, special);
        let encoding = encoding
            .map_err(|error| Error::weights(&self.folder, format!("cannot encode: {error}")))?;
        let ids: Vec<i64> = encoding.get_ids().iter().map(|&id| i64::from(id)).collect();
        match ids.iter().find(|&&id| id >= self.vocab_size) {
            None => Ok(ids),
            Some(id) => Err(Error::weights(
                &self.folder,
                format!(
                    "a token has id {id}, but the model has {} token vectors",
                    self.vocab_size
                ),
            )
            .with_hint("take the tokenizer that belongs to the model")),
        }
    }

    /// The text of token ids, special tokens written out or left out.
    ///
    /// # Errors
    /// An id that the tokenizer does not know.
    pub fn decode(&self, ids: &[i64], skip_special: bool) -> Result<String> {
        let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
        self.inner
            .decode(&ids, skip_special)
            .map_err(|error| Error::weights(&self.folder, format!("cannot decode: {error}")))
    }

    /// The token of an id as it is written in the vocabulary.
    pub fn token(&self, id: i64) -> Option<String> {
        self.inner.id_to_token(id as u32)
    }

    /// A prompt in words, ready to be continued: with the token that begins a text, without one that ends it.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn prompt(&self, text: &str) -> Result<Vec<i64>> {
        let mut ids = self.encode(text, true)?;
        if ids.last().copied() == self.eos() && !self.ends_with_eos(text) {
            ids.pop();
        }
        Ok(ids)
    }

    /// Whether there is a chat template.
    pub fn chats(&self) -> bool {
        self.template.is_some()
    }

    /// Messages, ready for the answer; the chat template is given `variables` too.
    ///
    /// # Errors
    /// There is no chat template, or it refuses the messages.
    pub fn chat_prompt(
        &self,
        messages: &[Value],
        variables: &Map<String, Value>,
    ) -> Result<Vec<i64>> {
        self.encode(&self.render(messages, variables, true)?, false)
    }

    /// A prompt and an answer in words, followed by the token that ends a text, once.
    ///
    /// The two are encoded together, as the model will see them. Where tokens reach over the border, the answer begins
    /// with the first token that the prompt alone has not.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn answered(&self, prompt: &str, answer: &str) -> Result<Sequence> {
        let text = format!("{prompt}{answer}");
        let mut ids = self.encode(&text, true)?;
        if let Some(eos) = self.eos()
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
        let prompt = self.prompt(prompt)?;
        Ok(Sequence {
            prompt: common(&prompt, &ids),
            ids,
        })
    }

    /// A prompt and an answer in token ids, to which nothing is added.
    ///
    /// # Errors
    /// The model has no vector for an id.
    pub fn answered_ids(&self, prompt: &[i64], answer: &[i64]) -> Result<Sequence> {
        let ids = [prompt, answer].concat();
        let known = 0..self.vocab_size;
        if let Some(id) = ids.iter().find(|id| !known.contains(id)) {
            let problem = format!("there is no token {id}: the model has {}", self.vocab_size);
            return Err(Error::data(&self.folder, problem));
        }
        Ok(Sequence {
            ids,
            prompt: prompt.len(),
        })
    }

    /// Messages and answering messages through the chat template, which brings all special tokens and is given
    /// `variables` too.
    ///
    /// # Errors
    /// There is no chat template, or it refuses the messages.
    pub fn answered_chat(
        &self,
        prompt: &[Value],
        answer: &[Value],
        variables: &Map<String, Value>,
    ) -> Result<Sequence> {
        let whole = self.render(&[prompt, answer].concat(), variables, false)?;
        // After an unfinished answer there is nothing to open.
        let opens = prompt
            .last()
            .is_none_or(|message| message["role"] != "assistant");
        let before = if prompt.is_empty() {
            String::new()
        } else {
            self.render(prompt, variables, opens)?
        };
        let same = before
            .chars()
            .zip(whole.chars())
            .take_while(|(one, other)| one == other);
        let before: String = same.map(|(letter, _)| letter).collect();
        let ids = self.encode(&whole, false)?;
        Ok(Sequence {
            prompt: common(&self.encode(&before, false)?, &ids),
            ids,
        })
    }

    fn render(
        &self,
        messages: &[Value],
        variables: &Map<String, Value>,
        add_generation_prompt: bool,
    ) -> Result<String> {
        match &self.template {
            Some(template) => template.render(messages, variables, add_generation_prompt),
            None => Err(Error::weights(&self.folder, "the model has no chat template, and the data are chats")
                .with_hint("put `chat_template.jinja` into the model's folder, or give prompts and answers in words")),
        }
    }

    fn ends_with_eos(&self, text: &str) -> bool {
        self.eos
            .as_ref()
            .is_some_and(|(token, _)| text.ends_with(token.as_str()))
    }
}

/// How many ids two lists have in common at the beginning.
fn common(one: &[i64], other: &[i64]) -> usize {
    let pairs = one.iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}
