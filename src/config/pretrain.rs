//! The sections of a pretraining run: one part of a small text-to-image model, trained from scratch on the emoji
//! world.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

use super::RunConfig;
use super::check::positive;
use super::sections::{
    CheckpointSection, RunSection, SamplerSection, TrainSection, ValidationSection, section,
};

/// Everything that decides a pretraining run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PretrainConfig {
    /// Output, seed, device.
    pub run: RunSection,
    /// The trained part.
    pub part: PartSection,
    /// The world that it is trained on.
    pub world: WorldSection,
    /// Weights of the loss's terms.
    pub objective: PretrainObjective,
    /// The optimisation; `train.batch` counts images.
    pub train: TrainSection,
    /// Validation and early stopping; prompts and lambda have no meaning here.
    pub validation: ValidationSection,
    /// How a U-Net's validation images are sampled.
    pub sampler: SamplerSection,
    /// Checkpoints.
    pub checkpoint: CheckpointSection,
}

/// `[part]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PartSection {
    /// `vae`, `encoder` or `unet`.
    pub kind: PartKind,
    /// Folder whose configuration files give the architecture; weights in it are not read. For a U-Net a whole
    /// pipeline folder: its text encoder is trained along.
    #[serde(with = "crate::hub::stored")]
    #[schemars(with = "PathBuf")]
    pub template: PathBuf,
    /// The trained autoencoder's folder, in whose latents a U-Net works.
    #[serde(with = "crate::hub::stored::optional")]
    #[schemars(with = "Option<PathBuf>")]
    pub vae: Option<PathBuf>,
    /// A folder with a `unet` and a `text_encoder` of the template's shapes whose weights a U-Net's training goes on
    /// from, `best` of another run for one; without it training starts from nothing.
    #[serde(with = "crate::hub::stored::optional")]
    #[schemars(with = "Option<PathBuf>")]
    pub start: Option<PathBuf>,
    /// Type in which the best weights are stored.
    pub dtype: StoredType,
}

/// Type of stored floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoredType {
    /// 16-bit floats.
    #[default]
    Fp16,
    /// 32-bit floats.
    Fp32,
}

/// A part of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PartKind {
    /// The autoencoder (`AutoencoderKL`).
    #[default]
    Vae,
    /// An image-text encoder (`CLIPModel` or `AlignModel`).
    Encoder,
    /// The denoiser with its text encoder (`UNet2DConditionModel`, `CLIPTextModel`).
    Unet,
}

/// `[world]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WorldSection {
    /// Folder of the sprites.
    pub sprites: PathBuf,
    /// Distinct scenes that a U-Net is trained on; each is encoded once. The other parts see every scene once.
    pub scenes: u64,
    /// Scenes that are validated on.
    pub validation_scenes: u64,
}

/// `[objective]` of a pretraining run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PretrainObjective {
    /// Autoencoder: weight of the squared error beside the absolute one.
    pub squared_weight: f64,
    /// Autoencoder: weight of the absolute error of horizontal and vertical differences.
    pub gradient_weight: f64,
    /// Autoencoder: weight of the mean KL divergence of a latent value from the unit normal.
    pub kl_weight: f64,
    /// Encoder: weight of the supervised contrastive term between two scenes of one drawing.
    pub drawing_weight: f64,
    /// Encoder: weight of the cross-entropy of a scene's class among the captions that name nothing but a class. Places
    /// and colours are learnt first, and what they leave to learn of the classes is little.
    pub class_weight: f64,
    /// Encoder: share of batches that are drawn from a few classes alone.
    pub hard_batches: f64,
    /// Encoder: share of drawings that are shown in other colours, the same in both scenes of a batch. A class has some
    /// twenty drawings; an encoder that knows them by their colours does not know the next one.
    pub dyed: f64,
    /// U-Net: share of captions replaced by the empty one, for classifier-free guidance.
    pub caption_dropout: f64,
}

impl Default for WorldSection {
    fn default() -> Self {
        Self {
            sprites: PathBuf::from("assets/sprites"),
            scenes: 32_768,
            validation_scenes: 256,
        }
    }
}

impl Default for PretrainObjective {
    fn default() -> Self {
        Self {
            squared_weight: 0.5,
            gradient_weight: 0.5,
            kl_weight: 3e-4,
            drawing_weight: 0.5,
            class_weight: 1.0,
            hard_batches: 0.3,
            dyed: 0.25,
            caption_dropout: 0.1,
        }
    }
}

impl RunConfig for PretrainConfig {
    fn from_sections(table: &Table, problems: &mut Vec<String>) -> Self {
        Self {
            run: section(table, "run", problems),
            part: section(table, "part", problems),
            world: section(table, "world", problems),
            objective: section(table, "objective", problems),
            train: section(table, "train", problems),
            validation: section(table, "validation", problems),
            sampler: section(table, "sampler", problems),
            checkpoint: section(table, "checkpoint", problems),
        }
    }

    fn violations(&self, problems: &mut Vec<String>) {
        let mut require = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        require(
            !self.run.output.as_os_str().is_empty(),
            "`run.output` is missing: the folder of the run",
        );
        require(
            !self.part.template.as_os_str().is_empty(),
            "`part.template` is missing: a folder with the part's configuration files",
        );
        require(
            self.part.kind != PartKind::Unet || self.part.vae.is_some(),
            "`part.vae` is missing: the autoencoder in whose latents the U-Net works",
        );
        require(
            self.part.kind == PartKind::Unet || self.part.start.is_none(),
            "`part.start` is for a U-Net: the other parts start from nothing",
        );
        require(self.world.scenes > 0, "`world.scenes` must be above 0");
        require(
            self.world.validation_scenes > 0,
            "`world.validation_scenes` must be above 0",
        );
        let objective = &self.objective;
        for (key, value) in [
            ("squared_weight", objective.squared_weight),
            ("gradient_weight", objective.gradient_weight),
            ("kl_weight", objective.kl_weight),
            ("drawing_weight", objective.drawing_weight),
            ("class_weight", objective.class_weight),
        ] {
            require(
                value == 0.0 || positive(value),
                &format!("`objective.{key}` must be 0 or more"),
            );
        }
        for (key, value) in [
            ("hard_batches", objective.hard_batches),
            ("dyed", objective.dyed),
            ("caption_dropout", objective.caption_dropout),
        ] {
            require(
                (0.0..=1.0).contains(&value),
                &format!("`objective.{key}` must be between 0 and 1"),
            );
        }
        self.train.check(&mut require);
        require(
            self.train.accumulation == 1,
            "`train.accumulation` must be 1: a contrastive batch cannot be made of parts",
        );
        require(
            self.validation.every > 0 || self.validation.patience == 0,
            "`validation.patience` needs validations: set `validation.every` above 0",
        );
        require(
            self.validation.min_gain.is_finite(),
            "`validation.min_gain` must be a finite number",
        );
        require(
            (1..=1000).contains(&self.sampler.steps),
            "`sampler.steps` must be between 1 and 1000",
        );
        require(self.sampler.batch > 0, "`sampler.batch` must be above 0");
        require(
            self.checkpoint.keep > 0,
            "`checkpoint.keep` must be above 0",
        );
    }
}
