//! Answers of a language model to the prompts of a data set, seed by seed.

use serde_json::{Value, json};

use super::generate_text::Loaded;
use crate::config::GenerateSection;
use crate::data::text::Text;
use crate::error::Result;
use crate::models::lm::generate::Sampling;

/// A model that answers.
pub(super) struct Sampler {
    loaded: Loaded,
    sampling: Sampling,
    stop: Vec<i64>,
    chat: bool,
}

impl Sampler {
    pub(super) fn new(loaded: Loaded, section: &GenerateSection) -> Self {
        let mut stop = loaded.model.config().eos_token_ids.clone();
        stop.extend(loaded.tokenizer.eos());
        Self {
            chat: loaded.tokenizer.template().is_some() && !section.raw,
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

    /// A prompt as this model is asked: in words or as a message.
    pub(super) fn asked(&self, prompt: &Text) -> Text {
        match prompt {
            Text::Plain(words) if self.chat => {
                Text::Chat(vec![json!({"role": "user", "content": words})])
            }
            prompt => prompt.clone(),
        }
    }

    /// An answer of each seed to each prompt, seeds and prompts in pairs.
    pub(super) fn answers(&self, asked: &[(&Text, u64)]) -> Result<Vec<String>> {
        let Loaded {
            model, tokenizer, ..
        } = &self.loaded;
        let ids = asked.iter().map(|(prompt, _)| match self.asked(prompt) {
            Text::Plain(words) => tokenizer.prompt(&words),
            Text::Chat(messages) => tokenizer.chat_prompt(&messages),
            Text::Ids(ids) => Ok(ids),
        });
        let ids: Vec<Vec<i64>> = ids.collect::<Result<_>>()?;
        let seeds: Vec<u64> = asked.iter().map(|(_, seed)| *seed).collect();
        let written = model.generate(&ids, &seeds, &self.sampling, &self.stop)?;
        let decode = |tokens: &[i64]| tokenizer.decode(tokens, true);
        written
            .iter()
            .map(|written| decode(&written.tokens))
            .collect()
    }
}

/// A prompt and answers as a record's columns have them.
pub(super) fn as_columns(prompt: &Text, answers: &[&String]) -> (Value, Vec<Value>) {
    let answers = answers
        .iter()
        .map(|answer| prompt.answered_by(answer).to_value());
    (prompt.to_value(), answers.collect())
}
