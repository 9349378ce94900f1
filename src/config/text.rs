//! The sections of a run that tunes a language model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

use super::RunConfig;
use super::sections::{
    AdapterKind, AdapterSection, CheckpointSection, HeldOutSection, RunSection, TrainSection,
    section,
};

/// Everything that decides a text run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TextConfig {
    /// Output, seed, device.
    pub run: RunSection,
    /// The model to tune.
    pub model: TextModelSection,
    /// The data.
    pub data: TextDataSection,
    /// The trained weights: a LoRA or the whole model.
    pub adapter: AdapterSection,
    /// The loss.
    pub objective: PreferenceSection,
    /// The model that it is held near to.
    pub reference: ReferenceSection,
    /// The optimisation.
    pub train: TrainSection,
    /// Validation and early stopping.
    pub validation: HeldOutSection,
    /// Checkpoints.
    pub checkpoint: CheckpointSection,
}

/// `[model]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TextModelSection {
    /// A language model: `org/name` on the Hugging Face hub, or a folder in its layout, the tokenizer in it.
    #[serde(with = "crate::hub::stored")]
    #[schemars(with = "PathBuf")]
    pub base: PathBuf,
    /// True: weights are new, and only the configuration and the tokenizer of the folder are read.
    pub from_scratch: bool,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TextDataSection {
    /// Records (`.jsonl`, `.jsonl.gz`, `.json`, `.parquet`, `.csv`, `.tsv`, or a folder of these); rows whose `split` is
    /// `validation` or `test` are held out.
    pub train: PathBuf,
    /// More records, all held out.
    pub validation: Option<PathBuf>,
    /// Share of the records of `train` that is held out where the data do not say which, by whole prompts.
    pub validation_share: f64,
    /// The names of columns where preftune does not know them: `{ prompt = "question" }`.
    pub columns: BTreeMap<String, String>,
    /// Treatment of rows with faults: an empty answer, two equal ones, a missing label.
    pub invalid: Invalid,
    /// `sft` on chats: which of the assistant's turns are learnt from. Within the answers of a pair, a list or a mark all of
    /// them are; what the user or a tool says there is read and not scored.
    pub train_on: TrainOn,
    /// How prompts and answers in words are put to a model that has a chat template; where it is not given, as the model
    /// was tuned by preftune, else through the template.
    pub chat: Option<ChatForm>,
    /// Longest prompt with answer, in tokens.
    pub max_length: usize,
    /// How longer ones are treated.
    pub overlong: Overlong,
    /// True: batches hold records of like length, which saves padding.
    pub bucket: bool,
    /// True: every epoch has an order of its own. False: batches follow the file.
    pub shuffle: bool,
}

/// Treatment of rows with faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Invalid {
    /// They are left out and counted; a tenth or more of a file refuses it.
    #[default]
    Drop,
    /// They refuse the file.
    Error,
}

/// Which of the assistant's turns in a chat are learnt from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrainOn {
    /// The last one; all before is its prompt.
    #[default]
    Last,
    /// Every one, in one pass over the chat.
    All,
}

/// How prompts and answers in words are put to a model that has a chat template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChatForm {
    /// As messages of the user and the assistant, through the template.
    Template,
    /// As they are: the answer continues the prompt.
    Raw,
}

impl ChatForm {
    /// `true` if words stay as they are; `None` where that was not said.
    pub fn raw(form: Option<Self>) -> Option<bool> {
        form.map(|form| form == Self::Raw)
    }
}

/// How a text that is too long is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overlong {
    /// Its end is cut off; a record whose prompt leaves no room for an answer is left out.
    Truncate,
    /// The record is left out.
    Drop,
}

/// `[objective]`. The numbers are those that `preftune loss --list` names; each objective takes its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PreferenceSection {
    /// Name of the objective, such as `dpo`, `ipo`, `simpo`, `kto`, `sft`, `pro`; several names are a weighted sum, in
    /// which numbers go to all that have them.
    pub kind: ObjectiveNames,
    /// Weight of each name of `kind`; 1 where they are not given.
    pub weights: Option<Vec<f64>>,
    /// Weight of the mean negative log-likelihood of the preferred answer's tokens, added to the loss.
    pub nll_weight: f64,
    /// Strength of the pull to the reference, or scale of the margin.
    pub beta: Option<f64>,
    /// IPO: the target margin is 1 / (2 tau). INPO: pull to the first reference.
    pub tau: Option<f64>,
    /// DNO, INPO: strength of the pull to the previous iterate.
    pub eta: Option<f64>,
    /// f-DPO: between reverse (0) and forward KL divergence (1). TDPO2: weight of the divergences.
    pub alpha: Option<f64>,
    /// cDPO, rDPO: share of labels that are wrong.
    pub label_smoothing: Option<f64>,
    /// BRAIn: temperature of the rewards.
    pub gamma: Option<f64>,
    /// SimPO: margin asked for, in nats per token.
    pub gamma_beta_ratio: Option<f64>,
    /// ASFT, ORPO: weight of the preference term.
    pub lambda: Option<f64>,
    /// ASFT, PRO: weight of the likelihood term.
    pub sft_weight: Option<f64>,
    /// f-DPO: exponents above it go on as a straight line.
    pub exponent_cap: Option<f64>,
    /// GPO: largest target.
    pub target_clamp: Option<f64>,
    /// Length-normalised GPO: log-ratios are divided by length to this power.
    pub length_exponent: Option<f64>,
    /// KTO: weight of desirable answers.
    pub desirable_weight: Option<f64>,
    /// KTO: weight of undesirable answers.
    pub undesirable_weight: Option<f64>,
    /// DNO: what differences of win rates are multiplied by before they become targets; above 1 they are sharper.
    pub target_scale: Option<f64>,
}

/// One objective or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ObjectiveNames {
    /// One.
    One(String),
    /// A sum of several.
    Sum(Vec<String>),
}

impl ObjectiveNames {
    /// All names.
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Sum(names) => names,
        }
    }
}

/// `[reference]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ReferenceSection {
    /// Another model as the reference than the one that training starts from (INPO: the first of all).
    #[serde(with = "crate::hub::stored::optional")]
    #[schemars(with = "Option<PathBuf>")]
    pub model: Option<PathBuf>,
    /// When its log-probs are computed.
    pub mode: ReferenceMode,
    /// Folder of computed log-probs, which runs on the same data can share; the run's own where it is not given.
    pub cache: Option<PathBuf>,
}

/// Where the reference's log-probs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReferenceMode {
    /// Computed once, before the first step.
    Cached,
    /// Computed at every step: with the adapters off, or by a frozen copy.
    Live,
}

impl Default for TextDataSection {
    fn default() -> Self {
        Self {
            train: PathBuf::new(),
            validation: None,
            validation_share: 0.0,
            columns: BTreeMap::new(),
            invalid: Invalid::Drop,
            train_on: TrainOn::Last,
            chat: None,
            max_length: 1024,
            overlong: Overlong::Truncate,
            bucket: true,
            shuffle: true,
        }
    }
}

impl Default for PreferenceSection {
    fn default() -> Self {
        Self {
            kind: ObjectiveNames::One("dpo".to_owned()),
            weights: None,
            nll_weight: 0.0,
            beta: None,
            tau: None,
            eta: None,
            alpha: None,
            label_smoothing: None,
            gamma: None,
            gamma_beta_ratio: None,
            lambda: None,
            sft_weight: None,
            exponent_cap: None,
            target_clamp: None,
            length_exponent: None,
            desirable_weight: None,
            undesirable_weight: None,
            target_scale: None,
        }
    }
}

impl Default for ReferenceSection {
    fn default() -> Self {
        Self {
            model: None,
            mode: ReferenceMode::Cached,
            cache: None,
        }
    }
}

/// Sets the learning rate where none is given, to TRL's defaults. A language model that is tuned to preferences with the rate
/// that suits a LoRA of a U-Net is soon worth nothing.
pub(super) fn default_learning_rate(
    table: &Table,
    train: &mut TrainSection,
    objective: &PreferenceSection,
    adapter: AdapterKind,
) {
    let given = table.get("train");
    if given.is_some_and(|train| train.get("learning_rate").is_some()) {
        return;
    }
    let imitates = objective.kind.all().iter().all(|name| name == "sft");
    train.learning_rate = match (imitates, adapter) {
        (true, AdapterKind::Lora) => 2e-4,
        (true, AdapterKind::Full) => 2e-5,
        (false, AdapterKind::Lora) => 1e-5,
        (false, AdapterKind::Full) => 1e-6,
    };
}

impl RunConfig for TextConfig {
    fn from_sections(table: &Table, problems: &mut Vec<String>) -> Self {
        let mut config = Self {
            run: section(table, "run", problems),
            model: section(table, "model", problems),
            data: section(table, "data", problems),
            adapter: section(table, "adapter", problems),
            objective: section(table, "objective", problems),
            reference: section(table, "reference", problems),
            train: section(table, "train", problems),
            validation: section(table, "validation", problems),
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
        let mut require = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        for (path, problem) in [
            (
                &self.run.output,
                "`run.output` is missing: the folder of the run",
            ),
            (
                &self.model.base,
                "`model.base` is missing: the folder of a language model",
            ),
            (
                &self.data.train,
                "`data.train` is missing: a file of records",
            ),
        ] {
            require(!path.as_os_str().is_empty(), problem);
        }
        require(
            (0.0..1.0).contains(&self.data.validation_share),
            "`data.validation_share` must be at least 0 and below 1",
        );
        require(
            self.data.max_length >= 2,
            "`data.max_length` must be at least 2",
        );
        let weight = self.objective.nll_weight;
        require(
            weight.is_finite() && weight >= 0.0,
            "`objective.nll_weight` must be 0 or more",
        );
        let adapter = &self.adapter;
        require(
            !self.model.from_scratch || adapter.kind == AdapterKind::Full,
            "`model.from_scratch` trains all weights: set `adapter.kind = \"full\"`",
        );
        adapter.check(&mut require);
        adapter.refuse_start(&mut require);
        require(
            self.train.resolution.is_none(),
            "`train.resolution` belongs to image runs",
        );
        self.train.check(&mut require);
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
