//! The sections that several kinds of run share.

use std::path::PathBuf;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::{Table, Value};

/// `[run]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RunSection {
    /// Folder of the run.
    pub output: PathBuf,
    /// Seed of everything random.
    pub seed: u64,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Type of the forward and backward passes; weights that are trained are kept in f32.
    pub precision: Precision,
}

/// Type of activations and frozen weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum, JsonSchema)]
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ModelSection {
    /// Stable Diffusion 1, 2 or XL: `org/name` on the Hugging Face hub, a folder in its layout, or the whole model in one file.
    #[serde(with = "crate::hub::stored")]
    #[schemars(with = "PathBuf")]
    pub base: PathBuf,
    /// An autoencoder (VAE) in the place of the base's: a folder of diffusers, a model's folder or file with one, or a file with
    /// nothing else. Its latents must be those that the U-Net was made for.
    #[serde(with = "crate::hub::stored::optional")]
    #[schemars(with = "Option<PathBuf>")]
    pub vae: Option<PathBuf>,
    /// Preferred weight files, for example `fp16`.
    pub variant: Option<String>,
}

/// `[adapter]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Models of images: tuned weights to go on from. With `kind = "lora"` a LoRA file, or a folder or run with one: its modules,
    /// ranks and strengths are kept, and `rank`, `alpha` and `targets` are not used; its parts for text encoders are applied and stay
    /// as they are. With `kind = "full"` a run that tuned all weights, or the folder of its U-Net. Sampled negatives are those of the
    /// base model without its U-Net part.
    #[serde(with = "crate::hub::stored::optional")]
    #[schemars(with = "Option<PathBuf>")]
    pub start: Option<PathBuf>,
    /// Models of images: the model that the objective compares with: `base`, or `start`, the one that training goes on from.
    pub reference: ReferenceOf,
}

/// The model that an objective compares with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReferenceOf {
    /// The base model.
    #[default]
    Base,
    /// What training goes on from.
    Start,
}

/// The trained weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// A low-rank adapter; the base stays as it is and serves as its own reference.
    Lora,
    /// All weights of the U-Net; a frozen copy serves as reference.
    Full,
}

/// Which layers carry a LoRA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Targets {
    /// `attention` (to_q, to_k, to_v, to_out.0) or `all-linear` (kohya's default set).
    Named(NamedTargets),
    /// Suffixes of module paths.
    Suffixes(Vec<String>),
}

/// The two usual sets of LoRA layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NamedTargets {
    /// The attention projections.
    Attention,
    /// Every linear layer and 1x1 convolution of the attention blocks.
    AllLinear,
}

/// Prompts with the placeholders `{token}` and `{class}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PromptList {
    /// Written out.
    List(Vec<String>),
    /// A file with one prompt a line.
    File(PathBuf),
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Highest learning rate. Where it is not given, texts and rounds take 1e-5 with a LoRA, 1e-6 with all weights, and 2e-4 and 2e-5
    /// where the objective is `sft`; pairs of images take 1e-5 and 2e-8.
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
    /// True: each block's forward pass runs twice instead of keeping its activations, which takes less memory and more time.
    pub checkpoint_activations: bool,
    /// Decay of the running average of the trained weights that is validated and kept as the best; 0 keeps none.
    pub ema: f64,
    /// Steps between two rows of metrics.
    pub log_every: u64,
}

/// Type in which AdamW's average of the gradient is kept between updates. That of its square is always f32: it moves
/// by a thousandth at a time, which bf16 rounds away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FirstMoment {
    /// 32-bit floats.
    Fp32,
    /// bfloat16: two bytes less for each trained weight.
    Bf16,
}

/// Course of the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ValidationSection {
    /// Steps between two validations; 0 never validates and keeps the last weights.
    pub every: u64,
    /// Images for each validation prompt, always from the same noise.
    pub images_per_prompt: usize,
    /// Validation prompts, or a file of them, instead of the built-in held-out ones.
    pub prompts: Option<PromptList>,
    /// Share of likeness to the photos in the reward that decides.
    pub lambda: f64,
    /// The reward that decides: `harmonic`, of likeness and alignment, or `specific`, which counts what is kept of the class too.
    pub reward: ValidationReward,
    /// `true`: each prompt with the token is sampled with the class word alone too, from the same noise, and measured: does the class
    /// word draw the subject by now?
    pub specificity: bool,
    /// Validations without a gain in reward after which training stops; 0 runs all steps and keeps the best.
    pub patience: u64,
    /// How much more reward than at the last gain counts as one for `patience`; the best weights are kept all the same. Below
    /// 0, a reward that is less than this under the best does not count against `patience` either.
    pub min_gain: f64,
    /// Standard errors by which a gain must be above `min_gain` too, of the differences between the images of two validations; runs
    /// on a subject show them.
    pub gain_errors: f64,
}

/// The reward by which a run on a subject stops and keeps weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ValidationReward {
    /// The lambda-Harmonic reward of likeness and alignment (arXiv 2407.12164).
    #[default]
    Harmonic,
    /// The harmonic mean of likeness, alignment and the share of the class that is kept.
    Specific,
}

/// `[sampler]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum, JsonSchema)]
pub enum SamplerName {
    /// Denoising diffusion implicit model, eta 0.
    #[serde(rename = "ddim")]
    Ddim,
    /// DPM-Solver++ (2M).
    #[serde(rename = "dpm++")]
    #[value(name = "dpm++")]
    DpmSolverPp,
    /// Euler.
    #[serde(rename = "euler")]
    Euler,
}

impl SamplerName {
    /// The user's spelling.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::DpmSolverPp => "dpm++",
            Self::Euler => "euler",
        }
    }
}

/// `[checkpoint]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CheckpointSection {
    /// Steps between two checkpoints; 0 writes one only at an interruption and at the end.
    pub every: u64,
    /// Checkpoints kept.
    pub keep: usize,
}

/// A section that says how often a run is validated and when validations end it.
pub trait StopRule {
    /// Steps between two validations; 0 is never.
    fn every(&self) -> u64;

    /// Validations without improvement after which training stops; 0 is never.
    fn patience(&self) -> u64;
    /// Standard errors that come on top of that, where single rewards are known.
    fn gain_errors(&self) -> f64 {
        0.0
    }

    /// How much better than at the last gain counts as one.
    fn min_gain(&self) -> f64;
}

impl StopRule for ValidationSection {
    fn gain_errors(&self) -> f64 {
        self.gain_errors
    }

    fn every(&self) -> u64 {
        self.every
    }

    fn patience(&self) -> u64 {
        self.patience
    }

    fn min_gain(&self) -> f64 {
        self.min_gain
    }
}

impl StopRule for HeldOutSection {
    fn every(&self) -> u64 {
        self.every
    }

    fn patience(&self) -> u64 {
        self.patience
    }

    fn min_gain(&self) -> f64 {
        self.min_gain
    }
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

impl Default for AdapterSection {
    fn default() -> Self {
        Self {
            kind: AdapterKind::Lora,
            rank: 16,
            alpha: 16.0,
            targets: Targets::Named(NamedTargets::Attention),
            start: None,
            reference: ReferenceOf::Base,
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
            reward: ValidationReward::Harmonic,
            specificity: true,
            patience: 5,
            min_gain: 0.0,
            gain_errors: 0.0,
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

/// `[validation]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HeldOutSection {
    /// Steps between two validations; 0 never validates and keeps the last weights.
    pub every: u64,
    /// Validations without a gain after which training stops; 0 runs all steps and keeps the best.
    pub patience: u64,
    /// How much better than at the last gain counts as one for `patience`; the best weights are kept all the same. Below
    /// 0, what is less than this under the best does not count against `patience` either.
    pub min_gain: f64,
    /// The figure that decides.
    pub by: ValidationBy,
}

/// The figure that decides which weights are best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValidationBy {
    /// A lower loss.
    Loss,
    /// A higher accuracy (pairs).
    Accuracy,
}

impl Default for HeldOutSection {
    fn default() -> Self {
        Self {
            every: 50,
            patience: 4,
            min_gain: 0.0,
            by: ValidationBy::Loss,
        }
    }
}

/// The first key of a section that fails on its own.
fn offending_key<T: DeserializeOwned>(value: &Value) -> Option<String> {
    value.as_table()?.iter().find_map(|(key, value)| {
        let alone = Value::Table(Table::from_iter([(key.clone(), value.clone())]));
        alone.try_into::<T>().is_err().then(|| key.clone())
    })
}
