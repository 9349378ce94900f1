//! Answers of a language model to the prompts of a data set, seed by seed.

use crate::config::GenerateSection;
use crate::data::text::{Prompt, Text};
use crate::error::Result;
use crate::jobs::open::text::Loaded;
use crate::models::lm::generate::Sampling;
use crate::trainer::text::as_asked;

/// A model that answers.
pub(crate) struct Sampler {
    loaded: Loaded,
    sampling: Sampling,
    stop: Vec<i64>,
}

/// A text that the sampler wrote.
pub(crate) struct Written {
    pub(crate) text: String,
    /// `true` if it came to an end by itself.
    pub(crate) ended: bool,
}

impl Sampler {
    pub(crate) fn new(loaded: Loaded, section: &GenerateSection) -> Self {
        let mut stop = loaded.model.config().eos_token_ids.clone();
        stop.extend(loaded.tokenizer.eos());
        Self {
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
    pub(crate) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// An answer of each seed to each prompt, seeds and prompts in pairs.
    pub(crate) fn answers(&self, asked: &[(&Prompt, u64)]) -> Result<Vec<Written>> {
        let Loaded {
            model, tokenizer, ..
        } = &self.loaded;
        let ids =
            asked.iter().map(
                |(prompt, _)| match as_asked(tokenizer, &prompt.text).as_ref() {
                    Text::Plain(words) | Text::Instructed { words, .. } => tokenizer.prompt(words),
                    Text::Chat(messages) => tokenizer.chat_prompt(messages, &prompt.variables),
                    Text::Ids(ids) => Ok(ids.clone()),
                },
            );
        let ids: Vec<Vec<i64>> = ids.collect::<Result<_>>()?;
        let seeds: Vec<u64> = asked.iter().map(|(_, seed)| *seed).collect();
        let written = model.generate(&ids, &seeds, &self.sampling, &self.stop)?;
        let answers = written.iter().zip(&ids).map(|(written, ids)| {
            Ok(Written {
                text: tokenizer.decode_answer(ids, &written.tokens)?,
                ended: written.ended,
            })
        });
        answers.collect()
    }
}
