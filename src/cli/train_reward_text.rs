//! What a reward run on texts is made from: pairs or ratings as token ids, and the language model with its head.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use serde_json::{Map, Value};
use tch::{Device, Kind};

use super::model::lora_config;
use super::progress::Progress;
use super::train_reward::Parts;
use super::train_reward_data::{head_config, refuse_empty, sha256, split};
use crate::config::{AdapterKind, RewardConfig, RewardTask};
use crate::data::preferences::{Pair, Rating};
use crate::data::text::{self, Shape, Text};
use crate::error::{Error, Result};
use crate::models::heads::Head;
use crate::models::lm::reward::{RewardModel, Trained, base_of, open_head};
use crate::models::lm::tokenizer::{Sequence, TextTokenizer};
use crate::models::lm::{LanguageModel, LmConfig};
use crate::models::lora::LoraSet;
use crate::models::weights::Checkpoint;
use crate::ops::random::derive_seed;
use crate::run::checkpoint::BestWeights;
use crate::trainer::reward::{Examples, Pairs, Ratings, Source, Texts};
use crate::trainer::text::{located, sequence};

/// Texts of a run as token ids, with the examples that point to them.
pub(super) struct TextInputs {
    sequences: Vec<Sequence>,
    train: Examples,
    held_out: Option<Examples>,
    left_out: usize,
    tokenizer: TextTokenizer,
    hashes: BTreeMap<String, String>,
}

/// Texts that become sequences.
struct Encoder<'a> {
    tokenizer: &'a TextTokenizer,
    longest: usize,
    sequences: Vec<Sequence>,
    left_out: usize,
}

impl Encoder<'_> {
    /// The row of the first of these answers to a prompt; `None` where one of them is too long.
    fn rows(
        &mut self,
        path: &Path,
        line: usize,
        prompt: &Text,
        answers: &[&Text],
        variables: &Map<String, Value>,
    ) -> Result<Option<usize>> {
        let sequences = answers.iter().map(|answer| {
            sequence(self.tokenizer, prompt, answer, variables)
                .map_err(|error| located(error, path, line))
        });
        let sequences = sequences.collect::<Result<Vec<_>>>()?;
        if sequences.iter().any(|one| one.ids.len() > self.longest) {
            self.left_out += 1;
            return Ok(None);
        }
        let row = self.sequences.len();
        self.sequences.extend(sequences);
        Ok(Some(row))
    }

    fn pairs(&mut self, path: &Path) -> Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        for record in text::read(path, Shape::Pairs)? {
            if record.strength < 0.0 {
                let problem = format!("`margin` is {}, but must be at least 0", record.strength);
                return Err(Error::data_line(path, record.line, problem));
            }
            let answers: Vec<&Text> = record.answers.iter().collect();
            let row = self.rows(
                path,
                record.line,
                &record.prompt,
                &answers,
                &record.variables,
            )?;
            pairs.extend(row.map(|row| Pair {
                chosen: row,
                rejected: row + 1,
                prompt: None,
                strength: record.strength,
                weight: record.weight,
                user: None,
                held_out: record.held_out,
            }));
        }
        Ok(pairs)
    }

    fn ratings(&mut self, path: &Path, attributes: &[String]) -> Result<Vec<Rating>> {
        let mut ratings = Vec::new();
        for rated in text::read_rated(path, attributes)? {
            let row = self.rows(
                path,
                rated.line,
                &rated.prompt,
                &[&rated.answer],
                &rated.variables,
            )?;
            ratings.extend(row.map(|row| Rating {
                row,
                values: rated.values,
                held_out: rated.held_out,
            }));
        }
        Ok(ratings)
    }
}

/// Reads and encodes the data of a configuration; needs the tokenizer, not the weights.
pub(super) fn read(config: &RewardConfig, device: Device) -> Result<TextInputs> {
    let (data, base) = (&config.data, &config.model.base);
    let tokenizer = TextTokenizer::open(base, LmConfig::open(base)?.vocab_size)?;
    let mut encoder = Encoder {
        tokenizer: &tokenizer,
        longest: data.max_length,
        sequences: Vec::new(),
        left_out: 0,
    };
    let (seed, share) = (config.run.seed, data.validation_share);
    let (train, held_out) = if config.reward_model.task == RewardTask::Regression {
        let names = &config.reward_model.attributes;
        let all = encoder.ratings(&data.train, names)?;
        let (train, mut held_out) = split(all, |rating: &Rating| rating.held_out, seed, share);
        if let Some(path) = &data.validation {
            held_out.extend(encoder.ratings(path, names)?);
        }
        refuse_empty(train.len())?;
        let examples = |ratings: &[Rating]| Examples::Ratings(Ratings::new(ratings, names, device));
        let held = (!held_out.is_empty()).then(|| examples(&held_out));
        (examples(&train), held)
    } else {
        let all = encoder.pairs(&data.train)?;
        let (train, mut held_out) = split(all, |pair: &Pair| pair.held_out, seed, share);
        if let Some(path) = &data.validation {
            held_out.extend(encoder.pairs(path)?);
        }
        refuse_empty(train.len())?;
        let examples = |pairs: &[Pair]| Examples::Pairs(Pairs::new(pairs, &[], device));
        let held = (!held_out.is_empty()).then(|| examples(&held_out));
        (examples(&train), held)
    };
    let mut hashes = BTreeMap::from([("training examples".to_owned(), sha256(&data.train)?)]);
    if let Some(path) = &data.validation {
        hashes.insert("held-out examples".to_owned(), sha256(path)?);
    }
    Ok(TextInputs {
        sequences: encoder.sequences,
        left_out: encoder.left_out,
        train,
        held_out,
        tokenizer,
        hashes,
    })
}

impl TextInputs {
    /// The model with all that a run trains it with.
    pub(super) fn parts(
        self,
        config: &RewardConfig,
        (device, kind): (Device, Kind),
        display: &Progress,
    ) -> Result<(Parts, Rc<RewardModel>)> {
        if self.left_out > 0 {
            display.say(&format!(
                "warning: {} examples are longer than `data.max_length` and are left out",
                self.left_out
            ));
        }
        let mut hashes = self.hashes;
        let sha256 = |folder: &Path| {
            Ok::<_, Error>(Checkpoint::open_component(folder, "model", None)?.sha256())
        };
        hashes.insert("language model".to_owned(), sha256(&config.model.base)?);
        if let Some(folder) = &config.reward_model.start_from {
            let start = sha256(&base_of(folder)?)?;
            hashes.insert("model to start from".to_owned(), start);
        }
        let model = Rc::new(begin(config, (device, kind), &self.tokenizer)?);
        let parts = Parts {
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
pub(super) fn extrapolate(
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
        model.save(folder, &super::train_reward::extrapolated_by(factor))?;
    }
    Ok(chosen)
}
