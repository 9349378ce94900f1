//! The sections of a run that trains a reward or preference model: on embeddings, on images, or on texts with a language
//! model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

use super::RunConfig;
use super::check::positive;
use super::sections::{
    AdapterKind, AdapterSection, CheckpointSection, FirstMoment, HeldOutSection,
    LearningRateSchedule, RunSection, TrainSection, ValidationBy, section,
};
use super::text::{ChatForm, Invalid, TextModelSection};

/// Everything that decides a reward run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RewardConfig {
    /// Output, seed, device.
    pub run: RunSection,
    /// The reward model.
    pub reward_model: RewardModelSection,
    /// The language model that the head reads, for texts.
    pub model: TextModelSection,
    /// The trained weights of the language model.
    pub adapter: AdapterSection,
    /// The examples.
    pub data: RewardDataSection,
    /// The optimisation.
    pub train: RewardTrainSection,
    /// Validation and early stopping.
    pub validation: HeldOutSection,
    /// Checkpoints.
    pub checkpoint: CheckpointSection,
}

/// `[reward_model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RewardModelSection {
    /// The task.
    pub task: RewardTask,
    /// Widths of the hidden layers; none for a linear head.
    pub hidden: Vec<i64>,
    /// `regression`: columns of ratings.
    pub attributes: Vec<String>,
    /// `general_preference`: number of planes, half the width of an embedding.
    pub planes: i64,
    /// `general_preference`: temperature of its scores.
    pub tau: f64,
    /// Bradley-Terry and its kin: weight of the squared sum of a pair's rewards, which keeps their mean near 0; TRL's name.
    pub center_rewards_coefficient: f64,
    /// `general_preference`, true: planes are weighted by the prompt.
    pub gate: bool,
    /// `general_preference`, true: embeddings have length 1.
    pub unit: bool,
    /// `ideal_point`: dimension of the space of ideal points.
    pub width: i64,
    /// `ideal_point`: number of prototypes; 1 is one user for all.
    pub prototypes: i64,
    /// `ideal_point`: the kind of prototypes.
    pub prototypes_from: PrototypesFrom,
    /// `ideal_point`: `logistic`, or the `hinge` of PAL-A's code.
    pub loss: IdealPointLoss,
    /// Folder of a head to start from, such as `runs/regression/best`.
    #[serde(with = "crate::hub::stored::optional")]
    #[schemars(with = "Option<PathBuf>")]
    pub start_from: Option<PathBuf>,
    /// The output of that head that becomes the reward, where it has several.
    pub start_output: Option<String>,
    /// After training, go on past the best weights, away from those of `start_from`, by the best of these factors
    /// (ExPO); the validation decides.
    pub extrapolate: Vec<f64>,
    /// `ideal_point`, true: no training; the weights of users that the head to start from does not know are fitted.
    pub new_users: bool,
}

/// The task of a reward model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RewardTask {
    /// Pairs: `-ln sigmoid(d)`.
    BradleyTerry,
    /// Pairs with strengths: `-ln sigmoid(d - m)`.
    MarginBradleyTerry,
    /// Pairs with strengths: `-m ln sigmoid(d)`.
    ScaledBradleyTerry,
    /// Ratings: squared error.
    Regression,
    /// Pairs: General Preference Model (arXiv 2410.02197).
    GeneralPreference,
    /// Pairs by user: PAL (arXiv 2406.08469).
    IdealPoint,
}

/// Where prototypes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrototypesFrom {
    /// PAL-A: points among the responses.
    Points,
    /// PAL-B: functions of the prompt.
    Prompt,
}

/// Loss of an ideal-point model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdealPointLoss {
    /// Cross-entropy: of squared distances for points, of scaled cosines for prompts.
    Logistic,
    /// Hinge of distances.
    Hinge,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RewardDataSection {
    /// Safetensors file with `responses` `[n, d]` and, where needed, `prompts` `[m, d]`; or Parquet with columns of these
    /// names, a list of numbers in each row.
    pub embeddings: PathBuf,
    /// Folder of images that the rows name, instead of `embeddings`; that of the rows' file where it is not given.
    /// Pick-a-Pic's Parquet files hold theirs.
    pub images: Option<PathBuf>,
    /// Folder of the encoder of images and texts whose vectors of images the head reads.
    #[serde(with = "crate::hub::stored")]
    #[schemars(with = "PathBuf")]
    pub encoder: PathBuf,
    /// A file with the name of each row of `responses`, one a line; without it rows go by their number.
    pub ids: Option<PathBuf>,
    /// JSON lines of pairs or ratings; rows whose `split` is `validation` are held out.
    pub train: PathBuf,
    /// JSON lines that are held out.
    pub validation: Option<PathBuf>,
    /// Share of the rows that is held out where the data do not say which.
    pub validation_share: f64,
    /// Texts: what the columns are called where that is not known: `{ prompt = "question" }`.
    pub columns: BTreeMap<String, String>,
    /// Treatment of rows with faults.
    pub invalid: Invalid,
    /// How prompts and answers in words are put to a language model that has a chat template; where it is not given, as
    /// the model was tuned by preftune, else through the template.
    pub chat: Option<ChatForm>,
    /// Longest prompt with answer, in tokens; longer ones are left out, because the reward is read from their end.
    pub max_length: usize,
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RewardTrainSection {
    /// Optimiser steps at most.
    pub steps: u64,
    /// Pairs or ratings in a forward pass.
    pub batch: usize,
    /// Forward passes in an optimiser step.
    pub accumulation: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Course of the learning rate after the warm-up.
    pub schedule: LearningRateSchedule,
    /// Steps over which the learning rate rises from 0.
    pub warmup: u64,
    /// AdamW's averaging of the gradient.
    pub beta_1: f64,
    /// AdamW's averaging of the squared gradient.
    pub beta_2: f64,
    /// AdamW's constant beside the root.
    pub epsilon: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Largest norm of the gradient; 0 does not clip.
    pub clip_norm: f64,
    /// Texts, true: each block's forward pass runs twice instead of keeping its activations.
    pub checkpoint_activations: bool,
    /// Steps between two rows of metrics.
    pub log_every: u64,
}

impl Default for RewardModelSection {
    fn default() -> Self {
        Self {
            task: RewardTask::BradleyTerry,
            hidden: Vec::new(),
            attributes: [
                "helpfulness",
                "correctness",
                "coherence",
                "complexity",
                "verbosity",
            ]
            .map(str::to_owned)
            .to_vec(),
            planes: 4,
            tau: 0.1,
            center_rewards_coefficient: 0.0,
            gate: false,
            unit: true,
            width: 32,
            prototypes: 2,
            prototypes_from: PrototypesFrom::Points,
            loss: IdealPointLoss::Logistic,
            start_from: None,
            start_output: None,
            extrapolate: Vec::new(),
            new_users: false,
        }
    }
}

impl Default for RewardDataSection {
    fn default() -> Self {
        Self {
            embeddings: PathBuf::new(),
            images: None,
            encoder: PathBuf::new(),
            ids: None,
            train: PathBuf::new(),
            validation: None,
            validation_share: 0.0,
            columns: BTreeMap::new(),
            invalid: Invalid::Drop,
            chat: None,
            max_length: 1024,
        }
    }
}

impl Default for RewardTrainSection {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch: 64,
            accumulation: 1,
            learning_rate: 1e-3,
            schedule: LearningRateSchedule::Cosine,
            warmup: 0,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            weight_decay: 1e-2,
            clip_norm: 1.0,
            checkpoint_activations: false,
            log_every: 10,
        }
    }
}

impl RewardTrainSection {
    /// The same optimisation in the section that the other kinds of run have.
    pub fn as_train(&self) -> TrainSection {
        TrainSection {
            steps: self.steps,
            batch: self.batch,
            accumulation: self.accumulation,
            learning_rate: self.learning_rate,
            schedule: self.schedule,
            warmup: self.warmup,
            beta_1: self.beta_1,
            beta_2: self.beta_2,
            epsilon: self.epsilon,
            first_moment: FirstMoment::Fp32,
            weight_decay: self.weight_decay,
            clip_norm: self.clip_norm,
            checkpoint_activations: self.checkpoint_activations,
            ema: 0.0,
            log_every: self.log_every,
            resolution: None,
        }
    }
}

impl RunConfig for RewardConfig {
    fn from_sections(table: &Table, problems: &mut Vec<String>) -> Self {
        Self {
            run: section(table, "run", problems),
            reward_model: section(table, "reward_model", problems),
            model: section(table, "model", problems),
            adapter: section(table, "adapter", problems),
            data: section(table, "data", problems),
            train: section(table, "train", problems),
            validation: section(table, "validation", problems),
            checkpoint: section(table, "checkpoint", problems),
        }
    }

    /// Adds one sentence for every value that is out of its range or contradicts another.
    fn violations(&self, problems: &mut Vec<String>) {
        let mut require = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        require(
            given(&self.run.output),
            "`run.output` is missing: the folder of the run",
        );
        let data = &self.data;
        require(
            given(&data.embeddings) || self.reads_texts() || self.reads_images(),
            "`data.embeddings` is missing: a safetensors file with `responses` [n, d]; or `model.base`, a language model, \
             or `data.encoder` and `data.images`",
        );
        require(
            data.images.is_none() || given(&data.encoder),
            "`data.images` needs `data.encoder`: an encoder of images and texts (CLIP, OpenCLIP, SigLIP or ALIGN)",
        );
        require(
            data.chat.is_none() || self.reads_texts(),
            "`data.chat` is for texts: it needs `model.base`",
        );
        require(
            !self.reads_images() || !given(&data.embeddings) && data.ids.is_none(),
            "`data.images` or `data.encoder`, and `data.embeddings` exclude each other",
        );
        if self.reads_texts() {
            self.text_violations(&mut require);
        }
        require(
            given(&data.train),
            "`data.train` is missing: JSON lines of pairs or ratings",
        );
        require(
            (0.0..1.0).contains(&data.validation_share),
            "`data.validation_share` must be at least 0 and below 1",
        );
        require(
            data.validation.is_none() || data.validation_share <= 0.0,
            "`data.validation` and `data.validation_share` exclude each other",
        );
        self.model_violations(&mut require);
        self.training_violations(&mut require);
    }
}

impl RewardConfig {
    /// `true` if the head reads the states of a language model.
    pub fn reads_texts(&self) -> bool {
        !self.model.base.as_os_str().is_empty()
    }

    /// `true` if the head reads an encoder's vectors of images.
    pub fn reads_images(&self) -> bool {
        self.data.images.is_some() || !self.data.encoder.as_os_str().is_empty()
    }

    fn text_violations(&self, require: &mut impl FnMut(bool, &str)) {
        let (model, data) = (&self.reward_model, &self.data);
        require(
            data.embeddings.as_os_str().is_empty() && data.ids.is_none() && !self.reads_images(),
            "`model.base` and `data.embeddings`, `data.images` or `data.encoder` exclude each other: a head reads one of them",
        );
        require(
            model.task != RewardTask::IdealPoint,
            "`reward_model.task = \"ideal_point\"` reads `data.embeddings`, not texts",
        );
        require(data.max_length >= 2, "`data.max_length` must be at least 2");
        require(
            (1..=4096).contains(&self.adapter.rank),
            "`adapter.rank` must be between 1 and 4096",
        );
        require(
            positive(self.adapter.alpha),
            "`adapter.alpha` must be above 0",
        );
        require(
            model.extrapolate.is_empty() || self.adapter.kind == AdapterKind::Full,
            "`reward_model.extrapolate` needs `adapter.kind = \"full\"`: the product of a LoRA's matrices is not on a line",
        );
    }

    fn model_violations(&self, require: &mut impl FnMut(bool, &str)) {
        self.adapter.refuse_start(require);
        let model = &self.reward_model;
        let sizes = |sizes: &[i64]| sizes.iter().all(|size| (1..=65_536).contains(size));
        require(
            sizes(&model.hidden),
            "`reward_model.hidden`: widths are between 1 and 65536",
        );
        require(
            sizes(&[model.planes]),
            "`reward_model.planes` must be between 1 and 65536",
        );
        require(
            sizes(&[model.width]),
            "`reward_model.width` must be between 1 and 65536",
        );
        require(
            (1..=1024).contains(&model.prototypes),
            "`reward_model.prototypes` must be between 1 and 1024",
        );
        require(positive(model.tau), "`reward_model.tau` must be above 0");
        let centred = model.center_rewards_coefficient;
        require(
            centred.is_finite() && centred >= 0.0,
            "`reward_model.center_rewards_coefficient` must be at least 0",
        );
        let scalar_pairs = !matches!(
            model.task,
            RewardTask::Regression | RewardTask::GeneralPreference | RewardTask::IdealPoint
        );
        require(
            centred <= 0.0 || scalar_pairs,
            "`reward_model.center_rewards_coefficient` is for pairs and a scalar reward: the Bradley-Terry tasks",
        );
        let regression = model.task == RewardTask::Regression;
        require(
            !regression || !model.attributes.is_empty(),
            "`reward_model.attributes` must not be an empty list",
        );
        require(
            !regression || self.validation.by == ValidationBy::Loss,
            "`validation.by = \"accuracy\"` needs pairs, not ratings",
        );
        require(
            model.loss == IdealPointLoss::Logistic
                || model.prototypes_from == PrototypesFrom::Points,
            "`reward_model.loss = \"hinge\"` needs `reward_model.prototypes_from = \"points\"`",
        );
        require(
            model.extrapolate.iter().all(|factor| positive(*factor)),
            "`reward_model.extrapolate`: factors are above 0",
        );
        require(
            model.extrapolate.is_empty() || model.start_from.is_some(),
            "`reward_model.extrapolate` needs `reward_model.start_from`",
        );
        require(
            model.extrapolate.is_empty() || self.validation.every > 0,
            "`reward_model.extrapolate` needs validations: set `validation.every` above 0",
        );
        require(
            model.start_output.is_none() || model.start_from.is_some(),
            "`reward_model.start_output` needs `reward_model.start_from`",
        );
        require(
            !model.new_users || model.task == RewardTask::IdealPoint && model.start_from.is_some(),
            "`reward_model.new_users` needs `task = \"ideal_point\"` and `reward_model.start_from`",
        );
    }

    fn training_violations(&self, require: &mut impl FnMut(bool, &str)) {
        let train = &self.train;
        require(train.steps > 0, "`train.steps` must be above 0");
        require(train.batch > 0, "`train.batch` must be above 0");
        require(
            train.accumulation > 0,
            "`train.accumulation` must be above 0",
        );
        require(
            positive(train.learning_rate),
            "`train.learning_rate` must be above 0",
        );
        for (value, problem) in [
            (
                train.beta_1,
                "`train.beta_1` must be at least 0 and below 1",
            ),
            (
                train.beta_2,
                "`train.beta_2` must be at least 0 and below 1",
            ),
        ] {
            require((0.0..1.0).contains(&value), problem);
        }
        require(positive(train.epsilon), "`train.epsilon` must be above 0");
        for (value, problem) in [
            (train.weight_decay, "`train.weight_decay` must be 0 or more"),
            (train.clip_norm, "`train.clip_norm` must be 0 or more"),
        ] {
            require(value.is_finite() && value >= 0.0, problem);
        }
        require(train.log_every > 0, "`train.log_every` must be above 0");
        require(
            self.validation.every > 0 || self.validation.patience == 0,
            "`validation.patience` needs validations: set `validation.every` above 0",
        );
        require(
            self.validation.min_gain.is_finite(),
            "`validation.min_gain` must be a finite number",
        );
        require(
            self.checkpoint.keep > 0,
            "`checkpoint.keep` must be above 0",
        );
    }
}
