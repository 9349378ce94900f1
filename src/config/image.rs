//! The sections of an image run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use super::RunConfig;

/// Everything that decides an image run. Defaults suit SD 1.5 at 512 pixels with a LoRA.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// Output, seed, device.
    pub run: RunSection,
    /// The model to tune.
    pub model: ModelSection,
    /// The subject's photos.
    pub subject: SubjectSection,
    /// What is trained: a LoRA or the whole U-Net.
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

/// `[run]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunSection {
    /// Run folder.
    pub output: PathBuf,
    /// Seed of everything random.
    pub seed: u64,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Type of the forward and backward passes; weights that are trained are kept in f32.
    pub precision: Precision,
}

/// Type of activations and frozen weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on a GPU, f32 on a CPU.
    Auto,
    /// 32-bit floats.
    Fp32,
    /// bfloat16.
    Bf16,
}

/// `[model]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelSection {
    /// A Stable-Diffusion-family folder in Hugging Face layout.
    pub base: PathBuf,
    /// Preferred weight files, for example `fp16`.
    pub variant: Option<String>,
}

/// `[subject]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Whether the subject is an animal or person: picks the prompt lists. DreamBench subjects have theirs.
    pub live: Option<bool>,
    /// The word that comes to mean the subject.
    pub token: String,
    /// The prompt under which the photos are learnt.
    pub prompt: String,
}

/// `[adapter]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdapterSection {
    /// `lora` or `full`.
    pub kind: AdapterKind,
    /// Rank of the LoRA.
    pub rank: i64,
    /// The LoRA's weight is alpha / rank.
    pub alpha: f64,
    /// `attention`, `all-linear`, or a list of module suffixes.
    pub targets: Targets,
}

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// A low-rank adapter; the base stays as it is and serves as its own reference.
    Lora,
    /// All weights of the U-Net; a frozen copy serves as reference.
    Full,
}

/// Which layers carry a LoRA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// `attention` (to_q, to_k, to_v, to_out.0) or `all-linear` (kohya's default set).
    Named(NamedTargets),
    /// Suffixes of module paths.
    Suffixes(Vec<String>),
}

/// The two usual sets of LoRA layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamedTargets {
    /// The attention projections.
    Attention,
    /// Every linear layer and 1x1 convolution of the attention blocks.
    AllLinear,
}

/// `[objective]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectiveSection {
    /// `rpo` or `dreambooth`.
    pub kind: ObjectiveKind,
    /// Strength of the preference term's margin.
    pub beta: f64,
    /// Weight of the preference term beside the similarity term.
    pub preference_weight: f64,
    /// `soft`: the label is the Bradley-Terry probability; `sampled`: drawn from it at every visit.
    pub labels: Labels,
    /// Temperature of the Bradley-Terry label.
    pub tau: f64,
    /// lambda of the reward that makes the labels; 0 is text alignment alone.
    pub lambda: f64,
    /// What is done to that reward first, as `preftune label --transform` names it; nothing where it is not given.
    pub transform: Option<String>,
    /// The reference value of each prompt, as `preftune label --reference` names it.
    pub reference: String,
    /// Whether the two images of a pair get the same noise and timestep.
    pub shared_noise: bool,
    /// Draws of noise and timestep that are used again and again, so that the base model sees each with an image once
    /// (`rpo` alone); 0 draws anew at every step.
    pub noise_bank: usize,
    /// Weight of the prior-preservation term (`dreambooth` alone); 0 leaves it out.
    pub prior_weight: f64,
}

/// The objective of an image run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveKind {
    /// Reward Preference Optimization (arXiv 2407.12164).
    Rpo,
    /// DreamBooth's denoising loss on the photos, with or without prior preservation (arXiv 2208.12242).
    Dreambooth,
}

/// How a preference probability becomes a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    /// The probability itself.
    Soft,
    /// A Bernoulli draw of it, anew at every visit.
    Sampled,
}

/// `[reward]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RewardSection {
    /// Folder of the image-text encoder (`CLIPModel` or `AlignModel`) that gives the reward.
    pub encoder: PathBuf,
}

/// `[negatives]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NegativesSection {
    /// Images generated for each training prompt.
    pub per_prompt: usize,
    /// Take the images from this folder (with `metadata.jsonl`) instead of generating them.
    pub folder: Option<PathBuf>,
    /// Training prompts, or a file of them, instead of the paper's eight.
    pub prompts: Option<PromptList>,
}

/// Prompts with the placeholders `{token}` and `{class}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PromptList {
    /// Written out.
    List(Vec<String>),
    /// A file with one prompt a line.
    File(PathBuf),
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainSection {
    /// Side of the training images in pixels; the model's own size where it is not given.
    pub resolution: Option<u32>,
    /// Optimiser steps at most.
    pub steps: u64,
    /// Pairs in a forward pass.
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
    /// Type in which AdamW's average of the gradient is kept.
    pub first_moment: FirstMoment,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Largest norm of the gradient; 0 does not clip.
    pub clip_norm: f64,
    /// Run each block's forward pass twice instead of keeping its activations.
    pub checkpoint_activations: bool,
    /// Decay of the running average of the trained weights that is validated and kept as the best; 0 keeps none.
    pub ema: f64,
    /// Steps between two rows of metrics.
    pub log_every: u64,
}

/// Type in which AdamW's average of the gradient is kept between updates. That of its square is always f32: it moves
/// by a thousandth at a time, which bf16 rounds away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirstMoment {
    /// 32-bit floats.
    Fp32,
    /// bfloat16: two bytes less for each trained weight.
    Bf16,
}

/// Course of the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LearningRateSchedule {
    /// Stays.
    Constant,
    /// Falls in a line to 0 at the last step.
    Linear,
    /// Falls in a half cosine to 0 at the last step.
    Cosine,
}

/// `[validation]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ValidationSection {
    /// Steps between two validations; 0 never validates and keeps the last weights.
    pub every: u64,
    /// Images for each validation prompt, always from the same noise.
    pub images_per_prompt: usize,
    /// Validation prompts, or a file of them, instead of the built-in held-out ones.
    pub prompts: Option<PromptList>,
    /// lambda of the reward that decides: the weight of likeness to the photos.
    pub lambda: f64,
    /// Validations without a better reward after which training stops; 0 runs all steps and keeps the best.
    pub patience: u64,
}

/// `[sampler]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplerSection {
    /// `ddim`, `dpm++` or `euler`.
    pub kind: SamplerName,
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance; 1 is none.
    pub guidance: f64,
    /// Images denoised together.
    pub batch: usize,
}

/// The samplers, as the user names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SamplerName {
    /// Denoising diffusion implicit model, eta 0.
    #[serde(rename = "ddim")]
    Ddim,
    /// DPM-Solver++ (2M).
    #[serde(rename = "dpm++")]
    DpmSolverPp,
    /// Euler.
    #[serde(rename = "euler")]
    Euler,
}

/// `[checkpoint]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointSection {
    /// Steps between two checkpoints; 0 writes one only at an interruption and at the end.
    pub every: u64,
    /// Checkpoints kept.
    pub keep: usize,
}

impl Default for RunSection {
    fn default() -> Self {
        Self {
            output: PathBuf::new(),
            seed: 0,
            device: "auto".to_owned(),
            precision: Precision::Auto,
        }
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

impl Default for AdapterSection {
    fn default() -> Self {
        Self {
            kind: AdapterKind::Lora,
            rank: 16,
            alpha: 16.0,
            targets: Targets::Named(NamedTargets::Attention),
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

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            resolution: None,
            steps: 400,
            batch: 1,
            accumulation: 1,
            learning_rate: 1e-4,
            schedule: LearningRateSchedule::Constant,
            warmup: 0,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            first_moment: FirstMoment::Fp32,
            weight_decay: 1e-2,
            clip_norm: 1.0,
            checkpoint_activations: false,
            ema: 0.0,
            log_every: 1,
        }
    }
}

impl Default for ValidationSection {
    fn default() -> Self {
        Self {
            every: 40,
            images_per_prompt: 2,
            prompts: None,
            lambda: 0.5,
            patience: 3,
        }
    }
}

impl Default for SamplerSection {
    fn default() -> Self {
        Self {
            kind: SamplerName::DpmSolverPp,
            steps: 20,
            guidance: 7.5,
            batch: 8,
        }
    }
}

impl Default for CheckpointSection {
    fn default() -> Self {
        Self { every: 40, keep: 2 }
    }
}

pub(super) fn section<T: DeserializeOwned + Default>(
    table: &Table,
    name: &str,
    problems: &mut Vec<String>,
) -> T {
    let Some(value) = table.get(name).filter(|value| value.is_table()) else {
        return T::default();
    };
    value
        .clone()
        .try_into()
        .unwrap_or_else(|error: toml::de::Error| {
            // Where the key is not in the message, the section and the expected type still are.
            let key = offending_key::<T>(value)
                .map(|key| format!(".{key}"))
                .unwrap_or_default();
            problems.push(format!("`{name}{key}`: {}", error.message().trim()));
            T::default()
        })
}

/// The first key of a section that fails on its own.
fn offending_key<T: DeserializeOwned>(value: &Value) -> Option<String> {
    value.as_table()?.iter().find_map(|(key, value)| {
        let alone = Value::Table(Table::from_iter([(key.clone(), value.clone())]));
        alone.try_into::<T>().is_err().then(|| key.clone())
    })
}

impl RunConfig for ImageConfig {
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

impl ImageConfig {
    /// Gives the official code's semantics (spec part A of the paper's method): sampled labels at temperature 1,
    /// beta 1, independent noise for the two images of a pair, every step run with the best weights kept.
    pub fn apply_paper(&mut self) {
        self.objective = ObjectiveSection {
            labels: Labels::Sampled,
            shared_noise: false,
            ..ObjectiveSection::default()
        };
        self.validation.patience = 0;
    }
}
