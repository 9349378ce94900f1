//! Rewards of texts by a trained model or by their sentiment: what the verbs that judge texts share.

use std::path::{Path, PathBuf};

use serde_json::Map;
use tch::{Device, Kind, Tensor, no_grad};

use crate::data::text::{Record, Text};
use crate::error::{Error, Result};
use crate::models::heads::{GeneralPreference, HeadKind, Mlp, Network};
use crate::models::lm::reward::RewardModel;
use crate::models::lm::tokenizer::{Sequence, TextTokenizer};
use crate::rewards::general_preference::scores;
use crate::rewards::sentiment::Sentiment;
use crate::run::checkpoint::best_of;
use crate::trainer::text::{located, sequence};

/// Texts that go through the model at once.
const SLICE: usize = 16;

/// What stands for VADER in place of a model's folder.
const SENTIMENT: &str = "sentiment";

/// What gives texts rewards.
pub(super) struct TextJudge {
    source: Source,
    /// Names of what [`Self::of_record`] gives for each answer.
    pub(super) outputs: Vec<String>,
}

enum Source {
    Model(Box<(RewardModel, TextTokenizer)>),
    Sentiment(Sentiment),
}

impl TextJudge {
    /// Opens `path`: a reward model's folder, the run that made it, or the word `sentiment`.
    pub(super) fn open(path: &Path, device: Device, kind: Kind) -> Result<Self> {
        if path == Path::new(SENTIMENT) {
            return Ok(Self {
                source: Source::Sentiment(Sentiment::default()),
                outputs: vec![SENTIMENT.to_owned()],
            });
        }
        let folder = weights_of(path)?;
        if !RewardModel::is_there(&folder) {
            return Err(Error::weights(path, "no reward model of texts").with_hint(
                "give the run of a configuration with `[reward_model]` and `model.base`, its `best`, or a \
                 `...ForSequenceClassification` of transformers",
            ));
        }
        let (model, tokenizer) = RewardModel::open(&folder, device, kind)?;
        let outputs = match &model.head().config().kind {
            HeadKind::Scalar { outputs } => outputs.clone(),
            HeadKind::GeneralPreference(_) => vec!["preference".to_owned()],
            HeadKind::IdealPoint(_) => {
                return Err(Error::weights(
                    path,
                    "knows users, and texts are not judged by users",
                ));
            }
        };
        Ok(Self {
            source: Source::Model(Box::new((model, tokenizer))),
            outputs,
        })
    }

    /// For each answer of a record of `path` the numbers of `outputs`. A general preference model gives the mean of its
    /// log-odds against the record's other answers.
    pub(super) fn of_record(&self, path: &Path, record: &Record) -> Result<Vec<Vec<f64>>> {
        let (model, tokenizer) = match &self.source {
            Source::Model(model) => (&model.0, &model.1),
            Source::Sentiment(sentiment) => {
                let rewards = sentiments(sentiment, &record.answers);
                return rewards.map_err(|problem| Error::data_line(path, record.line, problem));
            }
        };
        let sequences = record.answers.iter().map(|answer| {
            sequence(tokenizer, &record.prompt, answer, &record.variables)
                .map_err(|error| located(error, path, record.line))
        });
        let sequences = sequences.collect::<Result<Vec<_>>>()?;
        match rewards(model, &sequences) {
            Ok(rewards) => Ok(rewards),
            Err(problem) => Err(Error::data_line(path, record.line, problem)),
        }
    }

    /// The same of answers to one prompt.
    pub(super) fn of_answers(&self, prompt: &Text, answers: &[Text]) -> Result<Vec<Vec<f64>>> {
        let (model, tokenizer) = match &self.source {
            Source::Model(model) => (&model.0, &model.1),
            Source::Sentiment(sentiment) => {
                return sentiments(sentiment, answers).map_err(Error::config);
            }
        };
        let sequences = answers
            .iter()
            .map(|answer| sequence(tokenizer, prompt, answer, &Map::new()));
        let sequences = sequences.collect::<Result<Vec<_>>>()?;
        rewards(model, &sequences).map_err(Error::config)
    }
}

fn sentiments(sentiment: &Sentiment, answers: &[Text]) -> Result<Vec<Vec<f64>>, String> {
    let of = |answer: &Text| match answer {
        Text::Plain(text) => Ok(vec![sentiment.of(text)]),
        Text::Chat(messages) => {
            let contents = messages
                .iter()
                .filter_map(|message| message["content"].as_str());
            Ok(vec![sentiment.of(&contents.collect::<Vec<_>>().join("\n"))])
        }
        Text::Ids(_) => Err("token ids have no sentiment: it is of words".to_owned()),
    };
    answers.iter().map(of).collect()
}

fn rewards(model: &RewardModel, sequences: &[Sequence]) -> Result<Vec<Vec<f64>>, String> {
    let sequences: Vec<&Sequence> = sequences.iter().collect();
    let rewards = no_grad(|| match model.head().network() {
        Network::Scalar(mlp) => Ok(scalars(model, mlp, &sequences)),
        Network::GeneralPreference(head) if sequences.len() > 1 => {
            Ok(preferences(model, head, &sequences))
        }
        _ => Err("a general preference model compares answers, and there is only one".to_owned()),
    })?; // [answers, outputs]
    let width = rewards.size()[1] as usize;
    let numbers = Vec::<f64>::try_from(rewards.to_kind(Kind::Double).flatten(0, -1));
    let numbers = numbers.map_err(|error| error.to_string())?;
    if numbers.iter().any(|number| !number.is_finite()) {
        return Err("the model gives a reward that is not finite".to_owned());
    }
    Ok(numbers.chunks(width).map(<[f64]>::to_vec).collect())
}

fn scalars(model: &RewardModel, mlp: &Mlp, sequences: &[&Sequence]) -> Tensor {
    let slices = sequences.chunks(SLICE);
    let slices = slices.map(|slice| mlp.forward(&model.states(slice, None).last));
    Tensor::cat(&slices.collect::<Vec<_>>(), 0)
}

fn preferences(model: &RewardModel, head: &GeneralPreference, sequences: &[&Sequence]) -> Tensor {
    let states: Vec<_> = sequences
        .chunks(SLICE)
        .map(|slice| model.states(slice, None))
        .collect();
    let last: Vec<Tensor> = states
        .iter()
        .map(|states| head.embed(&states.last))
        .collect();
    // The prompt is that of all answers.
    let scales = head.scales(Some(&states[0].prompt.get(0)));
    let table = scores(&Tensor::cat(&last, 0), &scales) / head.config().tau; // [n, n]
    let others = (sequences.len() - 1) as f64;
    table.sum_dim_intlist(-1, true, Kind::Float) / others
}

/// The folder of a model, or of a run's best weights.
pub(super) fn weights_of(path: &Path) -> Result<PathBuf> {
    if path.join("manifest.json").exists() {
        best_of(path)
    } else {
        Ok(path.to_owned())
    }
}
