//! From records to token ids: what is cut off, what is left out and why.

use std::path::Path;

use serde_json::{Map, Value};

use crate::config::{Overlong, TextDataSection};
use crate::data::text::{Record, Shape, Text};
use crate::error::{Error, Result};
use crate::models::lm::tokenizer::{Sequence, TextTokenizer};
use crate::trainer::objective::Judged;

/// A record as the model reads it.
#[derive(Clone, Debug)]
pub struct Example {
    /// Line or row of the record.
    pub line: usize,
    /// The prompt with each of the answers, in the record's order.
    pub sequences: Vec<Sequence>,
    /// As in the record.
    pub judged: Judged,
    /// As in the record.
    pub reference: Option<[f64; 2]>,
}

impl Example {
    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        let lengths = self.sequences.iter().map(|sequence| sequence.ids.len());
        lengths.max().unwrap_or_default()
    }
}

/// All records of a file.
#[derive(Debug, Default)]
pub struct Examples {
    /// Those that are learnt from.
    pub examples: Vec<Example>,
    /// Lines of those whose end was cut off.
    pub truncated: Vec<usize>,
    /// Lines of those that were left out, each with the reason.
    pub dropped: Vec<(usize, &'static str)>,
}

impl Examples {
    /// Encodes the records of `path`, which is for messages.
    ///
    /// # Errors
    /// With the record: the chat template refuses it, or the model has none and it is a chat.
    pub fn encode(
        path: &Path,
        records: &[Record],
        tokenizer: &TextTokenizer,
        section: &TextDataSection,
    ) -> Result<Self> {
        let mut all = Self::default();
        for record in records {
            let answers = record.answers.iter();
            let sequences = answers
                .map(|answer| sequence(tokenizer, &record.prompt, answer, &record.variables));
            let sequences = sequences
                .collect::<Result<_>>()
                .map_err(|error| located(error, path, record.line))?;
            all.take(record, sequences, section);
        }
        Ok(all)
    }

    fn take(&mut self, record: &Record, mut sequences: Vec<Sequence>, section: &TextDataSection) {
        let longest = section.max_length;
        if sequences
            .iter()
            .any(|sequence| sequence.ids.len() > longest)
        {
            if section.overlong == Overlong::Drop {
                self.dropped
                    .push((record.line, "longer than `data.max_length`"));
                return;
            }
            if record.reference.is_some() {
                let reason = "longer than `data.max_length`: `ref_chosen_logps` are of all of it";
                self.dropped.push((record.line, reason));
                return;
            }
            for sequence in &mut sequences {
                sequence.ids.truncate(longest);
            }
            self.truncated.push(record.line);
        }
        if sequences.iter().any(|sequence| scored(sequence) == 0) {
            let reason = "its prompt leaves no room for the answer within `data.max_length`";
            self.dropped.push((record.line, reason));
            return;
        }
        // Samples may be equal: how often one comes is what they say.
        let samples = record.shape == Shape::Sampled;
        if !samples && sequences.len() == 2 && sequences[0].ids == sequences[1].ids {
            let reason = "its answers do not differ within `data.max_length`";
            self.dropped.push((record.line, reason));
            return;
        }
        self.examples.push(Example {
            line: record.line,
            sequences,
            judged: Judged {
                rewards: record.rewards.clone(),
                weight: record.weight,
                wins: record.wins,
                scores: record.scores,
                margin: record.margin,
                proposal: record.proposal.clone(),
            },
            reference: record.reference,
        });
    }
}

/// Batches of examples, shortest first: little padding where their order does not matter.
pub(super) fn by_length(examples: &[Example], batch: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.sort_by_key(|&index| examples[index].longest());
    order.chunks(batch.max(1)).map(<[_]>::to_vec).collect()
}

/// The places of each example's sequences where they follow each other.
pub(super) fn one_after_the_other(examples: &[&Example]) -> Vec<Vec<usize>> {
    let mut next = 0;
    let places = examples.iter().map(|example| {
        let start = next;
        next += example.sequences.len();
        (start..next).collect()
    });
    places.collect()
}

/// Tokens of the answer that are scored: the first token of all has nothing before it that could predict it.
pub fn scored(sequence: &Sequence) -> usize {
    sequence.ids.len().saturating_sub(sequence.prompt.max(1))
}

/// Token ids of a prompt with an answer; `variables` are for the chat template.
///
/// # Errors
/// The chat template refuses them, or the model has none and they are a chat; ids that the model does not know.
pub fn sequence(
    tokenizer: &TextTokenizer,
    prompt: &Text,
    answer: &Text,
    variables: &Map<String, Value>,
) -> Result<Sequence> {
    match (prompt, answer) {
        (Text::Plain(prompt), Text::Plain(answer)) => tokenizer.answered(prompt, answer),
        (Text::Chat(prompt), Text::Chat(answer)) => {
            tokenizer.answered_chat(prompt, answer, variables)
        }
        (Text::Ids(prompt), Text::Ids(answer)) => tokenizer.answered_ids(prompt, answer),
        // Reading brings both into one form.
        _ => Err(Error::config("a prompt and its answer are of two kinds")),
    }
}

/// A template knows nothing of lines; what is wrong with the model's folder stays as it is.
pub fn located(error: Error, path: &Path, line: usize) -> Error {
    match error {
        Error::Data { message, .. } => Error::data_line(path, line, message),
        error => error,
    }
}
