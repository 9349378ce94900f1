//! The sections of a run that tunes a diffusion model to pairs of images that people, or a reward, have compared.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

use super::RunConfig;
use super::check::{positive, resolution, sampler};
use super::sections::{
    AdapterKind, AdapterSection, CheckpointSection, HeldOutSection, ModelSection, PromptList,
    RunSection, SamplerSection, TrainSection, section,
};
use super::text::{Invalid, PreferenceSection};

/// Everything that decides a run on pairs of images.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PairsConfig {
    /// Output, seed, device.
    pub run: RunSection,
    /// The model to tune.
    pub model: ModelSection,
    /// The data.
    pub pairs: PairsSection,
    /// The trained weights: a LoRA or the whole U-Net.
    pub adapter: AdapterSection,
    /// The loss: any objective of pairs.
    pub objective: PreferenceSection,
    /// How errors of denoising stand for log-probs.
    pub denoising: DenoisingSection,
    /// The optimisation.
    pub train: TrainSection,
    /// Validation on held-out pairs, and early stopping.
    pub validation: HeldOutSection,
    /// Images that show how the model changes.
    pub preview: PreviewSection,
    /// How they are sampled.
    pub sampler: SamplerSection,
    /// Checkpoints.
    pub checkpoint: CheckpointSection,
}

/// `[pairs]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PairsSection {
    /// Pairs of images: rows with `prompt`, `chosen`, `rejected` (`.jsonl`, `.json`, `.csv`, `.parquet`), the columns of
    /// Pick-a-Pic or of HPD, or a folder of these or with images in `chosen` and `rejected`. Rows whose `split` is
    /// `validation` or `test` are held out.
    pub train: PathBuf,
    /// More pairs, all held out.
    pub validation: Option<PathBuf>,
    /// Share of the pairs of `train` that is held out where the data do not say which; pairs of one prompt or with an
    /// image in common stay together as far as that is possible.
    pub validation_share: f64,
    /// Treatment of rows with faults: a missing or damaged image, the same one twice, no prompt.
    pub invalid: Invalid,
    /// Folder of the images that rows name; that of the rows' file where it is not given.
    pub images: Option<PathBuf>,
    /// Prompt of the pairs that have none of their own.
    pub prompt: Option<String>,
    /// Share of the steps at which a pair's prompt is left out, which keeps guidance working.
    pub empty_prompts: f64,
}

/// `[denoising]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DenoisingSection {
    /// The log-prob of an image is -scale / 2 times its mean squared error of denoising, and its length is `scale`:
    /// Diffusion-DPO's beta is `objective.beta` times this.
    pub scale: f64,
    /// True: the two images of a pair get the same noise and timestep.
    pub shared_noise: bool,
    /// Noises and timesteps at which each held-out pair is looked at, always the same.
    pub validation_draws: usize,
}

/// `[preview]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PreviewSection {
    /// Prompts, or a file of them, of which images are sampled at every validation; none without.
    pub prompts: Option<PromptList>,
    /// Images of each, always from the same noise.
    pub images_per_prompt: usize,
}

impl Default for DenoisingSection {
    fn default() -> Self {
        Self {
            scale: 20_000.0,
            shared_noise: true,
            validation_draws: 4,
        }
    }
}

impl Default for PreviewSection {
    fn default() -> Self {
        Self {
            prompts: None,
            images_per_prompt: 1,
        }
    }
}

/// The learning rate of runs on pairs of images where a configuration gives none.
pub(super) fn default_learning_rate(table: &Table, train: &mut TrainSection, kind: AdapterKind) {
    let given = table.get("train");
    if given.is_none_or(|train| train.get("learning_rate").is_none()) {
        // Far below what imitates a subject: a margin grows for ever (Wallace et al. 2023 trained all weights of SD 1.5
        // with 2.048e-8 at a batch of 2,048).
        train.learning_rate = match kind {
            AdapterKind::Lora => 1e-5,
            AdapterKind::Full => 2e-8,
        };
    }
}

impl RunConfig for PairsConfig {
    fn from_sections(table: &Table, problems: &mut Vec<String>) -> Self {
        let mut config = Self {
            run: section(table, "run", problems),
            model: section(table, "model", problems),
            pairs: section(table, "pairs", problems),
            adapter: section(table, "adapter", problems),
            objective: section(table, "objective", problems),
            denoising: section(table, "denoising", problems),
            train: section(table, "train", problems),
            validation: section(table, "validation", problems),
            preview: section(table, "preview", problems),
            sampler: section(table, "sampler", problems),
            checkpoint: section(table, "checkpoint", problems),
        };
        default_learning_rate(table, &mut config.train, config.adapter.kind);
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
                "`model.base` is missing: a Stable-Diffusion-family model folder",
            ),
            (
                &self.pairs.train,
                "`pairs.train` is missing: a file or folder of pairs of images",
            ),
        ] {
            require(!path.as_os_str().is_empty(), problem);
        }
        for (name, share) in [
            ("validation_share", self.pairs.validation_share),
            ("empty_prompts", self.pairs.empty_prompts),
        ] {
            let problem = format!("`pairs.{name}` must be at least 0 and below 1");
            require((0.0..1.0).contains(&share), &problem);
        }
        self.adapter.check(&mut require);
        self.adapter.check_start(&mut require);
        let weight = self.objective.nll_weight;
        require(
            weight.is_finite() && weight >= 0.0,
            "`objective.nll_weight` must be 0 or more",
        );
        require(
            positive(self.denoising.scale),
            "`denoising.scale` must be above 0",
        );
        require(
            (1..=1000).contains(&self.denoising.validation_draws),
            "`denoising.validation_draws` must be between 1 and 1000",
        );
        resolution(&self.train, &mut require);
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
            self.preview.images_per_prompt > 0,
            "`preview.images_per_prompt` must be above 0",
        );
        sampler(&self.sampler, &mut require);
        require(
            self.checkpoint.keep > 0,
            "`checkpoint.keep` must be above 0",
        );
    }
}
