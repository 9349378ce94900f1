//! The sections of rounds: a language model that learns, round after round, from its own scored answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

use super::RunConfig;
use super::check::positive;
use super::sections::{AdapterSection, CheckpointSection, RunSection, TrainSection, section};
use super::text::{
    ChatForm, Overlong, PreferenceSection, ReferenceSection, TextConfig, TextDataSection,
    TextModelSection, default_learning_rate,
};

/// Everything that decides the rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RoundsConfig {
    /// Output, seed, device.
    pub run: RunSection,
    /// The first policy.
    pub model: TextModelSection,
    /// The prompts.
    pub data: PromptSection,
    /// How many rounds of what size.
    pub rounds: RoundsSection,
    /// How answers are sampled.
    pub generate: GenerateSection,
    /// The judge of answers.
    pub scorer: ScorerSection,
    /// The labels made of the scores.
    pub labels: LabelSection,
    /// The trained weights: a LoRA, which is merged after each round, or the whole model.
    pub adapter: AdapterSection,
    /// The loss.
    pub objective: PreferenceSection,
    /// The optimisation of each round.
    pub train: TrainSection,
    /// Checkpoints within a round.
    pub checkpoint: CheckpointSection,
}

/// How answers are sampled and judged, of a configuration of rounds or by itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Scoring {
    /// How answers are sampled.
    pub generate: GenerateSection,
    /// The judge of answers.
    pub scorer: ScorerSection,
}

/// `[data]` of rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PromptSection {
    /// Records with a prompt, what its chat template is given beside it (`tools`, `chat_template_kwargs`) and, for
    /// `labels.gold`, an answer.
    pub prompts: PathBuf,
    /// The names of columns where preftune does not know them: `{ prompt = "question" }`.
    pub columns: BTreeMap<String, String>,
    /// How prompts in words are put to a model that has a chat template; where it is not given, as the model was tuned by
    /// preftune, else through the template.
    pub chat: Option<ChatForm>,
    /// Share of the prompts on which policies are compared and never trained.
    pub validation_share: f64,
    /// Longest prompt with answer in training, in tokens.
    pub max_length: usize,
    /// True: training batches hold records of like length, which saves padding.
    pub bucket: bool,
}

/// `[rounds]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RoundsSection {
    /// Rounds.
    pub count: u64,
    /// Prompts of each round, the next ones of one random order; all where it is not given.
    pub prompts: Option<usize>,
    /// Passes over a round's records at most; `train.steps` holds too.
    pub epochs: f64,
    /// Records of earlier rounds that are learnt from again, drawn anew in each round: the first number is the share of
    /// those of the round before, the second of those of the round before that, and so on; none where there is no number.
    /// DNO-Prct has 0.3 and 0.15 (Rosset et al. 2024, arXiv 2404.03715).
    pub replay: Vec<f64>,
}

/// `[generate]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GenerateSection {
    /// Answers to each prompt.
    pub samples: usize,
    /// Divides the logits.
    pub temperature: f64,
    /// Only so many of the likeliest tokens.
    pub top_k: Option<i64>,
    /// Only the fewest of the likeliest tokens whose probabilities sum to this.
    pub top_p: f64,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
    /// Answers written at a time.
    pub batch: usize,
    /// True: the same as `data.chat = "raw"`.
    pub raw: bool,
    /// Answers to each held-out prompt by which policies are compared.
    pub validation_samples: usize,
}

/// `[scorer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ScorerSection {
    /// The scorer.
    pub kind: ScorerKind,
    /// `words`: each adds 1 to an answer's reward.
    pub good: Vec<String>,
    /// `words`: each takes 1 off.
    pub bad: Vec<String>,
    /// `length`: the best length, in characters.
    pub target: usize,
    /// `rewards`, `preferences`: a command for the shell, which reads one JSON object a line and answers each.
    pub command: String,
    /// `rewards`, `preferences`: longest time for an answer, in seconds.
    pub patience: u64,
    /// `model`: a reward model of texts, or the run that made it. A general preference model compares.
    #[serde(with = "crate::hub::stored")]
    #[schemars(with = "PathBuf")]
    pub model: PathBuf,
    /// `model`: the output that is the reward, where there are several; the first where it is not given.
    pub output: Option<String>,
    /// Transform of rewards before answers are learnt from, as `preftune score --transform` names it; none where it is not
    /// given. `and` takes all outputs of a `model`.
    pub transform: Option<String>,
    /// The reference value of a prompt, made of the rewards of the first policy's answers to it, as `--reference` names it.
    pub reference: String,
    /// Difference of rewards that counts as 1: `P(i beats j) = sigmoid((r_i - r_j) / tau)`.
    pub tau: f64,
}

/// The kind of judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScorerKind {
    /// Good words less bad words.
    Words,
    /// Nearness to a length.
    Length,
    /// A command that gives each answer a reward.
    Rewards,
    /// A command that compares two answers; each pair is asked in both orders.
    Preferences,
    /// A reward or preference model that `preftune train` made, or a classifier of transformers.
    Model,
}

/// `[labels]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LabelSection {
    /// The pairs of a prompt's answers that are learnt from.
    pub pairs: PairChoice,
    /// Smallest difference of the win probabilities of a pair; equal ones never are a pair.
    pub min_gap: f64,
    /// `percentile`: least share of the other answers than which a preferred answer is not worse.
    pub positive: f64,
    /// `percentile`: largest share of the other answers than which a rejected answer is better.
    pub negative: f64,
    /// Least reward of a preferred answer; DNO-Prct has 5 of 6 points.
    pub min_reward: Option<f64>,
    /// Least difference of the rewards of a pair; DNO-Prct has 2 points.
    pub reward_gap: Option<f64>,
    /// The same where the preferred answer is the policy's own; as `reward_gap` where it is not given. DNO-Prct has 1 point.
    pub own_reward_gap: Option<f64>,
    /// True: the answer that each prompt's record has (`completion`, or `chosen` of a pair) is judged and learnt from beside
    /// the policy's own.
    pub gold: bool,
    /// Largest share of an answer's runs of four tokens that have come in it before; one that repeats itself more counts as
    /// the worst, whatever the scorer says of it.
    pub max_repetition: Option<f64>,
    /// True: an answer that did not end within `generate.max_tokens` counts as the worst too.
    pub must_end: bool,
}

/// Which pairs of a prompt's answers are learnt from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairChoice {
    /// The best with the worst.
    BestWorst,
    /// All.
    All,
    /// All of an answer near the top of its prompt's answers with one near the bottom.
    Percentile,
}

impl Default for PromptSection {
    fn default() -> Self {
        Self {
            prompts: PathBuf::new(),
            columns: BTreeMap::new(),
            chat: None,
            validation_share: 0.1,
            max_length: 1024,
            bucket: true,
        }
    }
}

impl Default for RoundsSection {
    fn default() -> Self {
        Self {
            count: 3,
            prompts: None,
            epochs: 1.0,
            replay: Vec::new(),
        }
    }
}

impl Default for GenerateSection {
    fn default() -> Self {
        Self {
            samples: 5,
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            max_tokens: 256,
            batch: 32,
            raw: false,
            validation_samples: 1,
        }
    }
}

impl Default for ScorerSection {
    fn default() -> Self {
        Self {
            kind: ScorerKind::Words,
            good: Vec::new(),
            bad: Vec::new(),
            target: 100,
            command: String::new(),
            patience: 120,
            model: PathBuf::new(),
            output: None,
            transform: None,
            reference: "quantile:0.85".to_owned(),
            tau: 1.0,
        }
    }
}

impl Default for LabelSection {
    fn default() -> Self {
        Self {
            pairs: PairChoice::BestWorst,
            min_gap: 0.0,
            positive: 0.8,
            negative: 0.4,
            min_reward: None,
            reward_gap: None,
            own_reward_gap: None,
            gold: false,
            max_repetition: None,
            must_end: false,
        }
    }
}

impl GenerateSection {
    fn check(&self, require: &mut impl FnMut(bool, &str)) {
        require(
            positive(self.temperature),
            "`generate.temperature` must be above 0: equal answers teach nothing",
        );
        require(
            self.top_p > 0.0 && self.top_p <= 1.0,
            "`generate.top_p` must be above 0 and at most 1",
        );
        require(
            self.top_k.is_none_or(|count| count > 0),
            "`generate.top_k` must be above 0",
        );
        for (key, value) in [
            ("max_tokens", self.max_tokens),
            ("batch", self.batch),
            ("validation_samples", self.validation_samples),
        ] {
            require(value > 0, &format!("`generate.{key}` must be above 0"));
        }
    }
}

impl ScorerSection {
    fn check(&self, require: &mut impl FnMut(bool, &str)) {
        match self.kind {
            ScorerKind::Words => require(
                !(self.good.is_empty() && self.bad.is_empty()),
                "`scorer.good` and `scorer.bad` are missing: lists of words",
            ),
            ScorerKind::Length => require(self.target > 0, "`scorer.target` must be above 0"),
            ScorerKind::Rewards | ScorerKind::Preferences => require(
                !self.command.trim().is_empty(),
                "`scorer.command` is missing: a command for the shell",
            ),
            ScorerKind::Model => require(
                !self.model.as_os_str().is_empty(),
                "`scorer.model` is missing: a reward model or its run",
            ),
        }
        require(
            !(self.kind == ScorerKind::Preferences && self.transform.is_some()),
            "`scorer.transform` takes rewards, and `preferences` gives none",
        );
        require(self.patience > 0, "`scorer.patience` must be above 0");
        require(positive(self.tau), "`scorer.tau` must be above 0");
    }
}

impl RoundsSection {
    pub(super) fn check(&self, require: &mut impl FnMut(bool, &str)) {
        require(self.count > 0, "`rounds.count` must be above 0");
        require(self.prompts != Some(0), "`rounds.prompts` must be above 0");
        require(positive(self.epochs), "`rounds.epochs` must be above 0");
        require(
            self.replay.iter().all(|share| (0.0..=1.0).contains(share)),
            "`rounds.replay` must be shares between 0 and 1",
        );
    }
}

impl LabelSection {
    /// Refuses what only answers in words have.
    pub(super) fn refuse_of_texts(&self, require: &mut impl FnMut(bool, &str)) {
        for (key, given) in [
            ("gold", self.gold),
            ("max_repetition", self.max_repetition.is_some()),
            ("must_end", self.must_end),
            ("own_reward_gap", self.own_reward_gap.is_some()),
        ] {
            let problem = format!("`labels.{key}` is for rounds of a language model");
            require(!given, &problem);
        }
    }

    pub(super) fn check(&self, require: &mut impl FnMut(bool, &str)) {
        require(
            (0.0..1.0).contains(&self.min_gap),
            "`labels.min_gap` must be at least 0 and below 1",
        );
        for (key, value) in [
            ("positive", Some(self.positive)),
            ("negative", Some(self.negative)),
            ("max_repetition", self.max_repetition),
        ] {
            require(
                value.is_none_or(|value| (0.0..=1.0).contains(&value)),
                &format!("`labels.{key}` must be between 0 and 1"),
            );
        }
        require(
            self.negative < self.positive,
            "`labels.negative` must be below `labels.positive`: no answer is both preferred and rejected",
        );
        require(
            self.min_reward.is_none_or(f64::is_finite),
            "`labels.min_reward` must be a finite number",
        );
        for (key, value) in [
            ("reward_gap", self.reward_gap),
            ("own_reward_gap", self.own_reward_gap),
        ] {
            require(
                value.is_none_or(|value| value.is_finite() && value >= 0.0),
                &format!("`labels.{key}` must be at least 0"),
            );
        }
    }
}

impl RunConfig for Scoring {
    fn from_sections(table: &Table, problems: &mut Vec<String>) -> Self {
        Self {
            generate: section(table, "generate", problems),
            scorer: section(table, "scorer", problems),
        }
    }

    fn violations(&self, problems: &mut Vec<String>) {
        let mut require = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        self.generate.check(&mut require);
        self.scorer.check(&mut require);
    }
}

impl RoundsConfig {
    /// How words are put to the policies, where that is said.
    pub fn chat(&self) -> Option<ChatForm> {
        if self.generate.raw {
            return Some(ChatForm::Raw);
        }
        self.data.chat
    }

    /// The run of one round: from `policy`, on `records`, into `output`, `steps` steps at most, with `first` as the
    /// reference that stays where there is one beside the policy.
    pub fn round(
        &self,
        policy: &Path,
        first: Option<&Path>,
        records: &Path,
        output: &Path,
        steps: u64,
    ) -> TextConfig {
        let mut config = TextConfig {
            run: self.run.clone(),
            model: TextModelSection {
                base: policy.to_owned(),
                ..TextModelSection::default()
            },
            data: TextDataSection {
                train: records.to_owned(),
                chat: self.chat(),
                max_length: self.data.max_length,
                overlong: Overlong::Truncate,
                bucket: self.data.bucket,
                ..TextDataSection::default()
            },
            adapter: self.adapter.clone(),
            objective: self.objective.clone(),
            reference: ReferenceSection {
                model: first.map(Path::to_owned),
                ..ReferenceSection::default()
            },
            train: self.train.clone(),
            checkpoint: self.checkpoint.clone(),
            ..TextConfig::default()
        };
        output.clone_into(&mut config.run.output);
        config.train.steps = steps;
        // The records are the policy's own: what a round was worth is seen in the next policy's answers.
        (config.validation.every, config.validation.patience) = (0, 0);
        config
    }
}

impl RunConfig for RoundsConfig {
    fn from_sections(table: &Table, problems: &mut Vec<String>) -> Self {
        let mut config = Self {
            run: section(table, "run", problems),
            model: section(table, "model", problems),
            data: section(table, "data", problems),
            rounds: section(table, "rounds", problems),
            generate: section(table, "generate", problems),
            scorer: section(table, "scorer", problems),
            labels: section(table, "labels", problems),
            adapter: section(table, "adapter", problems),
            objective: section(table, "objective", problems),
            train: section(table, "train", problems),
            checkpoint: section(table, "checkpoint", problems),
        };
        default_learning_rate(
            table,
            &mut config.train,
            &config.objective,
            config.adapter.kind,
        );
        config
    }

    fn violations(&self, problems: &mut Vec<String>) {
        let records = Path::new("records");
        let round = self.round(
            &self.model.base,
            None,
            records,
            &self.run.output,
            self.train.steps,
        );
        round.violations(problems);
        let mut require = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        require(
            !self.data.prompts.as_os_str().is_empty(),
            "`data.prompts` is missing: a file of prompts",
        );
        require(
            (0.0..1.0).contains(&self.data.validation_share),
            "`data.validation_share` must be at least 0 and below 1",
        );
        require(
            !(self.generate.raw && self.data.chat == Some(ChatForm::Template)),
            "`generate.raw` and `data.chat = \"template\"` contradict each other: leave out `generate.raw`",
        );
        self.rounds.check(&mut require);
        require(
            (2..=1024).contains(&self.generate.samples),
            "`generate.samples` must be between 2 and 1024: answers are learnt from beside each other",
        );
        self.generate.check(&mut require);
        self.scorer.check(&mut require);
        self.labels.check(&mut require);
        let generate = &self.generate;
        let tempered = (generate.temperature - 1.0).abs() > f64::EPSILON
            || generate.top_p < 1.0
            || generate.top_k.is_some();
        require(
            !(tempered && self.objective.kind.all().iter().any(|name| name == "brain")),
            "`brain` weighs answers by their log-probs: `generate.temperature` and `generate.top_p` must be 1, and \
             `generate.top_k` not given",
        );
    }
}
