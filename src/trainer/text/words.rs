//! Prompts in words as models are asked and trained: one rule for all that sample, learn and judge.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use crate::config::ChatForm;
use crate::data::text::Text;
use crate::error::Result;
use crate::models::lm::LmConfig;
use crate::models::lm::tokenizer::TextTokenizer;
use crate::models::lm::words::{Words, message};

/// The tokenizer of a model's folder, which takes words as a configuration says.
///
/// # Errors
/// Files are missing or broken.
pub fn open_tokenizer(base: &Path, chat: Option<ChatForm>) -> Result<TextTokenizer> {
    let tokenizer = TextTokenizer::open(base, LmConfig::open(base)?.vocab_size)?;
    Ok(tokenizer.with_words(ChatForm::raw(chat)))
}

/// A prompt as the model reads it: words become a message of the user where they go through the chat template.
pub fn as_asked<'a>(tokenizer: &TextTokenizer, prompt: &'a Text) -> Cow<'a, Text> {
    match prompt {
        Text::Plain(words) if tokenizer.words(words) == Words::Template => {
            Cow::Owned(Text::Chat(vec![message("user", words)]))
        }
        prompt => Cow::Borrowed(prompt),
    }
}

/// How many prompts in words are put to a model in which way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forms(BTreeMap<Words, usize>);

impl Forms {
    /// Counts a prompt, which counts where it is in words.
    pub fn add(&mut self, tokenizer: &TextTokenizer, prompt: &Text) {
        if let Text::Plain(words) = prompt {
            *self.0.entry(tokenizer.words(words)).or_default() += 1;
        }
    }

    /// The counts of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        for (words, count) in &other.0 {
            *sum.0.entry(*words).or_default() += count;
        }
        sum
    }

    /// The prompts in words of each kind, by its name.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let name = |words: Words| match words {
            Words::Template => "template",
            Words::Raw => "raw",
            Words::Rendered => "rendered",
            Words::NoPrompt => "no_prompt",
            Words::NoTemplate => "no_template",
        };
        self.0
            .iter()
            .map(|(words, count)| (name(*words), *count))
            .collect()
    }

    /// A sentence for each way that there is.
    pub fn in_words(&self) -> Vec<String> {
        let sentence = |(words, count): (&Words, &usize)| {
            let (what, rest) = match words {
                Words::Template => (
                    "prompts in words",
                    "go through the model's chat template with their answers, as messages of the user and the assistant; \
                     `data.chat = \"raw\"` leaves them as they are",
                ),
                Words::Raw => (
                    "prompts in words",
                    "stay as they are, without the model's chat template; `data.chat = \"template\"` puts them through it",
                ),
                Words::Rendered => (
                    "prompts in words",
                    "stay as they are, because they have the marks of the model's chat template already",
                ),
                Words::NoPrompt => (
                    "texts without a prompt",
                    "stay as they are, without the model's chat template",
                ),
                Words::NoTemplate => (
                    "prompts in words",
                    "stay as they are: the model has no chat template",
                ),
            };
            format!("{count} {what} {rest}")
        };
        self.0.iter().map(sentence).collect()
    }
}
