//! Text of a language model to token ids and back: no padding, no truncation; prompts with their answers, in words or as
//! chats, with the place where the answer begins.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::chat::ChatTemplate;
use super::words::{self, Words};
use super::{LmConfig, Longest, gguf};
use crate::error::{Error, Result};
use crate::models::json::{read_object_as_written, read_object_if_there};
use crate::models::tokenizer::{content, guarded, load};

/// The least length of an answer's opening that marks a text as rendered: a shorter one (`A:`) is found in words that
/// no template has seen.
const SHORTEST_MARK: usize = 5;

/// The tokenizer of a language model with its chat template.
pub struct TextTokenizer {
    inner: tokenizers::Tokenizer,
    folder: PathBuf,
    vocab_size: i64,
    bos: Option<(String, i64)>,
    eos: Option<(String, i64)>,
    pad: Option<i64>,
    template: Option<ChatTemplate>,
    warnings: Vec<String>,
    /// The texts that the template writes before a user's message and between it and the answer.
    around: OnceLock<[String; 2]>,
    /// `true` if words stay as they are where they could go through the template.
    raw: bool,
    longest: Option<Longest>,
}

/// A prompt with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids of both.
    pub ids: Vec<i64>,
    /// Where the answer begins: ids before it are not scored.
    pub prompt: usize,
    /// The ranges that are not scored after it: turns of others between those of the assistant.
    pub skipped: Vec<Range<usize>>,
}

impl Sequence {
    /// The places of the ids that are scored; the first of all has nothing before it that could predict it.
    pub fn scored(&self) -> impl Iterator<Item = usize> {
        let is_skipped = |at: usize| self.skipped.iter().any(|range| range.contains(&at));
        (self.prompt.max(1)..self.ids.len()).filter(move |&at| !is_skipped(at))
    }
}

impl TextTokenizer {
    /// Opens the tokenizer of a model folder or a GGUF file whose model has `vocab_size` token vectors.
    ///
    /// # Errors
    /// No tokenizer files, broken ones, a chat template that is not valid.
    pub fn open(folder: &Path, vocab_size: i64) -> Result<Self> {
        let refused = |error: tokenizers::Error| Error::weights(folder, error.to_string());
        let mut warnings = Vec::new();
        let (mut inner, settings, template) = if gguf::is_gguf(folder) {
            let files = gguf::tokenizer(folder)?;
            let inner = guarded(folder, "its tokenizer cannot be built", || {
                files.tokenizer.to_string().parse()
            })?;
            let template = ChatTemplate::read(folder, &files.settings)?;
            warnings.extend(files.warning);
            (inner, files.settings, template)
        } else {
            // Beside `vocab.json` alone, the rules of splitting are in the code of each model's class.
            if !folder.join("tokenizer.json").exists() {
                return Err(Error::weights(folder, "no `tokenizer.json` in it").with_hint(
                    "load and save the tokenizer with a current version of transformers, which writes it",
                ));
            }
            let (inner, mut settings) = load(folder)?;
            add_ends(folder, &inner, &mut settings)?;
            let template = ChatTemplate::open(folder, &settings)?;
            (inner, settings, template)
        };
        inner.with_padding(None);
        inner.with_truncation(None).map_err(refused)?;
        let special = |name: &str| {
            let token = content(settings.get(name)?).to_owned();
            let id = inner.token_to_id(&token)?;
            Some((token, i64::from(id)))
        };
        let eos = special("eos_token");
        if eos.is_none() {
            warnings.push(format!(
                "`{}` names no token that ends a text (`eos_token`): answers are learnt without an end, and written to \
                 the longest length; name it in its `tokenizer_config.json`",
                folder.display()
            ));
        }
        Ok(Self {
            template,
            bos: special("bos_token"),
            eos,
            pad: special("pad_token").map(|(_, id)| id),
            inner,
            folder: folder.to_owned(),
            vocab_size,
            warnings,
            around: OnceLock::new(),
            raw: words::noted(folder).unwrap_or(false),
            // A tokenizer's own folder has no model beside it.
            longest: LmConfig::open(folder).ok().map(|config| config.longest()),
        })
    }

    /// Warnings about the tokenizer, to be read before numbers are believed, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
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

    /// `true` if the model of the folder was made for a text of so many tokens.
    ///
    /// # Errors
    /// As [`Longest::fits`].
    pub fn fits(&self, tokens: usize) -> Result<bool, String> {
        self.longest
            .map_or(Ok(true), |longest| longest.fits(tokens))
    }

    /// Token ids of a text, with the tokens that the tokenizer puts around every text where `special`.
    ///
    /// # Errors
    /// A token has an id for which the model has no vector; the tokenizer's rules fail on the text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<i64>> {
        let encoding = guarded(&self.folder, "cannot encode", || {
            self.inner.encode(text, special)
        })?;
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

    /// As [`Self::encode`] with special tokens. A text that was rendered beforehand begins with the token that begins a
    /// text, and gets no second one.
    fn encode_whole(&self, text: &str) -> Result<Vec<i64>> {
        let mut ids = self.encode(text, true)?;
        if let Some((token, bos)) = &self.bos
            && text.starts_with(token.as_str())
            && ids.starts_with(&[*bos, *bos])
        {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// The text of token ids, special tokens written out or left out.
    ///
    /// # Errors
    /// An id that the tokenizer does not know.
    pub fn decode(&self, ids: &[i64], skip_special: bool) -> Result<String> {
        let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
        guarded(&self.folder, "cannot decode", || {
            self.inner.decode(&ids, skip_special)
        })
    }

    /// The text of an answer's token ids after the prompt's, without special tokens. SentencePiece's decoders drop the
    /// space before the first word of a text, and an answer is not the first word.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_answer(&self, prompt: &[i64], answer: &[i64]) -> Result<String> {
        let alone = self.decode(answer, true)?;
        // What a decoder does at the border depends on the last few tokens; a byte of a character may be among them.
        let prompt = &prompt[prompt.len().saturating_sub(16)..];
        let before = self.decode(prompt, true)?;
        let both = self.decode(&[prompt, answer].concat(), true)?;
        match both.strip_prefix(before.as_str()) {
            Some(after) if after.trim_start() == alone.trim_start() => Ok(after.to_owned()),
            _ => Ok(alone),
        }
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
        let mut ids = self.encode_whole(text)?;
        if ids.last().copied() == self.eos() && !self.ends_with_eos(text) {
            ids.pop();
        }
        Ok(ids)
    }

    /// Takes words as they are or through the chat template, where that is asked for; else as the weights of the folder
    /// note it, and through the template where they do not.
    #[must_use]
    pub fn with_words(mut self, raw: Option<bool>) -> Self {
        self.set_words(raw);
        self
    }

    /// As [`Self::with_words`].
    pub fn set_words(&mut self, raw: Option<bool>) {
        self.raw = raw.unwrap_or(self.raw);
    }

    /// `true` if words stay as they are where they could go through the chat template.
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    /// `true` if words become messages for the chat template.
    pub fn chats(&self) -> bool {
        self.template.is_some() && !self.raw
    }

    /// The way in which a prompt in words and its answer are read.
    pub fn words(&self, prompt: &str) -> Words {
        if self.template.is_none() {
            Words::NoTemplate
        } else if prompt.trim().is_empty() {
            Words::NoPrompt
        } else if self.raw {
            Words::Raw
        } else if self.is_rendered(prompt) {
            Words::Rendered
        } else {
            Words::Template
        }
    }

    /// `true` if a text has the marks of the chat template already: it begins with a special token, or has what the
    /// template opens answers with.
    fn is_rendered(&self, text: &str) -> bool {
        let added = self.inner.get_added_tokens_decoder();
        let begun = |token: &tokenizers::AddedToken| {
            token.special && text.trim_start().starts_with(&token.content)
        };
        let opening = self.around()[1].trim();
        added.values().any(begun) || opening.len() >= SHORTEST_MARK && text.contains(opening)
    }

    fn around(&self) -> &[String; 2] {
        const WORDS: &str = "preftune's words";
        self.around.get_or_init(|| {
            let asked = [words::message("user", WORDS)];
            // A template that refuses a single message of the user has no such places.
            let text = self.render(&asked, &Map::new(), true).unwrap_or_default();
            let (before, after) = text.split_once(WORDS).unwrap_or_default();
            [before.to_owned(), after.to_owned()]
        })
    }

    /// The mark by which a text shows that another model's chat template has made it; `None` where there is none, or where
    /// this model has the same. Words that are a mark say nothing of a model that takes words as they are.
    pub fn foreign_mark(&self, text: &str) -> Option<&'static str> {
        let source = self.template.as_ref().map_or("", ChatTemplate::source);
        let is_own = |mark: &str| {
            source.contains(mark) || self.around().iter().any(|around| around.contains(mark))
        };
        let is_unknown =
            |mark: &str| mark.starts_with('<') && self.inner.token_to_id(mark).is_none();
        words::marks(text).find(|mark| !is_own(mark) && (self.chats() || is_unknown(mark)))
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
        let mut ids = self.encode_whole(&text)?;
        if let Some(eos) = self.eos()
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
        let prompt = self.prompt(prompt)?;
        Ok(Sequence {
            prompt: common(&prompt, &ids),
            ids,
            skipped: Vec::new(),
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
            skipped: Vec::new(),
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
            skipped: Vec::new(),
        })
    }

    /// As [`Self::answered_chat`] of an answer in which others take turns too: what the assistant says in each of its turns is
    /// scored, with what ends the turn, but for turns of `weight` 0.
    ///
    /// # Errors
    /// As [`Self::answered_chat`]; the template writes a turn of the assistant so that it cannot be found in the whole.
    pub fn answered_turns(
        &self,
        prompt: &[Value],
        answer: &[Value],
        variables: &Map<String, Value>,
    ) -> Result<Sequence> {
        let mut sequence = self.answered_chat(prompt, answer, variables)?;
        let all = [prompt, answer].concat();
        let whole = self.render(&all, variables, false)?;
        let (mut end, mut skipped) = (0, Vec::new());
        let is_scored =
            |&place: &usize| all[place]["role"] == "assistant" && all[place]["weight"] != 0;
        for place in (prompt.len()..all.len()).filter(is_scored) {
            let [from, to] = self.turn(&all, place, &whole, variables)?;
            let tokens = |bytes: usize| {
                let ids = self.encode(&whole[..bytes], false)?;
                Ok::<_, Error>(common(&ids, &sequence.ids))
            };
            let (from, to) = (tokens(from)?, tokens(to)?);
            if place > prompt.len() {
                skipped.push(end..from);
            }
            end = to;
        }
        if all.last().is_some_and(|last| last["weight"] == 0) {
            skipped.push(end..sequence.ids.len());
        }
        sequence.skipped = skipped;
        Ok(sequence)
    }

    /// Where in the text of a whole chat the turn of the assistant at `place` begins and ends, in bytes.
    fn turn(
        &self,
        all: &[Value],
        place: usize,
        whole: &str,
        variables: &Map<String, Value>,
    ) -> Result<[usize; 2]> {
        let alike = |text: &str| {
            let pairs = text.char_indices().zip(whole.chars());
            let same = pairs.take_while(|((_, one), other)| one == other);
            same.last()
                .map_or(0, |((at, letter), _)| at + letter.len_utf8())
        };
        let opened = self.render(&all[..place], variables, true)?;
        let closed = self.render(&all[..place], variables, false)?;
        let lost = || {
            let problem = format!(
                "the chat template writes turn {} of the assistant otherwise where more follows",
                all[..=place]
                    .iter()
                    .filter(|one| one["role"] == "assistant")
                    .count()
            );
            Error::data(&self.folder, problem).with_hint("set `data.train_on = \"last\"`")
        };
        let from = alike(&opened);
        if from < closed.trim_end().len() {
            return Err(lost());
        }
        let until = self.render(&all[..=place], variables, false)?;
        if whole.starts_with(&until) {
            return Ok([from, until.len()]);
        }
        // Some templates write the last turn otherwise than those before: what it says is looked for.
        let said = all[place]["content"].as_str().unwrap_or_default().trim();
        let found = whole[from..].find(said).filter(|_| !said.is_empty());
        let after = found.map(|at| from + at + said.len()).ok_or_else(lost)?;
        let end = self.eos.as_ref().map_or("", |(token, _)| token.as_str());
        if whole[after..].starts_with(end) {
            Ok([from, after + end.len()])
        } else {
            Err(lost())
        }
    }

    fn render(
        &self,
        messages: &[Value],
        variables: &Map<String, Value>,
        add_generation_prompt: bool,
    ) -> Result<String> {
        match &self.template {
            Some(template) if template.source().contains("tool_calls") => {
                template.render(messages, variables, add_generation_prompt)
            }
            // Such a template would leave calls out without a word.
            Some(template) => {
                let messages: Vec<Value> = messages.iter().map(calls_in_words).collect();
                template.render(&messages, variables, add_generation_prompt)
            }
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

/// A message whose calls of tools are part of what it says, as JSON, one a line.
fn calls_in_words(message: &Value) -> Value {
    let Some(calls) = message.get("tool_calls").and_then(Value::as_array) else {
        return message.clone();
    };
    let said = message["content"].as_str().filter(|said| !said.is_empty());
    let calls = calls
        .iter()
        .map(|call| call.get("function").unwrap_or(call).to_string());
    let lines: Vec<String> = said.map(str::to_owned).into_iter().chain(calls).collect();
    let mut message = message.clone();
    message["content"] = lines.join("\n").into();
    if let Some(fields) = message.as_object_mut() {
        fields.remove("tool_calls");
    }
    message
}

/// How many ids two lists have in common at the beginning.
fn common(one: &[i64], other: &[i64]) -> usize {
    let pairs = one.iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}

/// Fills in what a folder's tokenizer files do not say: the tokens that begin and end a text, by the numbers in the model's
/// `config.json` and `generation_config.json`. GPT-2's published files are so; transformers has its tokens in the class.
fn add_ends(
    folder: &Path,
    inner: &tokenizers::Tokenizer,
    settings: &mut Map<String, Value>,
) -> Result<()> {
    let written = folder.join("tokenizer_config.json");
    let written = if written.exists() {
        read_object_as_written(&written)?
    } else {
        Map::new()
    };
    let files = ["config.json", "generation_config.json"];
    let files = files.map(|name| read_object_if_there(&folder.join(name)));
    for (name, key) in [("eos_token", "eos_token_id"), ("bos_token", "bos_token_id")] {
        // A model may have no beginning, and says so by null.
        let denied = name == "bos_token" && written.contains_key(name);
        if settings.contains_key(name) || denied {
            continue;
        }
        let ids = files
            .iter()
            .flatten()
            .filter_map(|object| match object.get(key)? {
                Value::Array(several) => several.first()?.as_u64(),
                one => one.as_u64(),
            });
        let mut known = ids.filter_map(|id| inner.id_to_token(u32::try_from(id).ok()?));
        if let Some(token) = known.next() {
            settings.insert(name.to_owned(), token.into());
        }
    }
    Ok(())
}
