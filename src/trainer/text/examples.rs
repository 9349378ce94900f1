//! From records to token ids: what is cut off, what is left out and why.

use std::path::Path;

use serde_json::{Map, Value};

use super::words::{Forms, as_answered, as_asked};
use crate::config::{Overlong, TextDataSection};
use crate::data::text::{Record, Shape, Text};
use crate::error::{Error, Result};
use crate::models::lm::tokenizer::{Sequence, TextTokenizer};
use crate::models::lm::words::message;
use crate::trainer::objective::ExampleLabels;

/// A record as the model reads it.
#[derive(Clone, Debug)]
pub struct Example {
    /// Line or row of the record.
    pub line: usize,
    /// The prompt with each of the answers, in the record's order.
    pub sequences: Vec<Sequence>,
    /// As in the record.
    pub labels: ExampleLabels,
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
    /// The forms that prompts in words were read in.
    pub forms: Forms,
    /// How many are longer than the texts that the model was made for.
    pub beyond: usize,
    /// How many have answers in which the user or a tool takes a turn, which is read and not scored.
    pub with_others: usize,
}

impl Examples {
    /// Encodes records.
    ///
    /// # Errors
    /// With the record: the chat template refuses it, or the model has none and it is a chat; it is longer than the model can
    /// read.
    pub fn encode(
        records: &[Record],
        tokenizer: &TextTokenizer,
        section: &TextDataSection,
    ) -> Result<Self> {
        let mut all = Self::default();
        for record in records {
            all.forms.add(tokenizer, &record.prompt, &record.answers);
            let answers = record.answers.iter();
            let sequences = answers.map(|answer| match (&record.prompt, answer) {
                (Text::Chat(prompt), Text::Chat(turns)) if turns.len() > 1 => tokenizer
                    .answered_turns(prompt, turns, &record.variables)
                    .map_err(|error| match record.shape {
                        Shape::Answers => error,
                        _ => error.with_hint(
                            "end `prompt` before the last turn of the assistant, so that the answers are that turn alone",
                        ),
                    }),
                (prompt, answer) => sequence(tokenizer, prompt, answer, &record.variables),
            });
            let sequences = sequences
                .collect::<Result<_>>()
                .map_err(|error| located(error, &record.file, record.line))?;
            let before = all.examples.len();
            all.take(record, sequences, section);
            for example in &all.examples[before..] {
                match tokenizer.fits(example.longest()) {
                    Ok(fits) => all.beyond += usize::from(!fits),
                    Err(problem) => {
                        return Err(Error::data_line(&record.file, example.line, problem).with_hint(
                            "set `data.max_length` to that number, or take a model for longer texts",
                        ));
                    }
                }
            }
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
        let with_others = record.answers.iter().any(Text::has_others);
        if with_others && (record.reference.is_some() || !record.proposal.is_empty()) {
            let reason = "the user or a tool takes a turn within its answers, which is not scored: of what the log-probs \
                          that the data bring along are is not known";
            self.dropped.push((record.line, reason));
            return;
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
        self.with_others += usize::from(with_others);
        self.examples.push(Example {
            line: record.line,
            sequences,
            labels: ExampleLabels {
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

/// How many tokens are scored.
pub fn scored(sequence: &Sequence) -> usize {
    sequence.scored().count()
}

/// Token ids of a prompt with an answer, of words as the tokenizer takes them; `variables` are for the chat template.
///
/// # Errors
/// The chat template refuses them, or the model has none and they are a chat; ids that the model does not know.
pub fn sequence(
    tokenizer: &TextTokenizer,
    prompt: &Text,
    answer: &Text,
    variables: &Map<String, Value>,
) -> Result<Sequence> {
    let (original, asked) = (prompt, as_asked(tokenizer, prompt));
    match (asked.as_ref(), answer) {
        (Text::Plain(prompt), Text::Plain(answer)) => tokenizer.answered(prompt, answer),
        (Text::Chat(prompt), Text::Plain(answer)) => {
            let answer = message("assistant", as_answered(original, answer));
            tokenizer.answered_chat(prompt, &[answer], variables)
        }
        (Text::Chat(prompt), Text::Chat(answer)) => {
            tokenizer.answered_chat(prompt, answer, variables)
        }
        (Text::Ids(prompt), Text::Ids(answer)) => tokenizer.answered_ids(prompt, answer),
        // Reading brings both into one form.
        _ => Err(Error::config("a prompt and its answer are of two kinds")),
    }
}

/// A template knows nothing of lines of data, and its own file is named too; what is wrong with the model's folder stays as it is.
pub fn located(error: Error, path: &Path, line: usize) -> Error {
    match error {
        Error::Hinted { source, hint } => located(*source, path, line).with_hint(hint),
        Error::Data {
            path: of, message, ..
        } if of != path => Error::data_line(path, line, format!("{message} (`{}`)", of.display())),
        Error::Data { message, .. } => Error::data_line(path, line, message),
        error => error,
    }
}
