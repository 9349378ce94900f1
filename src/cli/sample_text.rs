//! Answers of a language model to the prompts of a data set, seed by seed.

use serde_json::json;

use super::generate_text::Loaded;
use crate::config::GenerateSection;
use crate::data::text::{Prompt, Text};
use crate::error::Result;
use crate::models::lm::generate::Sampling;
use crate::models::lm::tokenizer::TextTokenizer;

/// A model that answers.
pub(super) struct Sampler {
    loaded: Loaded,
    sampling: Sampling,
    stop: Vec<i64>,
    chat: bool,
}

/// What it wrote.
pub(super) struct Written {
    pub(super) text: String,
    /// Whether it came to an end by itself.
    pub(super) ended: bool,
}

impl Sampler {
    pub(super) fn new(loaded: Loaded, section: &GenerateSection) -> Self {
        let mut stop = loaded.model.config().eos_token_ids.clone();
        stop.extend(loaded.tokenizer.eos());
        Self {
            chat: asks_by_messages(&loaded.tokenizer, section),
            sampling: Sampling {
                temperature: section.temperature,
                top_k: section.top_k,
                top_p: section.top_p,
                max_tokens: section.max_tokens,
            },
            stop,
            loaded,
        }
    }

    /// The model with its tokenizer.
    pub(super) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// An answer of each seed to each prompt, seeds and prompts in pairs.
    pub(super) fn answers(&self, asked: &[(&Prompt, u64)]) -> Result<Vec<Written>> {
        let Loaded {
            model, tokenizer, ..
        } = &self.loaded;
        let ids = asked
            .iter()
            .map(|(prompt, _)| match as_asked(&prompt.text, self.chat) {
                Text::Plain(words) => tokenizer.prompt(&words),
                Text::Chat(messages) => tokenizer.chat_prompt(&messages, &prompt.variables),
                Text::Ids(ids) => Ok(ids),
            });
        let ids: Vec<Vec<i64>> = ids.collect::<Result<_>>()?;
        let seeds: Vec<u64> = asked.iter().map(|(_, seed)| *seed).collect();
        let written = model.generate(&ids, &seeds, &self.sampling, &self.stop)?;
        let answers = written.iter().map(|written| {
            Ok(Written {
                text: tokenizer.decode(&written.tokens, true)?,
                ended: written.ended,
            })
        });
        answers.collect()
    }
}

/// Whether a model is asked by messages where the prompt is in words.
pub(super) fn asks_by_messages(tokenizer: &TextTokenizer, section: &GenerateSection) -> bool {
    tokenizer.chats() && !section.raw
}

/// A prompt as a model is asked, which may be by messages where it is in words.
pub(super) fn as_asked(prompt: &Text, by_messages: bool) -> Text {
    match prompt {
        Text::Plain(words) if by_messages => {
            Text::Chat(vec![json!({"role": "user", "content": words})])
        }
        prompt => prompt.clone(),
    }
}
