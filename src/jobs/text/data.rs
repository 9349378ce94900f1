//! The inputs of a text run: records, split, as token ids. Needs the tokenizer, not the weights.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::config::{Invalid, ReferenceMode, TextConfig, TrainOn};
use crate::data::groups::{self, Overlap};
use crate::data::text::{self, Notes, Reading, Record, Shape};
use crate::error::{Error, Result};
use crate::jobs::inputs::{objective, sha256};
use crate::models::lm::tokenizer::TextTokenizer;
use crate::models::weights::hex;
use crate::trainer::objective::Objective;
use crate::trainer::text::{Example, Examples, ShownPrompt, check_batch, open_tokenizer};

/// The columns of the reference's log-probs, for messages.
const REFERENCE: &str = "ref_chosen_logps` and `ref_rejected_logps";

/// Held-out prompts that validations choose from: some may be too long to be answered.
const LOOKED_AT: usize = 16;

/// A manifest's name for the hash of the records that are held out: those that a run was measured on.
pub(crate) const HELD_OUT: &str = "held-out records";

/// Everything that was read.
pub(crate) struct TextInputs {
    pub(crate) objective: Objective,
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) train: Examples,
    pub(crate) held_out: Examples,
    /// `true` if the examples bring the reference's log-probs along.
    pub(crate) brings_reference: bool,
    /// Notes on the files, for the user.
    pub(crate) notes: Vec<Notes>,
    /// Prompts on both sides of the split.
    pub(crate) overlap: Overlap,
    /// SHA-256 by what it is of.
    pub(crate) hashes: BTreeMap<String, String>,
    /// Held-out prompts, each once, that validations may answer.
    pub(crate) shown: Vec<ShownPrompt>,
}

/// Reads and encodes the data of a configuration.
///
/// # Errors
/// As [`look`]; too many rows have faults.
pub(crate) fn read(config: &TextConfig) -> Result<TextInputs> {
    let inputs = look(config)?;
    inputs.check(config)?;
    inputs.check_batch(config)?;
    Ok(inputs)
}

/// How the rows of a configuration are read.
fn reading(config: &TextConfig) -> Reading<'_> {
    Reading {
        columns: Some(&config.data.columns),
        drops_invalid: config.data.invalid == Invalid::Drop,
        all_turns: config.data.train_on == TrainOn::All,
    }
}

/// As [`read`], whatever rows have faults, as long as any is left.
pub(crate) fn look(config: &TextConfig) -> Result<TextInputs> {
    let objective = objective(&config.objective)?;
    let section = &config.data;
    let reading = reading(config);
    let read = |path: &Path| text::read_with(path, objective.shape(), &reading);
    let of_train = read(&section.train)?;
    let mut notes = vec![of_train.notes];
    let (train, mut held_out) = groups::split(
        of_train.rows,
        |record| record.held_out,
        |record| vec![record.key()],
        config.run.seed,
        section.validation_share,
    );
    if train.is_empty() {
        notes[0].check(&reading)?;
    }
    let base = &config.model.base;
    let tokenizer = open_tokenizer(base, section.chat)?;
    let encode = |records: &[Record]| {
        let encoded = Examples::encode(records, &tokenizer, section)?;
        needed(&section.train, &objective, &encoded.examples)?;
        Ok::<_, Error>(encoded)
    };
    let (encoded, mut held) = (encode(&train)?, encode(&held_out)?);
    let (of_the_same, held_out_of_the_same) = (held.examples.len(), held_out.len());
    let mut hashes = BTreeMap::from([("training data".to_owned(), sha256(&section.train)?)]);
    if let Some(path) = &section.validation {
        let more = read(path)?;
        let its = Examples::encode(&more.rows, &tokenizer, section)?;
        needed(path, &objective, &its.examples)?;
        held_out.extend(more.rows);
        notes.push(more.notes);
        held.examples.extend(its.examples);
        held.truncated.extend(its.truncated);
        held.dropped.extend(its.dropped);
        held.beyond += its.beyond;
        held.with_others += its.with_others;
        held.forms = held.forms.and(&its.forms);
        hashes.insert("validation data".to_owned(), sha256(path)?);
    }
    let keys = |records: &[Record]| records.iter().map(Record::key).collect::<Vec<_>>();
    hashes.insert(HELD_OUT.to_owned(), sha256_of_keys(&held_out));
    let overlap = Overlap::count(keys(&train).into_iter(), keys(&held_out).into_iter());
    let train = encoded;
    if train.examples.is_empty() {
        let problem = match train.dropped.first() {
            Some((line, reason)) => {
                format!("no record is left to learn from; that of line {line}: {reason}")
            }
            None => "every record is held out".to_owned(),
        };
        return Err(Error::data(&section.train, problem));
    }
    if objective.shape() == Shape::Marked {
        // Marks that cannot be read are not of the other side.
        notes
            .iter()
            .filter(|notes| sides(&train).contains(&0) && notes.left_out.faults() > 0)
            .try_for_each(|notes| {
                notes.check(&Reading {
                    drops_invalid: false,
                    ..reading
                })
            })?;
        both_sides(&section.train, &objective, [&train, &held])?;
    }
    let (same, other) = held.examples.split_at(of_the_same);
    let (same_records, other_records) = held_out.split_at(held_out_of_the_same);
    let mut shown = shown_prompts(same, same_records);
    shown.extend(shown_prompts(other, other_records));
    let files = [
        (section.train.as_path(), train.examples.as_slice()),
        (section.train.as_path(), same),
        (
            section.validation.as_deref().unwrap_or(&section.train),
            other,
        ),
    ];
    Ok(TextInputs {
        brings_reference: brings_reference(config, &objective, &files)?,
        objective,
        tokenizer,
        train,
        held_out: held,
        notes,
        overlap,
        hashes,
        shown,
    })
}

/// The different prompts of examples that were made of these records.
fn shown_prompts(examples: &[Example], records: &[Record]) -> Vec<ShownPrompt> {
    let mut shown: Vec<ShownPrompt> = Vec::new();
    for example in examples {
        let sequence = example.sequences.first();
        let ids = sequence.map_or(&[][..], |sequence| &sequence.ids[..sequence.prompt]);
        let record = records.iter().find(|record| record.line == example.line);
        if let Some(record) = record
            && shown.iter().all(|one| one.ids != ids)
        {
            shown.push(ShownPrompt {
                prompt: record.prompt.to_value(),
                variables: record.variables.clone(),
                ids: ids.to_vec(),
            });
        }
        if shown.len() == LOOKED_AT {
            break;
        }
    }
    shown
}

/// Which records these are.
fn sha256_of_keys(records: &[Record]) -> String {
    let mut hash = Sha256::new();
    for record in records {
        hash.update(format!("{} {}\n", record.line, record.key()));
    }
    hex(&hash.finalize())
}

impl TextInputs {
    /// Refuses files of which too many rows have faults.
    pub(crate) fn check(&self, config: &TextConfig) -> Result<()> {
        let reading = reading(config);
        self.notes
            .iter()
            .try_for_each(|notes| notes.check(&reading))
    }

    /// Refuses what is too little for a batch.
    pub(crate) fn check_batch(&self, config: &TextConfig) -> Result<()> {
        check_batch(
            &self.objective,
            self.train.examples.len(),
            config.train.batch,
        )
    }

    /// Notes on the files for the user, one sentence each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.notes.iter().flat_map(Notes::lines).collect();
        let with_others = self.train.with_others + self.held_out.with_others;
        if with_others > 0 {
            lines.push(format!(
                "in the answers of {with_others} examples the user or a tool takes a turn, which is read and not scored: only \
                 what the assistant says is"
            ));
        }
        if !self.held_out.examples.is_empty() {
            lines.push(format!("split: {}", self.overlap.in_words("prompts")));
        }
        lines
    }
}

/// Refuses marked answers that are all of one side: nothing sets them apart from others.
fn both_sides(path: &Path, objective: &Objective, [train, held_out]: [&Examples; 2]) -> Result<()> {
    let name = objective.name();
    let [good, bad] = sides(train);
    if good == 0 || bad == 0 {
        let problem = format!(
            "{good} answers to learn from are marked desirable, {bad} undesirable: `{name}` learns from both sides"
        );
        let hint = if bad == 0 {
            "add undesirable answers, or imitate these by `objective.kind = \"sft\"`"
        } else {
            "add desirable answers: undesirable ones alone teach a model to write anything else"
        };
        return Err(Error::data(path, problem).with_hint(hint));
    }
    if held_out.examples.len() == 1 {
        let problem = format!(
            "1 answer is held out: `{name}` compares prompts with each other's answers, and needs two or more to validate"
        );
        return Err(Error::config(problem)
            .with_hint("hold more out: a larger `data.validation_share`, or `data.validation`"));
    }
    Ok(())
}

/// How many marked answers are desirable, and how many are not.
pub(crate) fn sides(examples: &Examples) -> [usize; 2] {
    let good = examples.examples.iter();
    let good = good
        .filter(|example| example.labels.rewards[0] > 0.5)
        .count();
    [good, examples.examples.len() - good]
}

/// `true` if all examples bring the log-probs of the reference along; `false` where none does, or none is needed.
fn brings_reference(
    config: &TextConfig,
    objective: &Objective,
    files: &[(&Path, &[Example])],
) -> Result<bool> {
    if !objective.needs_reference() {
        return Ok(false);
    }
    let examples = files.iter().flat_map(|(path, examples)| {
        examples
            .iter()
            .map(|example| (*path, example.line, example.reference.is_some()))
    });
    let all: Vec<(&Path, usize, bool)> = examples.collect();
    let Some((path, line, _)) = all.iter().find(|(.., brings)| *brings) else {
        return Ok(false);
    };
    if let Some((other, at, _)) = all.iter().find(|(.., brings)| !brings) {
        let problem = format!(
            "has no `{REFERENCE}`, but line {line} of `{}` has: either all rows bring the reference's log-probs or none",
            path.display()
        );
        return Err(Error::data_line(other, *at, problem));
    }
    if objective.needs_live_reference() {
        let problem = format!(
            "`{}` compares whole distributions of tokens with the reference: `{REFERENCE}` do not say them",
            objective.name()
        );
        return Err(Error::data_line(path, *line, problem)
            .with_hint("leave the two columns out: the reference is then a model"));
    }
    let section = &config.reference;
    let key = match (&section.model, section.mode) {
        (Some(_), _) => "reference.model",
        (None, ReferenceMode::Live) => "reference.mode",
        (None, ReferenceMode::Cached) => return Ok(true),
    };
    let problem = format!("`{key}` names a reference, and the data bring its `{REFERENCE}` along");
    Err(Error::config(problem).with_hint(format!("leave out `{key}` or the two columns")))
}

fn needed(path: &Path, objective: &Objective, examples: &[Example]) -> Result<()> {
    let lacking = examples
        .iter()
        .find_map(|example| Some((example, objective.lacks(&example.labels)?)));
    match lacking {
        None => Ok(()),
        Some((example, column)) => {
            let problem = format!("`{}` needs the column `{column}`", objective.name());
            Err(Error::data_line(path, example.line, problem))
        }
    }
}
