//! Prompts in words as models are asked and trained: one rule for all that sample, learn and judge.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use crate::config::ChatForm;
use crate::data::text::{Text, dialogue, instructed};
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

/// A prompt as the model reads it: words become a message of the user where they go through the chat template, after their
/// system message; else that stands before them, with an empty line between. A dialogue in plain text becomes the messages
/// of its turns.
pub fn as_asked<'a>(tokenizer: &TextTokenizer, prompt: &'a Text) -> Cow<'a, Text> {
    match prompt {
        Text::Plain(words) if tokenizer.words(words) == Words::Template => {
            let turns = dialogue(words).unwrap_or_else(|| vec![message("user", words)]);
            Cow::Owned(Text::Chat(turns))
        }
        Text::Instructed { system, words } => Cow::Owned(match tokenizer.words(words) {
            Words::Template => {
                let mut messages = instructed(system, words);
                if let Some(turns) = dialogue(words) {
                    messages.splice(1.., turns);
                }
                Text::Chat(messages)
            }
            _ => Text::Plain(format!("{system}\n\n{words}")),
        }),
        prompt => Cow::Borrowed(prompt),
    }
}

/// An answer in words as it is learnt as a message: dialogues in plain text have a space before it.
pub(super) fn as_answered<'a>(prompt: &Text, answer: &'a str) -> &'a str {
    match prompt {
        Text::Plain(words) | Text::Instructed { words, .. } if dialogue(words).is_some() => {
            answer.trim()
        }
        _ => answer,
    }
}

/// How many prompts in words are put to a model in which way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    words: BTreeMap<Words, usize>,
    /// Those of them beside a system message: as messages (`true`), or as one text.
    systems: BTreeMap<bool, usize>,
    /// Those of them that are dialogues in plain text, whose turns become messages.
    dialogues: usize,
    /// Of all prompts, also those that are messages, how many have a mark of another model's chat template.
    foreign: BTreeMap<&'static str, usize>,
    /// All prompts.
    prompts: usize,
}

impl Forms {
    /// Counts a prompt, which counts where it is in words; of a text without a prompt, its answers show what has made it.
    pub fn add(&mut self, tokenizer: &TextTokenizer, prompt: &Text, answers: &[Text]) {
        self.prompts += 1;
        let foreign = |text: &Text| match text {
            Text::Plain(words) | Text::Instructed { words, .. } => tokenizer.foreign_mark(words),
            Text::Chat(messages) => messages
                .iter()
                .filter_map(|message| message["content"].as_str())
                .find_map(|words| tokenizer.foreign_mark(words)),
            Text::Ids(_) => None,
        };
        let made = if prompt.is_empty() { answers } else { &[] };
        if let Some(mark) = std::iter::once(prompt).chain(made).find_map(foreign) {
            *self.foreign.entry(mark).or_default() += 1;
        }
        let (Text::Plain(words) | Text::Instructed { words, .. }) = prompt else {
            return;
        };
        let form = tokenizer.words(words);
        *self.words.entry(form).or_default() += 1;
        self.dialogues += usize::from(form == Words::Template && dialogue(words).is_some());
        if matches!(prompt, Text::Instructed { .. }) {
            *self.systems.entry(form == Words::Template).or_default() += 1;
        }
    }

    /// The counts of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        for (words, count) in &other.words {
            *sum.words.entry(*words).or_default() += count;
        }
        for (messages, count) in &other.systems {
            *sum.systems.entry(*messages).or_default() += count;
        }
        sum.dialogues += other.dialogues;
        sum.prompts += other.prompts;
        for (mark, count) in &other.foreign {
            *sum.foreign.entry(mark).or_default() += count;
        }
        sum
    }

    /// A sentence for each mark by which prompts show that another model's chat template has made them.
    pub fn warnings(&self) -> Vec<String> {
        let sentence = |(mark, count): (&&str, &usize)| {
            let prompts = self.prompts;
            format!(
                "{count} of {prompts} prompts have marks of another model's chat template (`{mark}`), which this model reads as \
                 words like others: give what was asked alone, or messages with `role` and `content`"
            )
        };
        self.foreign.iter().map(sentence).collect()
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
        self.words
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
        let system = |(messages, count): (&bool, &usize)| {
            let place = if *messages {
                "becomes a message too"
            } else {
                "stands before the prompt's words, with an empty line between"
            };
            format!("in {count} of them the system message, which has a column of its own, {place}")
        };
        let words = self.words.iter().map(sentence);
        let dialogues = (self.dialogues > 0).then(|| {
            let count = self.dialogues;
            format!("{count} of them are dialogues of `Human:` and `Assistant:`, whose turns become messages")
        });
        words
            .chain(self.systems.iter().map(system))
            .chain(dialogues)
            .collect()
    }
}
