//! The sections of a run on a subject's photos.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
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
    /// Weight of the prior-preservation term (`dreambooth` alone); 0 leaves it out.
    pub prior_weight: f64,
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
        }
    }
}

impl Default for NegativesSection {
    fn default() -> Self {
        Self {
            per_prompt: 4,
            folder: None,
            prompts: None,
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
