//! What a reward run is made from: embeddings, examples, what of them is held out, and the head that fits them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tch::{Device, Kind, Tensor};

use super::progress::Progress;
use crate::config::{PrototypesFrom, RewardConfig, RewardModelSection, RewardTask};
use crate::data::embeddings::{self, Embedded, Matrix};
use crate::data::preferences::{Pair, Rating, Rows, read_pairs, read_ratings};
use crate::error::{Error, Result};
use crate::models::heads::{
    Gate, GeneralPreferenceConfig, HeadConfig, HeadKind, IdealPoint, IdealPointConfig, Prototypes,
};
use crate::models::weights::{Checkpoint, hex};
use crate::ops::random::{derive_seed, uniform};
use crate::trainer::reward::{Embeddings, Examples, Pairs, Ratings};

/// Everything that was read.
pub(super) struct Inputs {
    pub(super) embeddings: Embeddings,
    pub(super) rows: Read,
    pub(super) hashes: BTreeMap<String, String>,
}

/// The examples, with what is held out.
pub(super) enum Read {
    Pairs(Vec<Pair>, Vec<Pair>),
    Ratings(Vec<Rating>, Vec<Rating>),
}

/// Reads embeddings and examples.
pub(super) fn read(config: &RewardConfig, device: Device) -> Result<Inputs> {
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
        let held_out = |rating: &Rating| rating.held_out;
        let (train, held) = split(ratings(&data.train)?, held_out, seed, share);
        let more = data.validation.as_deref().map(ratings).transpose()?;
        Read::Ratings(train, [held, more.unwrap_or_default()].concat())
    } else {
        let pairs = |path: &Path| read_pairs(path, &rows);
        let (train, held) = split(
            pairs(&data.train)?,
            |pair: &Pair| pair.held_out,
            seed,
            share,
        );
        let more = data.validation.as_deref().map(pairs).transpose()?;
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

/// Embeddings of a file, f32, with the responses' names where it has them.
pub(super) fn stored(path: &Path, device: Device) -> Result<(Embeddings, Vec<String>)> {
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

pub(super) fn sha256(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    io::copy(&mut file, &mut hash).map_err(|source| Error::io("read", path, source))?;
    Ok(hex(&hash.finalize()))
}

/// Training and held-out examples: as the data say, else a share drawn by the seed.
pub(super) fn split<T>(
    all: Vec<T>,
    says: impl Fn(&T) -> Option<bool>,
    seed: u64,
    share: f64,
) -> (Vec<T>, Vec<T>) {
    let mut place = 0;
    all.into_iter().partition(|example| {
        place += 1;
        !says(example).unwrap_or_else(|| uniform(derive_seed(seed, "held out", &[place])) < share)
    })
}

impl Inputs {
    /// The users of the training pairs, sorted; one without a name where there are none.
    pub(super) fn users(&self) -> Vec<String> {
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
    pub(super) fn examples(
        &self,
        model: &RewardModelSection,
        display: &Progress,
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
    pub(super) fn head(&self, model: &RewardModelSection) -> Result<HeadConfig> {
        let width = self.embeddings.responses.size()[1];
        head_config(model, width, true, &|| self.prompt_width(), self.users())
    }

    /// Refuses prompts that a trained head cannot read.
    pub(super) fn check_prompts(&self, head: &IdealPoint) -> Result<()> {
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
pub(super) fn head_config(
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

pub(super) fn refuse_empty(examples: usize) -> Result<()> {
    if examples == 0 {
        return Err(Error::config("`data.train`: every row is held out"));
    }
    Ok(())
}
