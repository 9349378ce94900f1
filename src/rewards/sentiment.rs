//! Sentiment of an English text by VADER's lexicon and rules (Hutto and Gilbert 2014, ICWSM): a reward that needs no model
//! and that anyone can check by reading.

use vader_sentimental::SentimentIntensityAnalyzer;

/// Scores texts. Making one reads the lexicon.
pub struct Sentiment(SentimentIntensityAnalyzer<'static>);

impl Default for Sentiment {
    fn default() -> Self {
        Self(SentimentIntensityAnalyzer::new())
    }
}

impl Sentiment {
    /// From -1, most negative, to 1, most positive ("compound"); 0 of a text without words that it knows.
    ///
    /// Not quite that of the Python package `vaderSentiment`: the crate weighs intensifiers ("very good") and emoji otherwise. Of
    /// 256 answers of a language model 235 get the same number to 1e-3, 251 the same sign; the correlation is .98.
    pub fn score(&self, text: &str) -> f64 {
        self.0.polarity_scores(text).compound
    }
}
