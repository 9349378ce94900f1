//! The inputs of a reward run on texts: pairs or ratings as token ids, and the language model with its head.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use serde_json::{Map, Value};
use tch::{Device, Kind};

use super::data::{head_config, refuse_empty};
use super::parts::{RewardParts, extrapolated_by};
use crate::config::{AdapterKind, Invalid, RewardConfig, RewardTask};
use crate::data::groups::{self, Overlap};
use crate::data::preferences::{Pair, Rating};
use crate::data::text::{self, Notes, Reading, Shape, Text};
use crate::error::{Error, Result};
use crate::jobs::Display;
use crate::jobs::inputs::sha256;
use crate::jobs::open::image::lora_config;
use crate::models::heads::Head;
use crate::models::lm::reward::{RewardModel, Trained, base_of, open_head};
use crate::models::lm::tokenizer::{Sequence, TextTokenizer};
use crate::models::lm::words::noted;
use crate::models::lm::{self, LanguageModel};
use crate::models::lora::LoraSet;
use crate::ops::random::derive_seed;
use crate::run::checkpoint::BestWeights;
use crate::trainer::reward::{Examples, Pairs, Ratings, Source, Texts};
use crate::trainer::text::{Forms, located, open_tokenizer, sequence};

/// Texts of a run as token ids, with the examples that point to them.
pub(crate) struct TextInputs {
    sequences: Vec<Sequence>,
    train: Examples,
    held_out: Option<Examples>,
    left_out: usize,
    notes: Vec<Notes>,
    overlap: Overlap,
    forms: Forms,
    tokenizer: TextTokenizer,
    hashes: BTreeMap<String, String>,
}

/// Texts that become sequences.
struct Encoder<'a> {
    tokenizer: &'a TextTokenizer,
    longest: usize,
    sequences: Vec<Sequence>,
    left_out: usize,
    notes: Vec<Notes>,
    forms: Forms,
}

/// An example with the prompt that it belongs to.
type Keyed<T> = (String, T);

impl Encoder<'_> {
    /// Keeps what is to be said of a file.
    fn note(&mut self, notes: Notes, reading: &Reading) -> Result<()> {
        notes.check(reading)?;
        self.notes.push(notes);
        Ok(())
    }

    /// The row of the first of these answers to a prompt; `None` where one of them is too long.
    fn rows(
        &mut self,
        path: &Path,
        line: usize,
        prompt: &Text,
        answers: &[&Text],
        variables: &Map<String, Value>,
    ) -> Result<Option<usize>> {
        self.forms.add(self.tokenizer, prompt, &[]);
        let sequences = answers.iter().map(|answer| {
            sequence(self.tokenizer, prompt, answer, variables)
                .map_err(|error| located(error, path, line))
        });
        let sequences = sequences.collect::<Result<Vec<_>>>()?;
        if sequences.iter().any(|one| one.ids.len() > self.longest) {
            self.left_out += 1;
            return Ok(None);
        }
        for one in &sequences {
            if let Err(problem) = self.tokenizer.fits(one.ids.len()) {
                return Err(Error::data_line(path, line, problem).with_hint(
                    "set `data.max_length` to that number, or take a model for longer texts",
                ));
            }
        }
        let row = self.sequences.len();
        self.sequences.extend(sequences);
        Ok(Some(row))
    }

    fn pairs(&mut self, path: &Path, reading: &Reading) -> Result<Vec<Keyed<Pair>>> {
        let mut pairs = Vec::new();
        let read = text::read_with(path, Shape::Pairs, reading)?;
        self.note(read.notes, reading)?;
        for record in read.rows {
            let answers: Vec<&Text> = record.answers.iter().collect();
            let row = self.rows(
                &record.file,
                record.line,
                &record.prompt,
                &answers,
                &record.variables,
            )?;
            let pair = row.map(|row| Pair {
                chosen: row,
                rejected: row + 1,
                prompt: None,
                strength: record.strength,
                weight: record.weight,
                user: None,
                held_out: record.held_out,
            });
            pairs.extend(pair.map(|pair| (record.key(), pair)));
        }
        Ok(pairs)
    }

    fn ratings(
        &mut self,
        path: &Path,
        attributes: &[String],
        reading: &Reading,
    ) -> Result<Vec<Keyed<Rating>>> {
        let mut ratings = Vec::new();
        let read = text::read_rated(path, attributes, reading)?;
        self.note(read.notes, reading)?;
        for rated in read.rows {
            let row = self.rows(
                &rated.file,
                rated.line,
                &rated.prompt,
                &[&rated.answer],
                &rated.variables,
            )?;
            let key = rated.prompt.to_value().to_string();
            let rating = row.map(|row| Rating {
                row,
                values: rated.values,
                held_out: rated.held_out,
            });
            ratings.extend(rating.map(|rating| (key, rating)));
        }
        Ok(ratings)
    }
}

/// Reads and encodes the data of a configuration; needs the tokenizer, not the weights. Examples stay in the computer's
/// memory, where their texts are.
pub(crate) fn read(config: &RewardConfig) -> Result<TextInputs> {
    let (data, base) = (&config.data, &config.model.base);
    let mut tokenizer = open_tokenizer(base, data.chat)?;
    if let (None, Some(start)) = (data.chat, &config.reward_model.start_from) {
        tokenizer = tokenizer.with_words(noted(start));
    }
    let mut encoder = Encoder {
        tokenizer: &tokenizer,
        longest: data.max_length,
        sequences: Vec::new(),
        left_out: 0,
        notes: Vec::new(),
        forms: Forms::default(),
    };
    let reading = Reading {
        columns: Some(&data.columns),
        drops_invalid: data.invalid == Invalid::Drop,
        all_turns: false,
    };
    let more = data.validation.as_deref();
    let (train, held_out, overlap) = if config.reward_model.task == RewardTask::Regression {
        let names = &config.reward_model.attributes;
        let all = encoder.ratings(&data.train, names, &reading)?;
        let more = more.map(|path| encoder.ratings(path, names, &reading));
        let more = more.transpose()?.unwrap_or_default();
        let (train, held_out, overlap) = split(config, all, more, |rating| rating.held_out)?;
        let examples =
            |ratings: &[Rating]| Examples::Ratings(Ratings::new(ratings, names, Device::Cpu));
        let held = (!held_out.is_empty()).then(|| examples(&held_out));
        (examples(&train), held, overlap)
    } else {
        let all = encoder.pairs(&data.train, &reading)?;
        let more = more.map(|path| encoder.pairs(path, &reading));
        let more = more.transpose()?.unwrap_or_default();
        let (train, held_out, overlap) = split(config, all, more, |pair| pair.held_out)?;
        let examples = |pairs: &[Pair]| Examples::Pairs(Pairs::new(pairs, &[], Device::Cpu));
        let held = (!held_out.is_empty()).then(|| examples(&held_out));
        (examples(&train), held, overlap)
    };
    let mut hashes = BTreeMap::from([("training examples".to_owned(), sha256(&data.train)?)]);
    if let Some(path) = &data.validation {
        hashes.insert("held-out examples".to_owned(), sha256(path)?);
    }
    Ok(TextInputs {
        sequences: encoder.sequences,
        left_out: encoder.left_out,
        notes: encoder.notes,
        forms: encoder.forms,
        overlap,
        train,
        held_out,
        tokenizer,
        hashes,
    })
}

/// Training and held-out examples, all of `more` among the latter; no prompt is on both sides by our choice.
fn split<T>(
    config: &RewardConfig,
    all: Vec<Keyed<T>>,
    more: Vec<Keyed<T>>,
    says: impl Fn(&T) -> Option<bool>,
) -> Result<(Vec<T>, Vec<T>, Overlap)> {
    let (train, mut held_out) = groups::split(
        all,
        |(_, example)| says(example),
        |(key, _)| vec![key.clone()],
        config.run.seed,
        config.data.validation_share,
    );
    held_out.extend(more);
    refuse_empty(train.len())?;
    let keys = |side: &[Keyed<T>]| side.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    let overlap = Overlap::count(keys(&train).into_iter(), keys(&held_out).into_iter());
    let examples = |side: Vec<Keyed<T>>| side.into_iter().map(|(_, example)| example).collect();
    Ok((examples(train), examples(held_out), overlap))
}

impl TextInputs {
    /// The model with all that a run trains it with.
    pub(crate) fn parts(
        self,
        config: &RewardConfig,
        (device, kind): (Device, Kind),
        display: &mut dyn Display,
    ) -> Result<(RewardParts, Rc<RewardModel>)> {
        for line in self.notes.iter().flat_map(Notes::lines) {
            display.say(&line);
        }
        if self.held_out.is_some() {
            display.say(&format!("split: {}", self.overlap.in_words("prompts")));
        }
        for sentence in self.forms.in_words() {
            display.say(&format!("words: {sentence}"));
        }
        for warning in self.forms.warnings() {
            display.say(&format!("warning: {warning}"));
        }
        for warning in self.tokenizer.warnings() {
            display.say(&format!("warning: {warning}"));
        }
        if self.left_out > 0 {
            display.say(&format!(
                "warning: {} examples are longer than `data.max_length` and are left out",
                self.left_out
            ));
        }
        let mut hashes = self.hashes;
        let sha256 = |folder: &Path| lm::checkpoint(folder)?.sha256();
        hashes.insert("language model".to_owned(), sha256(&config.model.base)?);
        if let Some(folder) = &config.reward_model.start_from {
            let start = sha256(&base_of(folder)?)?;
            hashes.insert("model to start from".to_owned(), start);
        }
        let model = Rc::new(begin(config, (device, kind), &self.tokenizer)?);
        let parts = RewardParts {
            head: Rc::clone(model.head()),
            parameters: model.parameters(),
            best: BestWeights::RewardModel(Rc::clone(&model)),
            source: Source::Texts(Texts {
                model: Rc::clone(&model),
                sequences: self.sequences,
            }),
            train: self.train,
            held_out: self.held_out,
            hashes,
        };
        Ok((parts, model))
    }
}

/// The model as training begins.
fn begin(
    config: &RewardConfig,
    (device, kind): (Device, Kind),
    tokenizer: &TextTokenizer,
) -> Result<RewardModel> {
    let (section, seed) = (&config.reward_model, config.run.seed);
    let start = section.start_from.as_deref();
    let base = match start {
        Some(folder) => base_of(folder)?,
        None => config.model.base.clone(),
    };
    let base = std::path::absolute(&base).unwrap_or(base);
    let adapter = start.filter(|folder| base_of(folder).is_ok_and(|base| base != **folder));
    let whole = config.adapter.kind == AdapterKind::Full;
    let weights = if whole { Kind::Float } else { kind };
    let body = LanguageModel::open_body(&base, device, weights, kind)?;
    let trained = match (config.adapter.kind, adapter) {
        (AdapterKind::Full, adapter) => {
            if let Some(folder) = adapter {
                LoraSet::load(&body.adapters(), folder)?.merge();
            }
            for (_, tensor) in body.parameters() {
                let _ = tensor.set_requires_grad(true);
            }
            Trained::Whole
        }
        // The same matrices go on, whatever `adapter` says of new ones.
        (AdapterKind::Lora, Some(folder)) => {
            let lora = LoraSet::load(&body.adapters(), folder)?;
            lora.set_trainable(true);
            Trained::Lora(lora, &base)
        }
        (AdapterKind::Lora, None) => {
            let seed = derive_seed(seed, "lora", &[]) as u64;
            let lora = lora_config(&config.adapter);
            let lora = LoraSet::attach(&body.adapters(), &lora, seed, device, Kind::Float)?;
            Trained::Lora(lora, &base)
        }
    };
    let width = body.config().hidden_size;
    let own = head_config(section, width, false, &|| Ok(width), Vec::new())?;
    let mut head = Head::new(
        own,
        derive_seed(seed, "head", &[]) as u64,
        Kind::Float,
        device,
    );
    if let Some(folder) = start {
        head.start_from(&open_head(folder, device)?, section.start_output.as_deref())?;
    }
    RewardModel::new(body, trained, head, tokenizer)
}

/// Measures the best weights in `folder` by `measure`, and puts those on the line from the start through them in their
/// place that are better; the factor of these.
pub(crate) fn extrapolate(
    config: &RewardConfig,
    model: &RewardModel,
    folder: &Path,
    measure: &dyn Fn() -> f64,
) -> Result<Option<f64>> {
    let device = model.device();
    let (best, tokenizer) = RewardModel::open(folder, device, Kind::Float)?;
    let weak = begin(config, (device, Kind::Float), &tokenizer)?;
    model.between(&weak, &best, 1.0)?;
    let (mut reward, mut chosen) = (measure(), None);
    for &factor in &config.reward_model.extrapolate {
        model.between(&weak, &best, factor)?;
        let its = measure();
        if its > reward {
            (reward, chosen) = (its, Some(factor));
        }
    }
    model.between(&weak, &best, chosen.unwrap_or(1.0))?;
    if let Some(factor) = chosen {
        model.save(folder, &extrapolated_by(factor))?;
    }
    Ok(chosen)
}
