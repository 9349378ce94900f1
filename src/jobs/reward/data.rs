//! The inputs of a reward run: embeddings, examples, those of them that are held out, and the head that fits them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::config::{PrototypesFrom, RewardConfig, RewardModelSection, RewardTask};
use crate::data::embeddings::{self, Embedded, Matrix};
use crate::data::groups::{self, Overlap};
use crate::data::left_out::LeftOut;
use crate::data::preferences::{Pair, Rating, Rows, read_pairs, read_ratings};
use crate::error::{Error, Result};
use crate::jobs::Display;
use crate::jobs::inputs::{sha256, split};
use crate::models::heads::{
    Gate, GeneralPreferenceConfig, HeadConfig, HeadKind, IdealPoint, IdealPointConfig, Prototypes,
};
use crate::models::weights::Checkpoint;
use crate::trainer::reward::{Embeddings, Examples, Pairs, Ratings};

/// Everything that was read.
pub(crate) struct Inputs {
    pub(crate) embeddings: Embeddings,
    pub(crate) rows: Read,
    pub(crate) hashes: BTreeMap<String, String>,
}

/// The examples, with what is held out.
pub(crate) enum Read {
    Pairs(Vec<Pair>, Vec<Pair>),
    Ratings(Vec<Rating>, Vec<Rating>),
}

/// Reads embeddings and examples.
pub(crate) fn read(
    config: &RewardConfig,
    device: Device,
    display: &mut dyn Display,
) -> Result<Inputs> {
    let path = &config.data.embeddings;
    let (embeddings, names) = stored(path, device)?;
    let count = |tensor: &Tensor| tensor.size()[0] as usize;
    let (n, m) = (
        count(&embeddings.responses),
        embeddings.prompts.as_ref().map_or(0, count),
    );
    let rows = match (&config.data.ids, names.is_empty()) {
        (Some(ids), _) => Rows::named(ids, n, m)?,
        (None, false) => Rows::called(path, names.iter().map(String::as_str), n, m)?,
        (None, true) => Rows::numbered(n, m),
    };
    let data = &config.data;
    let seed = config.run.seed;
    let share = data.validation_share;
    let attributes = &config.reward_model.attributes;
    let rows = if config.reward_model.task == RewardTask::Regression {
        let ratings = |path: &Path| read_ratings(path, attributes, &rows);
        let key = |rating: &Rating| vec![rating.row.to_string()];
        let all = ratings(&data.train)?;
        let (train, held) = groups::split(all, |rating| rating.held_out, key, seed, share);
        let more = data.validation.as_deref().map(ratings).transpose()?;
        Read::Ratings(train, [held, more.unwrap_or_default()].concat())
    } else {
        let mut left_out = LeftOut::default();
        let mut pairs = |path: &Path| read_pairs(path, &rows, &mut left_out);
        let all = pairs(&data.train)?;
        let (train, held) = split_pairs(all, seed, share);
        let more = data.validation.as_deref().map(pairs).transpose()?;
        for reason in &left_out.reasons {
            display.say(&format!("  left out, {reason}"));
        }
        Read::Pairs(train, [held, more.unwrap_or_default()].concat())
    };
    let files = [
        ("embeddings", Some(path)),
        ("names", data.ids.as_ref()),
        ("training examples", Some(&data.train)),
        ("held-out examples", data.validation.as_ref()),
    ];
    let files = files
        .into_iter()
        .filter_map(|(name, path)| Some((name, path?)));
    let hashes = files.map(|(name, path)| Ok((name.to_owned(), sha256(path)?)));
    Ok(Inputs {
        embeddings,
        rows,
        hashes: hashes.collect::<Result<_>>()?,
    })
}

/// Training and held-out pairs, by whole prompts where there are so many that a share of them can be held out, else pair by
/// pair.
fn split_pairs(all: Vec<Pair>, seed: u64, share: f64) -> (Vec<Pair>, Vec<Pair>) {
    let prompts: BTreeSet<usize> = all.iter().filter_map(|pair| pair.prompt).collect();
    let says = |pair: &Pair| pair.held_out;
    if (prompts.len() as f64) * share < 1.0 || all.iter().any(|pair| pair.prompt.is_none()) {
        return split(all, says, seed, share);
    }
    let key = |pair: &Pair| pair.prompt.iter().map(ToString::to_string).collect();
    groups::split(all, says, key, seed, share)
}

/// The overlap of the two sides of a split, in words: prompts where every pair has one, else responses.
fn overlap(train: &[Pair], held_out: &[Pair]) -> String {
    let by_prompt = train
        .iter()
        .chain(held_out)
        .all(|pair| pair.prompt.is_some());
    let keys = |pair: &Pair| match pair.prompt {
        Some(prompt) if by_prompt => vec![prompt.to_string()],
        _ => vec![pair.chosen.to_string(), pair.rejected.to_string()],
    };
    let [train, held_out] = [train, held_out].map(|side| side.iter().flat_map(keys));
    let groups = if by_prompt { "prompts" } else { "responses" };
    Overlap::count(train, held_out).in_words(groups)
}

/// Embeddings of a file, f32, with the responses' names where it has them.
pub(crate) fn stored(path: &Path, device: Device) -> Result<(Embeddings, Vec<String>)> {
    let parquet = path.extension().is_some_and(|ending| ending == "parquet");
    if parquet {
        let Embedded {
            responses,
            prompts,
            names,
        } = embeddings::read(path)?;
        let tensor = |matrix: &Matrix| {
            let width = matrix.width as i64;
            Tensor::from_slice(&matrix.values)
                .view([-1, width])
                .to_device(device)
        };
        let embeddings = Embeddings {
            responses: tensor(&responses),
            prompts: (prompts.rows() > 0).then(|| tensor(&prompts)),
        };
        return Ok((embeddings, names));
    }
    let file = Checkpoint::open_file(path)?;
    let matrix = |name: &str| -> Result<Tensor> {
        let tensor = file.tensor(name)?;
        if tensor.dim() != 2 || tensor.size().contains(&0) {
            let problem = format!("has shape {:?}, not [rows, width]", tensor.size());
            return Err(Error::tensor(path, name, problem));
        }
        Ok(tensor.to_kind(Kind::Float).to_device(device))
    };
    let prompts = file.contains("prompts").then(|| matrix("prompts"));
    let embeddings = Embeddings {
        responses: matrix("responses")?,
        prompts: prompts.transpose()?,
    };
    Ok((embeddings, Vec::new()))
}

impl Inputs {
    /// The users of the training pairs, sorted; one without a name where there are none.
    pub(crate) fn users(&self) -> Vec<String> {
        let Read::Pairs(train, _) = &self.rows else {
            return Vec::new();
        };
        let users: BTreeSet<String> = train
            .iter()
            .map(|pair| pair.user.clone().unwrap_or_default())
            .collect();
        users.into_iter().collect()
    }

    /// Examples as tensors; held-out pairs of users that are not trained on are left out, and that is said.
    pub(crate) fn examples(
        &self,
        model: &RewardModelSection,
        display: &mut dyn Display,
    ) -> Result<(Examples, Option<Examples>)> {
        let device = self.embeddings.responses.device();
        match &self.rows {
            Read::Ratings(train, held_out) => {
                let ratings = |ratings: &[Rating]| Ratings::new(ratings, &model.attributes, device);
                let held = (!held_out.is_empty()).then(|| Examples::Ratings(ratings(held_out)));
                refuse_empty(train.len())?;
                Ok((Examples::Ratings(ratings(train)), held))
            }
            Read::Pairs(train, held_out) => {
                refuse_empty(train.len())?;
                if !held_out.is_empty() {
                    display.say(&format!("split: {}", overlap(train, held_out)));
                }
                let users = self.users();
                let known = |pair: &&Pair| {
                    model.task != RewardTask::IdealPoint
                        || users.contains(&pair.user.clone().unwrap_or_default())
                };
                let kept: Vec<Pair> = held_out.iter().filter(known).cloned().collect();
                if kept.len() < held_out.len() {
                    display.say(&format!(
                        "warning: {} held-out pairs are of users without a training pair and are left out",
                        held_out.len() - kept.len()
                    ));
                }
                let pairs = |pairs: &[Pair]| Examples::Pairs(Pairs::new(pairs, &users, device));
                Ok((pairs(train), (!kept.is_empty()).then(|| pairs(&kept))))
            }
        }
    }

    /// The head that the configuration asks for on these embeddings.
    ///
    /// # Errors
    /// It reads prompts, and there are none.
    pub(crate) fn head(&self, model: &RewardModelSection) -> Result<HeadConfig> {
        let width = self.embeddings.responses.size()[1];
        head_config(model, width, true, &|| self.prompt_width(), self.users())
    }

    /// Refuses prompts that a trained head cannot read.
    pub(crate) fn check_prompts(&self, head: &IdealPoint) -> Result<()> {
        let Prototypes::OfPrompt { input } = head.config().prototypes else {
            return Ok(());
        };
        let width = self.prompt_width()?;
        if width != input {
            return Err(Error::config(format!(
                "the prompts' embeddings have width {width}, the head to start from reads {input}"
            )));
        }
        Ok(())
    }

    /// Width of the prompts' embeddings, where every pair names a prompt.
    fn prompt_width(&self) -> Result<i64> {
        let all = match &self.rows {
            Read::Pairs(train, held_out) => train
                .iter()
                .chain(held_out)
                .all(|pair| pair.prompt.is_some()),
            Read::Ratings(..) => false,
        };
        let prompts = self.embeddings.prompts.as_ref().filter(|_| all);
        prompts.map(|prompts| prompts.size()[1]).ok_or_else(|| {
            Error::config("this head reads prompts, and not every pair has the embedding of one")
                .with_hint("put `prompts` beside `responses` in `data.embeddings`, and `prompt` (a row) in every pair")
        })
    }
}

/// The head that a configuration asks for on vectors of width `input`, and of `prompt_width` where it reads prompts.
///
/// # Errors
/// Those of `prompt_width`.
pub(crate) fn head_config(
    model: &RewardModelSection,
    input: i64,
    bias: bool,
    prompt_width: &dyn Fn() -> Result<i64>,
    users: Vec<String>,
) -> Result<HeadConfig> {
    let kind = match model.task {
        RewardTask::Regression => HeadKind::Scalar {
            outputs: model.attributes.clone(),
        },
        RewardTask::GeneralPreference => {
            let gate = |input| Gate {
                input,
                sum: model.planes as f64,
            };
            HeadKind::GeneralPreference(GeneralPreferenceConfig {
                planes: model.planes,
                unit: model.unit,
                gate: model.gate.then(prompt_width).transpose()?.map(gate),
                tau: model.tau,
            })
        }
        RewardTask::IdealPoint => HeadKind::IdealPoint(IdealPointConfig {
            width: model.width,
            count: model.prototypes,
            prototypes: match model.prototypes_from {
                PrototypesFrom::Points => Prototypes::Points,
                PrototypesFrom::Prompt => Prototypes::OfPrompt {
                    input: prompt_width()?,
                },
            },
            users,
        }),
        _ => HeadKind::Scalar {
            outputs: vec!["reward".to_owned()],
        },
    };
    Ok(HeadConfig {
        input,
        hidden: model.hidden.clone(),
        bias,
        kind,
    })
}

pub(crate) fn refuse_empty(examples: usize) -> Result<()> {
    if examples == 0 {
        return Err(Error::config("`data.train`: every row is held out"));
    }
    Ok(())
}
