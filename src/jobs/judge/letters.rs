//! A language model as a judge of two answers: which letter it would reply with when asked for the better one.

use std::path::Path;

use serde_json::{Map, json};
use tch::{Device, Kind, Tensor, no_grad};

use crate::data::text::Text;
use crate::error::{Error, Result};
use crate::jobs::open::text::{Loaded, open as open_text};
use crate::models::lm::tokenizer::TextTokenizer;

/// The names that answers have in the question.
const LETTERS: [&str; 2] = ["A", "B"];

/// A model that is asked.
pub(crate) struct LetterJudge {
    loaded: Loaded,
    /// First tokens of the two replies.
    replies: [i64; 2],
}

impl LetterJudge {
    /// Opens a language model, an adapter of one, or a run that tuned one; the question goes through its chat template
    /// unless it takes words as they are.
    pub(crate) fn open(path: &Path, raw: Option<bool>, device: Device, kind: Kind) -> Result<Self> {
        let loaded = open_text(path, device, kind)?.with_words(raw);
        // After `Better answer:` a letter follows a space; a chat's reply begins with it.
        let space = if loaded.tokenizer.chats() { "" } else { " " };
        let mut replies = [0; 2];
        for (reply, letter) in replies.iter_mut().zip(LETTERS) {
            let ids = loaded
                .tokenizer
                .encode(&format!("{space}{letter}"), false)?;
            let none =
                || Error::weights(path, format!("the tokenizer has no token for `{letter}`"));
            *reply = *ids.first().ok_or_else(none)?;
        }
        if replies[0] == replies[1] {
            let problem = "its tokenizer begins `A` and `B` with the same token, so that neither can be chosen by it";
            return Err(Error::weights(path, problem));
        }
        Ok(Self { loaded, replies })
    }

    /// The model's tokenizer.
    pub(crate) fn tokenizer(&self) -> &TextTokenizer {
        &self.loaded.tokenizer
    }

    /// Log-odds of the first answer's letter against the second's. They depend on the order in which answers are shown,
    /// which `rank --pairs` reports.
    pub(crate) fn log_odds(&self, prompt: &Text, first: &Text, second: &Text) -> Result<f64> {
        let Loaded {
            model, tokenizer, ..
        } = &self.loaded;
        let question = format!(
            "Which of two answers to a request is better?\n\nRequest:\n{}\n\nAnswer A:\n{}\n\nAnswer B:\n{}\n\nReply with \
             the letter of the better answer alone.",
            in_words(prompt)?,
            in_words(first)?,
            in_words(second)?
        );
        let ids = if tokenizer.chats() {
            tokenizer.chat_prompt(&[json!({"role": "user", "content": question})], &Map::new())?
        } else {
            tokenizer.prompt(&format!("{question}\n\nBetter answer:"))?
        };
        let ids = Tensor::from_slice(&ids)
            .unsqueeze(0)
            .to_device(model.device()); // [1, t]
        let logits = no_grad(|| {
            let states = model.forward(&ids, None, None); // [1, t, d]
            model.logits(&states.select(1, -1)).squeeze_dim(0) // [v]
        });
        let of = |reply: i64| logits.get(reply).double_value(&[]);
        let odds = of(self.replies[0]) - of(self.replies[1]);
        if !odds.is_finite() {
            return Err(Error::config("the judge's log-probs are not finite"));
        }
        Ok(odds)
    }
}

/// A text without the marks of a chat template: turns under their roles.
fn in_words(text: &Text) -> Result<String> {
    match text {
        Text::Plain(text) => Ok(text.clone()),
        Text::Instructed { system, words } => Ok(format!("system: {system}\nuser: {words}")),
        Text::Chat(messages) if messages.len() == 1 => Ok(messages[0]["content"]
            .as_str()
            .unwrap_or_default()
            .to_owned()),
        Text::Chat(messages) => {
            let turn = |key: &str, message: &serde_json::Value| {
                message[key].as_str().unwrap_or_default().to_owned()
            };
            let turns = messages
                .iter()
                .map(|message| format!("{}: {}", turn("role", message), turn("content", message)));
            Ok(turns.collect::<Vec<_>>().join("\n"))
        }
        Text::Ids(_) => Err(Error::config("a judge reads words, not token ids")),
    }
}
