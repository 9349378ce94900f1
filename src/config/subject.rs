//! The sections of a run on a subject's photos.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Table;

use super::RunConfig;
use super::sections::{
    AdapterSection, CheckpointSection, ModelSection, PromptList, RunSection, SamplerSection,
    TrainSection, ValidationSection, section,
};

/// Everything that decides a run on a subject. Defaults suit SD 1.5 at 512 pixels with a LoRA.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SubjectConfig {
    /// Output, seed, device.
    pub run: RunSection,
    /// The model to tune.
    pub model: ModelSection,
    /// The subject's photos.
    pub subject: SubjectSection,
    /// The trained weights: a LoRA or the whole U-Net.
    pub adapter: AdapterSection,
    /// The loss.
    pub objective: ObjectiveSection,
    /// The reward.
    pub reward: RewardSection,
    /// The generated images that references are compared with.
    pub negatives: NegativesSection,
    /// The optimisation.
    pub train: TrainSection,
    /// Validation and early stopping.
    pub validation: ValidationSection,
    /// How images are sampled, for negatives and validation.
    pub sampler: SamplerSection,
    /// Checkpoints.
    pub checkpoint: CheckpointSection,
}

/// `[subject]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SubjectSection {
    /// A folder of photos of the subject.
    pub photos: Option<PathBuf>,
    /// A DreamBench clone, instead of `photos`; `name` picks the subject.
    pub dreambench: Option<PathBuf>,
    /// The subject's name in DreamBench.
    pub name: Option<String>,
    /// The word for what the subject is: `dog`. DreamBench subjects have theirs.
    pub class: Option<String>,
    /// True for an animal or a person, which picks the prompts. DreamBench subjects have theirs.
    pub live: Option<bool>,
    /// The word that comes to mean the subject.
    pub token: String,
    /// The prompt under which the photos are learnt.
    pub prompt: String,
}

/// `[objective]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ObjectiveSection {
    /// `rpo` or `dreambooth`.
    pub kind: ObjectiveKind,
    /// Strength of the preference term's margin (`rpo`).
    pub beta: f64,
    /// Weight of the preference term beside the similarity term.
    pub preference_weight: f64,
    /// `soft`: the label is the Bradley-Terry probability; `sampled`: drawn from it at every visit.
    pub labels: Labels,
    /// Temperature of the Bradley-Terry label.
    pub tau: f64,
    /// Share of likeness to the photos in the reward that makes the labels; 0 is text alignment alone.
    pub lambda: f64,
    /// Transform of that reward before labels are made of it, as `preftune label --transform` names it; none where it is not given.
    pub transform: Option<String>,
    /// The reference value of each prompt, as `preftune label --reference` names it.
    pub reference: String,
    /// True: the two images of a pair get the same noise and timestep.
    pub shared_noise: bool,
    /// Draws of noise and timestep that are used again and again, so that the base model sees each with an image once
    /// (`rpo` alone); 0 draws anew at every step.
    pub noise_bank: usize,
    /// Weight of the prior-preservation term, the error on the generated images of the class; 0 leaves it out. With `rpo` it
    /// needs `negatives.token = false`.
    pub prior_weight: f64,
    /// Weight of differential output preservation: under the photos' prompt with the class word alone, the prediction is held
    /// to the base model's; 0 leaves it out.
    pub dop_weight: f64,
    /// Min-SNR weighting of the denoising errors on photos and prior (arXiv 2303.09556): the ratio of signal to noise above which
    /// a timestep weighs less, 5 in the paper; 0 weighs all alike.
    pub min_snr: f64,
    /// Deviation of a constant that is added to each channel of the noise, so that dark and light images are learnt too; 0 adds
    /// none.
    pub noise_offset: f64,
}

/// The objective of an image run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveKind {
    /// Reward Preference Optimization (arXiv 2407.12164).
    Rpo,
    /// DreamBooth's denoising loss on the photos, with or without prior preservation (arXiv 2208.12242).
    Dreambooth,
}

/// How a preference probability becomes a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    /// The probability itself.
    Soft,
    /// A Bernoulli draw of it, anew at every visit.
    Sampled,
}

/// `[reward]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RewardSection {
    /// The encoder of images and texts that gives the reward: the folder of a `CLIPModel`, `SiglipModel` or `AlignModel`, or a
    /// folder or file of OpenCLIP.
    #[serde(with = "crate::hub::stored")]
    #[schemars(with = "PathBuf")]
    pub encoder: PathBuf,
}

/// `[negatives]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NegativesSection {
    /// Images generated for each training prompt.
    pub per_prompt: usize,
    /// Take the images from this folder (with `metadata.jsonl`) instead of generating them.
    pub folder: Option<PathBuf>,
    /// Training prompts, or a file of them, instead of the paper's eight.
    pub prompts: Option<PromptList>,
    /// Prompts of the prior's images, or a file of them (`dreambooth` alone), instead of `prompts`. Either way they are filled
    /// with the class word alone.
    pub prior_prompts: Option<PromptList>,
    /// `true`: the images are made and learnt under prompts with the token. `false`: under the class word alone. `"both"`: as many
    /// images of each. DreamBooth's prior is always under the class word alone.
    pub token: TokenUse,
}

/// With which word for the subject images of its class are prompted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(with = "TokenUseValue")]
pub enum TokenUse {
    /// The token.
    Token,
    /// The class word alone.
    Class,
    /// As many images with the token as without.
    Both,
}

/// As [`TokenUse`] is written.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum TokenUseValue {
    /// With the token, or without.
    Flag(bool),
    /// As many images of each.
    Word(BothWord),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum BothWord {
    Both,
}

impl Serialize for TokenUse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = match self {
            Self::Token => TokenUseValue::Flag(true),
            Self::Class => TokenUseValue::Flag(false),
            Self::Both => TokenUseValue::Word(BothWord::Both),
        };
        value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TokenUse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = TokenUseValue::deserialize(deserializer)
            .map_err(|_| D::Error::custom("expected true, false or \"both\""))?;
        Ok(match value {
            TokenUseValue::Flag(true) => Self::Token,
            TokenUseValue::Flag(false) => Self::Class,
            TokenUseValue::Word(BothWord::Both) => Self::Both,
        })
    }
}

impl Default for SubjectSection {
    fn default() -> Self {
        Self {
            photos: None,
            dreambench: None,
            name: None,
            class: None,
            live: None,
            token: "[V]".to_owned(),
            prompt: "a photo of {token} {class}".to_owned(),
        }
    }
}

impl Default for ObjectiveSection {
    fn default() -> Self {
        Self {
            kind: ObjectiveKind::Rpo,
            beta: 1.0,
            preference_weight: 1.0,
            labels: Labels::Soft,
            tau: 1.0,
            lambda: 0.0,
            transform: None,
            reference: "quantile:0.85".to_owned(),
            shared_noise: true,
            noise_bank: 0,
            prior_weight: 0.0,
            dop_weight: 0.0,
            min_snr: 0.0,
            noise_offset: 0.0,
        }
    }
}

impl Default for NegativesSection {
    fn default() -> Self {
        Self {
            per_prompt: 4,
            folder: None,
            prompts: None,
            prior_prompts: None,
            token: TokenUse::Token,
        }
    }
}

impl RunConfig for SubjectConfig {
    fn from_sections(table: &Table, problems: &mut Vec<String>) -> Self {
        Self {
            run: section(table, "run", problems),
            model: section(table, "model", problems),
            subject: section(table, "subject", problems),
            adapter: section(table, "adapter", problems),
            objective: section(table, "objective", problems),
            reward: section(table, "reward", problems),
            negatives: section(table, "negatives", problems),
            train: section(table, "train", problems),
            validation: section(table, "validation", problems),
            sampler: section(table, "sampler", problems),
            checkpoint: section(table, "checkpoint", problems),
        }
    }

    fn violations(&self, problems: &mut Vec<String>) {
        self.check(problems);
    }
}

impl SubjectConfig {
    /// Takes three settings of the official code: sampled labels at temperature 1 and beta 1, independent noise for the two
    /// images of a pair, every step run with the best weights kept. The rest stays as it is configured.
    pub fn apply_paper(&mut self) {
        self.objective = ObjectiveSection {
            labels: Labels::Sampled,
            shared_noise: false,
            ..ObjectiveSection::default()
        };
        self.validation.patience = 0;
    }
}
