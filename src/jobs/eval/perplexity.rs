//! How well a language model predicts given texts.

use std::path::PathBuf;

use tch::{Device, Kind};

use crate::error::{Error, Result};
use crate::files::read_text;
use crate::jobs::Display;
use crate::jobs::open::text::{Loaded, open};
use crate::trainer::text::token_logps;

/// A model and the texts that it is to predict.
#[derive(Clone, Debug)]
pub struct PerplexityProtocol {
    /// Folder in Hugging Face layout, GGUF file, adapter folder or run.
    pub model: PathBuf,
    /// Files of text, each read as one.
    pub files: Vec<PathBuf>,
    /// Tokens in a pass, at least 2: a longer text is cut into parts of so many, which do not see each other.
    pub window: usize,
    /// Where the model computes.
    pub device: Device,
    /// Type of its passes.
    pub kind: Kind,
}

/// A text as a model predicts it.
#[derive(Clone, Debug)]
pub struct Predicted {
    /// The file of the text.
    pub file: PathBuf,
    /// Its tokens.
    pub ids: Vec<i64>,
    /// Log-prob of every token that has one before it in its part, in nats; never empty.
    pub logps: Vec<f64>,
}

impl Predicted {
    /// Mean of the negative log-probs, in nats a token.
    pub fn loss(&self) -> f64 {
        -self.logps.iter().sum::<f64>() / self.logps.len() as f64
    }

    /// `exp` of the loss.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }
}

/// Predicts every text, in the order of the files.
///
/// # Errors
/// A model or a text that cannot be read, a text of fewer than two tokens, a part that is longer than the model takes.
pub fn judge(protocol: &PerplexityProtocol, display: &mut dyn Display) -> Result<Vec<Predicted>> {
    if protocol.window < 2 {
        return Err(Error::config("`--window` must be 2 or more"));
    }
    let Loaded {
        model, tokenizer, ..
    } = open(&protocol.model, protocol.device, protocol.kind)?;
    for warning in tokenizer.warnings() {
        display.warn(warning);
    }
    let (mut texts, mut beyond) = (Vec::new(), 0);
    for path in &protocol.files {
        let text = read_text(path)?;
        let ids = tokenizer.encode(&text, true)?;
        let mut logps: Vec<f64> = Vec::new();
        for part in ids.chunks(protocol.window) {
            match tokenizer.fits(part.len()) {
                Ok(true) => {}
                Ok(false) => beyond = beyond.max(part.len()),
                Err(problem) => {
                    return Err(Error::data(path, format!("a part of it {problem}"))
                        .with_hint("give that number or a smaller one as `--window`"));
                }
            }
            // The first token of a part has nothing before it.
            if part.len() > 1 {
                logps.extend(token_logps(&model, part)?);
            }
        }
        if logps.is_empty() {
            return Err(Error::data(
                path,
                "has fewer than two tokens: nothing to predict",
            ));
        }
        texts.push(Predicted {
            file: path.clone(),
            ids,
            logps,
        });
    }
    if beyond > 0 {
        display.warn(&format!(
            "parts of {beyond} tokens are longer than the texts that the model was made for (`max_position_embeddings`): give a smaller `--window`"
        ));
    }
    Ok(texts)
}
