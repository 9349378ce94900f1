//! The sections of rounds for images: a diffusion model that learns, round after round, from its own scored images.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

use super::check::{positive, resolution, sampler};
use super::pairs::{DenoisingSection, PairsConfig, PairsSection, PreviewSection};
use super::rounds::{LabelSection, RoundsSection};
use super::sections::{
    AdapterSection, CheckpointSection, HeldOutSection, ModelSection, PromptList, ReferenceOf,
    RunSection, SamplerSection, TrainSection, ValidationReward, ValidationSection, section,
};
use super::subject::{RewardSection, SubjectConfig, SubjectSection};
use super::text::PreferenceSection;
use super::{RunConfig, pairs};

/// Everything that decides rounds of a diffusion model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ImageRoundsConfig {
    /// Output, seed, device.
    pub run: RunSection,
    /// The first policy; `adapter.start` goes on from a tuned one.
    pub model: ModelSection,
    /// The photos of a subject, where the rounds are for one.
    pub subject: SubjectSection,
    /// The images that a round learns from.
    pub images: ImagesSection,
    /// How many rounds of what size.
    pub rounds: RoundsSection,
    /// What gives images their rewards.
    pub reward: ImageRewardSection,
    /// The labels made of the rewards.
    pub labels: LabelSection,
    /// The trained weights: a LoRA, which each round goes on with, or the whole U-Net.
    pub adapter: AdapterSection,
    /// The loss: any objective of pairs.
    pub objective: PreferenceSection,
    /// What holds the model to the photos.
    pub anchor: AnchorSection,
    /// How errors of denoising stand for log-probs.
    pub denoising: DenoisingSection,
    /// The optimisation of each round.
    pub train: TrainSection,
    /// The reward of held-out prompts, by which weights are kept and rounds end.
    pub validation: RewardValidationOfImages,
    /// How images are sampled.
    pub sampler: SamplerSection,
    /// Checkpoints within a round.
    pub checkpoint: CheckpointSection,
}

/// `[images]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ImagesSection {
    /// Prompts to learn from, or a file of them, with `{token}` and `{class}` where there is a subject.
    pub prompts: Option<PromptList>,
    /// Images that the current model draws of each prompt in a round.
    pub per_prompt: usize,
    /// True: of each prompt with the token, images are drawn with the class word alone too. Of these less likeness to the photos is
    /// better, as long as it is above the untuned model's: the class keeps its meaning. It needs a subject and the reward `harmonic`.
    pub class_alone: bool,
}

/// `[reward]` of rounds for images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ImageRewardSection {
    /// The kind of reward.
    pub kind: ImageRewardKind,
    /// `harmonic`, `model`: the encoder of images and texts: the folder of a `CLIPModel`, `SiglipModel` or `AlignModel`, or a folder
    /// or file of OpenCLIP; PickScore and HPSv2.1 are such encoders too.
    #[serde(with = "crate::hub::stored")]
    #[schemars(with = "PathBuf")]
    pub encoder: PathBuf,
    /// `harmonic`: share of likeness to the photos; without photos the reward is alignment alone.
    pub lambda: f64,
    /// `model`: a reward model on the encoder's vectors of images, or the run that made it.
    #[serde(with = "crate::hub::stored")]
    #[schemars(with = "PathBuf")]
    pub model: PathBuf,
    /// `model`: the output that is the reward, where there are several; the first where it is not given.
    pub output: Option<String>,
    /// `command`: a command for the shell. It reads one JSON object a line, with `prompt` and `image` (a PNG file), and answers
    /// each with one that has `reward`.
    pub command: String,
    /// `command`: longest time for an answer, in seconds.
    pub patience: u64,
    /// Difference of rewards that counts as 1: `P(i beats j) = sigmoid((r_i - r_j) / tau)`.
    pub tau: f64,
}

/// What gives an image its reward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageRewardKind {
    /// The lambda-Harmonic reward of likeness to the photos and alignment with the prompt (arXiv 2407.12164).
    Harmonic,
    /// A reward model that `preftune train` made on vectors of images.
    Model,
    /// A command that looks at each image.
    Command,
}

/// `[anchor]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AnchorSection {
    /// Weight of the denoising error on the photos beside the objective's loss: likeness then cannot drift away. 0 leaves it out;
    /// it needs `subject.photos`.
    pub weight: f64,
}

/// `[validation]` of rounds for images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RewardValidationOfImages {
    /// Steps between two validations within a round.
    pub every: u64,
    /// Held-out prompts, or a file of them.
    pub prompts: Option<PromptList>,
    /// Images of each, always from the same noise, in all rounds.
    pub images_per_prompt: usize,
    /// Of a subject: the encoder that decides, where it is not the reward's. One that gives no reward sees when the reward rises and
    /// nothing else does.
    #[serde(with = "crate::hub::stored::optional")]
    #[schemars(with = "Option<PathBuf>")]
    pub encoder: Option<PathBuf>,
    /// Of a subject: the reward that decides, `harmonic` of likeness and alignment, or `specific`, which counts what is kept of the
    /// class too.
    pub reward: ValidationReward,
    /// Of a subject: true samples each prompt with the class word alone too, from the same noise, and measures it.
    pub specificity: bool,
    /// Validations without a gain after which a round ends; 0 runs all steps and keeps the best. Rounds end with the first one
    /// that gains nothing.
    pub patience: u64,
    /// How much more reward than before counts as a gain; below 0, rounds go on without one, from the best weights there are.
    pub min_gain: f64,
}

impl Default for ImagesSection {
    fn default() -> Self {
        Self {
            prompts: None,
            per_prompt: 8,
            class_alone: false,
        }
    }
}

impl Default for ImageRewardSection {
    fn default() -> Self {
        Self {
            kind: ImageRewardKind::Harmonic,
            encoder: PathBuf::new(),
            lambda: 0.5,
            model: PathBuf::new(),
            output: None,
            command: String::new(),
            patience: 120,
            tau: 0.05,
        }
    }
}

impl Default for AnchorSection {
    fn default() -> Self {
        Self { weight: 0.0 }
    }
}

impl Default for RewardValidationOfImages {
    fn default() -> Self {
        Self {
            every: 20,
            prompts: None,
            images_per_prompt: 2,
            encoder: None,
            reward: ValidationReward::Harmonic,
            specificity: true,
            patience: 2,
            min_gain: 0.0,
        }
    }
}

impl ImageRoundsConfig {
    /// `true` if the rounds are for a subject with photos.
    pub fn has_subject(&self) -> bool {
        self.subject.photos.is_some() || self.subject.dreambench.is_some()
    }

    /// `true` if images are measured as those of runs on subjects are.
    pub fn is_measured(&self) -> bool {
        self.has_subject() && self.reward.kind == ImageRewardKind::Harmonic
    }

    /// The run of one round: on `pairs`, from the weights at `start` (the base's own where there are none), into `output`, `steps`
    /// steps at most.
    pub fn round(
        &self,
        start: Option<&Path>,
        pairs: &Path,
        output: &Path,
        steps: u64,
    ) -> PairsConfig {
        let mut config = PairsConfig {
            run: self.run.clone(),
            model: self.model.clone(),
            pairs: PairsSection {
                train: pairs.to_owned(),
                ..PairsSection::default()
            },
            adapter: self.adapter.clone(),
            objective: self.objective.clone(),
            denoising: self.denoising.clone(),
            train: self.train.clone(),
            validation: HeldOutSection {
                every: self.validation.every,
                patience: self.validation.patience,
                min_gain: self.validation.min_gain,
                ..HeldOutSection::default()
            },
            preview: PreviewSection {
                images_per_prompt: self.validation.images_per_prompt,
                ..PreviewSection::default()
            },
            sampler: self.sampler.clone(),
            checkpoint: self.checkpoint.clone(),
        };
        output.clone_into(&mut config.run.output);
        config.train.steps = steps;
        config.adapter.start = start.map(Path::to_owned);
        config.adapter.reference = if start.is_some() {
            ReferenceOf::Start
        } else {
            ReferenceOf::Base
        };
        config
    }

    /// The same subject, model and sampler as a run on a subject has them, for what judges such runs.
    pub fn as_subject(&self) -> SubjectConfig {
        SubjectConfig {
            run: self.run.clone(),
            model: self.model.clone(),
            subject: self.subject.clone(),
            adapter: self.adapter.clone(),
            reward: RewardSection {
                encoder: self.reward.encoder.clone(),
            },
            train: self.train.clone(),
            validation: ValidationSection {
                images_per_prompt: self.validation.images_per_prompt,
                lambda: self.reward.lambda,
                reward: self.validation.reward,
                specificity: self.validation.specificity,
                ..ValidationSection::default()
            },
            sampler: self.sampler.clone(),
            ..SubjectConfig::default()
        }
    }
}

impl RunConfig for ImageRoundsConfig {
    fn from_sections(table: &Table, problems: &mut Vec<String>) -> Self {
        let mut config = Self {
            run: section(table, "run", problems),
            model: section(table, "model", problems),
            subject: section(table, "subject", problems),
            images: section(table, "images", problems),
            rounds: section(table, "rounds", problems),
            reward: section(table, "reward", problems),
            labels: section(table, "labels", problems),
            adapter: section(table, "adapter", problems),
            objective: section(table, "objective", problems),
            anchor: section(table, "anchor", problems),
            denoising: section(table, "denoising", problems),
            train: section(table, "train", problems),
            validation: section(table, "validation", problems),
            sampler: section(table, "sampler", problems),
            checkpoint: section(table, "checkpoint", problems),
        };
        pairs::default_learning_rate(table, &mut config.train, config.adapter.kind);
        config
    }

    fn violations(&self, problems: &mut Vec<String>) {
        // What a round's own run would refuse.
        let start = self.adapter.start.as_deref();
        let pairs = Path::new("pairs");
        self.round(start, pairs, &self.run.output, self.train.steps)
            .violations(problems);
        let mut require = |holds: bool, problem: &str| {
            if !holds && !problems.iter().any(|known| known == problem) {
                problems.push(problem.to_owned());
            }
        };
        require(
            self.adapter.reference == ReferenceOf::Base,
            "`adapter.reference` is not of rounds: each is compared with the policy that drew its images",
        );
        self.subject_violations(&mut require);
        require(
            self.images.prompts.is_some() || self.has_subject(),
            "`images.prompts` is missing: prompts to learn from, or a file of them",
        );
        require(
            (2..=1024).contains(&self.images.per_prompt),
            "`images.per_prompt` must be between 2 and 1024: a prompt's images are learnt from beside each other",
        );
        let is = |kind| self.reward.kind == kind;
        require(
            is(ImageRewardKind::Command) || !self.reward.encoder.as_os_str().is_empty(),
            "`reward.encoder` is missing: an encoder of images and texts (CLIP, OpenCLIP, SigLIP or ALIGN)",
        );
        require(
            !is(ImageRewardKind::Command) || !self.reward.command.trim().is_empty(),
            "`reward.command` is missing: a command for the shell",
        );
        require(
            !is(ImageRewardKind::Model) || !self.reward.model.as_os_str().is_empty(),
            "`reward.model` is missing: a reward model on vectors of images, or its run",
        );
        require(
            (0.0..=1.0).contains(&self.reward.lambda),
            "`reward.lambda` must be between 0 and 1",
        );
        require(
            self.reward.patience > 0,
            "`reward.patience` must be above 0",
        );
        require(positive(self.reward.tau), "`reward.tau` must be above 0");
        let weight = self.anchor.weight;
        require(
            weight.is_finite() && weight >= 0.0,
            "`anchor.weight` must be 0 or more",
        );
        require(
            weight == 0.0 || self.has_subject(),
            "`anchor.weight` needs `subject.photos`",
        );
        require(
            self.validation.every > 0,
            "`validation.every` must be above 0: the reward of held-out prompts says which weights are kept",
        );
        require(
            self.validation.images_per_prompt > 0,
            "`validation.images_per_prompt` must be above 0",
        );
        let measured = self.is_measured();
        require(
            !self.images.class_alone || measured && self.validation.specificity,
            "`images.class_alone` needs a subject, `reward.kind = \"harmonic\"` and `validation.specificity = true`",
        );
        require(
            self.validation.encoder.is_none() || measured,
            "`validation.encoder` needs a subject and `reward.kind = \"harmonic\"`",
        );
        require(
            self.validation.reward == ValidationReward::Harmonic
                || measured && self.validation.specificity,
            "`validation.reward = \"specific\"` needs a subject, `reward.kind = \"harmonic\"` and `validation.specificity = true`",
        );
        require(
            self.validation.prompts.is_some() || self.has_subject(),
            "`validation.prompts` is missing: held-out prompts, or a file of them",
        );
        self.rounds.check(&mut require);
        self.labels.check(&mut require);
        self.labels.refuse_of_texts(&mut require);
        resolution(&self.train, &mut require);
        sampler(&self.sampler, &mut require);
    }
}

impl ImageRoundsConfig {
    fn subject_violations(&self, require: &mut impl FnMut(bool, &str)) {
        if self.has_subject() {
            self.subject.check(require);
            return;
        }
        require(
            self.subject.class.is_none() && self.subject.name.is_none(),
            "`subject.photos` is missing: a folder of photos (or leave `[subject]` out for rounds without a subject)",
        );
    }
}
