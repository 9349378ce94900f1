//! Changes to texts that encoders were trained with and that files of tokenizers lack: they come before the tokenizer's own.

use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, Prepend, Replace, Sequence, Strip};
use tokenizers::{ModelWrapper, NormalizerWrapper};

use super::Tokenizer;
use crate::error::{Error, Result};

/// Letters that OpenCLIP's tokenizer mends before it reads a text, and signs that web pages write by a name: those of its
/// library `ftfy` that prompts have. What is in quotation marks of print or in ligatures reads as typed.
const MENDED: [(&str, &str); 13] = [
    ("[\u{2bc}\u{2018}-\u{201b}]", "'"),
    ("[\u{201c}-\u{201f}]", "\""),
    ("\u{fb00}", "ff"),
    ("\u{fb01}", "fi"),
    ("\u{fb02}", "fl"),
    ("\u{fb03}", "ffi"),
    ("\u{fb04}", "ffl"),
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&quot;", "\""),
    ("&#39;", "'"),
    ("&nbsp;", " "),
    ("&amp;", "&"),
];

impl Tokenizer {
    /// The same tokenizer with the changes that SigLIP was trained with. SigLIP (pieces of a unigram model) reads small letters
    /// without punctuation, SigLIP 2 (Gemma's tokenizer) small letters.
    ///
    /// # Errors
    /// The rules cannot be set up.
    pub fn of_siglip(self) -> Result<Self> {
        if !matches!(self.inner.get_model(), ModelWrapper::Unigram(_)) {
            return Ok(self.after(vec![Lowercase.into()]));
        }
        let first = vec![
            // A text that begins with a space keeps it: it stands behind the mark of the first word.
            Prepend::new("▁".to_owned()).into(),
            Lowercase.into(),
            self.replaced(r"[!-/:-@\[-`{-~]", "")?,
            self.replaced(r"\s+", " ")?,
            Strip::new(true, true).into(),
            self.replaced("^▁$", "")?,
        ];
        Ok(self.after(first))
    }

    /// The same tokenizer with the changes that OpenCLIP makes to texts.
    ///
    /// # Errors
    /// The rules cannot be set up.
    pub fn of_open_clip(self) -> Result<Self> {
        let mended = MENDED.iter().map(|(from, to)| self.replaced(from, to));
        let mended = mended.collect::<Result<Vec<_>>>()?;
        Ok(self.after(mended))
    }

    fn replaced(&self, pattern: &str, with: &str) -> Result<NormalizerWrapper> {
        let pattern = ReplacePattern::Regex(pattern.to_owned());
        let replace = Replace::new(pattern, with);
        let replace = replace.map_err(|error| Error::weights(&self.folder, error.to_string()))?;
        Ok(replace.into())
    }

    /// The same tokenizer with these changes before its own.
    fn after(mut self, mut changes: Vec<NormalizerWrapper>) -> Self {
        changes.extend(self.inner.get_normalizer().cloned());
        self.inner.with_normalizer(Some(Sequence::new(changes)));
        self
    }
}
