//! Answers that a text run writes at each validation, for people to read: the validation images of language models.

use serde_json::{Map, Value};

use crate::data::text::answers::Answer;
use crate::error::Result;
use crate::models::lm::LanguageModel;
use crate::models::lm::generate::Sampling;
use crate::models::lm::tokenizer::TextTokenizer;

/// Prompts that are answered.
const SHOWN_PROMPTS: usize = 3;

/// Greedy and short: the same prompt tells policies apart, and a validation stays cheap.
const SAMPLING: Sampling = Sampling {
    temperature: 0.0,
    top_k: None,
    top_p: 1.0,
    max_tokens: 48,
};

/// A held-out prompt that is answered at each validation.
pub struct ShownPrompt {
    /// Words or messages, as a file has them.
    pub prompt: Value,
    /// The variables that the chat template was given.
    pub variables: Map<String, Value>,
    /// The tokens.
    pub ids: Vec<i64>,
}

/// The prompts, and how their answers are read.
pub struct ShownPrompts {
    prompts: Vec<ShownPrompt>,
    tokenizer: TextTokenizer,
}

impl ShownPrompts {
    /// Of the first few prompts; those that leave no room for an answer within the model's `longest` text are passed over.
    pub fn new(prompts: Vec<ShownPrompt>, tokenizer: TextTokenizer, longest: usize) -> Self {
        let fits = |prompt: &ShownPrompt| {
            !prompt.ids.is_empty() && prompt.ids.len() + SAMPLING.max_tokens <= longest
        };
        Self {
            prompts: prompts
                .into_iter()
                .filter(fits)
                .take(SHOWN_PROMPTS)
                .collect(),
            tokenizer,
        }
    }

    /// The model's answers.
    ///
    /// # Errors
    /// As [`LanguageModel::generate`].
    pub(super) fn answer(&self, model: &LanguageModel) -> Result<Vec<Answer>> {
        let ids: Vec<Vec<i64>> = self.prompts.iter().map(|one| one.ids.clone()).collect();
        let mut stop = model.config().eos_token_ids.clone();
        stop.extend(self.tokenizer.eos());
        let written = model.generate(&ids, &vec![0; ids.len()], &SAMPLING, &stop)?;
        let answers = written.into_iter().zip(&self.prompts);
        answers
            .map(|(written, one)| {
                Ok(Answer {
                    prompt: one.prompt.clone(),
                    text: self.tokenizer.decode_answer(&one.ids, &written.tokens)?,
                    seed: 0,
                    tokens: written.tokens.len(),
                    ended: written.ended,
                    variables: one.variables.clone(),
                    kept: serde_json::Map::new(),
                })
            })
            .collect()
    }
}
