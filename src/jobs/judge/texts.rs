//! Rewards of texts by a trained model: what the verbs that judge texts share.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tch::{Device, Kind, Tensor, no_grad};

use crate::data::text::{Record, Text};
use crate::error::{Error, Result};
use crate::models::heads::{GeneralPreference, HeadKind, Mlp, Network};
use crate::models::lm::reward::{RewardModel, sha256};
use crate::models::lm::tokenizer::{Sequence, TextTokenizer};
use crate::models::weights::hex;
use crate::rewards::general_preference::scores;
use crate::rewards::sentiment::Sentiment;
use crate::run::checkpoint::best_of;
use crate::trainer::text::{Forms, located, sequence};

/// Texts that go through the model at once.
const SLICE: usize = 16;

/// A model's opinion of several answers to one prompt.
pub(crate) enum Opinion {
    /// The numbers of each answer, `[answer][output]`.
    Rewards(Vec<Vec<f64>>),
    /// Of a general preference model: the log-odds that one answer is better than the other, `[answer][answer]`.
    LogOdds(Vec<Vec<f64>>),
}

impl Opinion {
    /// The numbers of each answer, `[answer][output]`: mean log-odds against the others where there is nothing else.
    pub(crate) fn rewards(self) -> Vec<Vec<f64>> {
        match self {
            Self::Rewards(rewards) => rewards,
            Self::LogOdds(table) => {
                let others = (table.len() - 1) as f64;
                let mean = |row: &Vec<f64>| vec![row.iter().sum::<f64>() / others];
                table.iter().map(mean).collect()
            }
        }
    }
}

/// The name that stands for VADER in place of a model's folder.
const SENTIMENT: &str = "sentiment";

/// A source of rewards for texts.
pub(crate) struct TextJudge {
    source: Source,
    /// Names of what [`Self::of_record`] gives for each answer.
    pub(crate) outputs: Vec<String>,
}

enum Source {
    Model(Box<Trained>),
    Sentiment(Sentiment),
}

/// A reward model with its tokenizer.
struct Trained {
    model: RewardModel,
    tokenizer: TextTokenizer,
    folder: PathBuf,
    kind: Kind,
}

impl TextJudge {
    /// Opens `path`: a reward model's folder, the run that made it, or the word `sentiment`.
    pub(crate) fn open(path: &Path, device: Device, kind: Kind) -> Result<Self> {
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
        let trained = Trained {
            model,
            tokenizer,
            folder,
            kind,
        };
        Ok(Self {
            source: Source::Model(Box::new(trained)),
            outputs,
        })
    }

    /// The judge, which takes words as they are or through the chat template where that is asked for.
    #[must_use]
    pub(crate) fn with_words(mut self, raw: Option<bool>) -> Self {
        if let Source::Model(trained) = &mut self.source {
            trained.tokenizer.set_words(raw);
        }
        self
    }

    /// Warnings on its tokenizer, to be known before its numbers are believed.
    pub(crate) fn warnings(&self) -> &[String] {
        match &self.source {
            Source::Model(trained) => trained.tokenizer.warnings(),
            Source::Sentiment(_) => &[],
        }
    }

    /// Warnings on prompts that another model's chat template has made.
    pub(crate) fn warnings_on<'t>(&self, prompts: impl Iterator<Item = &'t Text>) -> Vec<String> {
        let mut forms = Forms::default();
        if let Source::Model(trained) = &self.source {
            for prompt in prompts {
                forms.add(&trained.tokenizer, prompt, &[]);
            }
        }
        forms.warnings()
    }

    /// Hash of the weights, of the type in which they compute and of how they read words: what its rewards depend on.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        match &self.source {
            Source::Sentiment(_) => Ok(hex(&Sha256::digest(SENTIMENT))),
            Source::Model(trained) => {
                let weights = sha256(&trained.folder)?;
                let raw = if trained.tokenizer.is_raw() {
                    " raw"
                } else {
                    ""
                };
                let name = format!("{weights} {:?}{raw}", trained.kind);
                Ok(hex(&Sha256::digest(name)))
            }
        }
    }

    /// `true` if it compares answers and gives none a reward of its own.
    pub(crate) fn compares(&self) -> bool {
        match &self.source {
            Source::Sentiment(_) => false,
            Source::Model(trained) => {
                let network = trained.model.head().network();
                matches!(network, Network::GeneralPreference(_))
            }
        }
    }

    /// For each answer of a record of `path` the numbers of `outputs`. A general preference model gives the mean of its
    /// log-odds against the record's other answers.
    pub(crate) fn of_record(&self, path: &Path, record: &Record) -> Result<Vec<Vec<f64>>> {
        Ok(self.opinion(path, record)?.rewards())
    }

    /// Its opinion of a record of `path`.
    pub(crate) fn opinion(&self, path: &Path, record: &Record) -> Result<Opinion> {
        let trained = match &self.source {
            Source::Model(trained) => trained,
            Source::Sentiment(sentiment) => {
                let rewards = sentiments(sentiment, &record.answers);
                return rewards.map_err(|problem| Error::data_line(path, record.line, problem));
            }
        };
        let sequences = record.answers.iter().map(|answer| {
            sequence(
                &trained.tokenizer,
                &record.prompt,
                answer,
                &record.variables,
            )
            .map_err(|error| located(error, path, record.line))
        });
        let sequences = sequences.collect::<Result<Vec<_>>>()?;
        match trained.judge(&sequences) {
            Ok(opinion) => trained.refuse_infinite(opinion),
            Err(problem) => Err(Error::data_line(path, record.line, problem)),
        }
    }

    /// Its opinion of answers to one prompt; `variables` are for the chat template.
    pub(crate) fn of_answers(
        &self,
        prompt: &Text,
        variables: &Map<String, Value>,
        answers: &[Text],
    ) -> Result<Opinion> {
        let trained = match &self.source {
            Source::Model(trained) => trained,
            Source::Sentiment(sentiment) => {
                return sentiments(sentiment, answers).map_err(Error::config);
            }
        };
        let sequences = answers
            .iter()
            .map(|answer| sequence(&trained.tokenizer, prompt, answer, variables));
        let sequences = sequences.collect::<Result<Vec<_>>>()?;
        trained.refuse_infinite(trained.judge(&sequences).map_err(Error::config)?)
    }
}

fn sentiments(sentiment: &Sentiment, answers: &[Text]) -> Result<Opinion, String> {
    let of = |answer: &Text| match answer {
        Text::Plain(words) | Text::Instructed { words, .. } => Ok(vec![sentiment.score(words)]),
        Text::Chat(messages) => {
            let contents = messages
                .iter()
                .filter_map(|message| message["content"].as_str());
            Ok(vec![
                sentiment.score(&contents.collect::<Vec<_>>().join("\n")),
            ])
        }
        Text::Ids(_) => Err("token ids have no sentiment: it is of words".to_owned()),
    };
    let rewards = answers.iter().map(of).collect::<Result<_, _>>()?;
    Ok(Opinion::Rewards(rewards))
}

impl Trained {
    fn refuse_infinite(&self, opinion: Opinion) -> Result<Opinion> {
        let (Opinion::Rewards(table) | Opinion::LogOdds(table)) = &opinion;
        if table.iter().flatten().all(|number| number.is_finite()) {
            return Ok(opinion);
        }
        Err(Error::not_finite(&self.folder, "rewards"))
    }

    fn judge(&self, sequences: &[Sequence]) -> Result<Opinion, String> {
        for one in sequences {
            self.tokenizer
                .fits(one.ids.len())
                .map_err(|problem| format!("a prompt with its answer {problem}"))?;
        }
        let sequences: Vec<&Sequence> = sequences.iter().collect();
        let numbers = |table: &Tensor| -> Result<Vec<Vec<f64>>, String> {
            let width = table.size()[1] as usize;
            let numbers = Vec::<f64>::try_from(table.to_kind(Kind::Double).flatten(0, -1));
            let numbers = numbers.map_err(|error| error.to_string())?;
            Ok(numbers.chunks(width).map(<[f64]>::to_vec).collect())
        };
        no_grad(|| match self.model.head().network() {
            Network::Scalar(mlp) => numbers(&self.scalars(mlp, &sequences)).map(Opinion::Rewards),
            Network::GeneralPreference(head) if sequences.len() > 1 => {
                numbers(&self.preferences(head, &sequences)).map(Opinion::LogOdds)
            }
            _ => {
                Err("a general preference model compares answers, and there is only one".to_owned())
            }
        })
    }

    /// `[answers, outputs]`
    fn scalars(&self, mlp: &Mlp, sequences: &[&Sequence]) -> Tensor {
        let slices = sequences.chunks(SLICE);
        let slices = slices.map(|slice| mlp.forward(&self.model.states(slice, None).last));
        Tensor::cat(&slices.collect::<Vec<_>>(), 0)
    }

    /// Log-odds of each answer over each, `[answers, answers]`.
    fn preferences(&self, head: &GeneralPreference, sequences: &[&Sequence]) -> Tensor {
        let states: Vec<_> = sequences
            .chunks(SLICE)
            .map(|slice| self.model.states(slice, None))
            .collect();
        let last: Vec<Tensor> = states
            .iter()
            .map(|states| head.embed(&states.last))
            .collect();
        // The prompt is that of all answers.
        let scales = head.scales(Some(&states[0].prompt.get(0)));
        scores(&Tensor::cat(&last, 0), &scales) / head.config().tau // [n, n]
    }
}

/// The folder of a model, or of a run's best weights.
pub(crate) fn weights_of(path: &Path) -> Result<PathBuf> {
    if path.join("manifest.json").exists() {
        best_of(path)
    } else {
        Ok(path.to_owned())
    }
}
