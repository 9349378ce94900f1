//! Tuning a diffusion U-Net to a subject: what an image run adds to the loop.
//!
//! All inputs are encoded once, before the first step (`prepare.rs`): photos and generated images to latent
//! posteriors, prompts to conditioning, everything to reward features and label probabilities. A step
//! (`step.rs`) then only runs the U-Net; a validation (`validate.rs`) samples held-out prompts from fixed noise.

mod bank;
mod prepare;
mod step;
mod validate;

use image::RgbImage;

use self::bank::NoiseBank;
pub use self::bank::base_forwards;
pub use self::prepare::{Inputs, label_weighing};
use self::prepare::{LatentPool, PairLabels};
pub use self::validate::Judge;
use crate::config::{ObjectiveSection, SubjectConfig};
use crate::distributed::Share;
use crate::error::Result;
use crate::models::diffusion::Conditioning;
use crate::models::diffusion::pipeline::{Pipeline, SampleSettings};
use crate::models::encoders::DualEncoder;
use crate::rewards::bradley_terry::Statistics;
use crate::trainer::denoising::Reference;
use crate::trainer::event::{Metrics, Observer, Validation};
use crate::trainer::profile::Profile;
use crate::trainer::{Scalar, Task};

/// An image run's task: the trained pipeline with everything it needs encoded.
pub struct SubjectTask {
    pipeline: Pipeline,
    reference: Option<Reference>,
    bank: Option<NoiseBank>,
    objective: ObjectiveSection,
    checkpoint_activations: bool,
    batch: usize,
    accumulation: u64,
    seed: u64,
    photos: LatentPool,
    generated: Option<LatentPool>,
    /// Differential output preservation: the photos' prompt with the class word alone, one row.
    preserved: Option<Conditioning>,
    labels: Option<PairLabels>,
    judge: Judge,
    share: Share,
    /// U-Net sample-forwards of training: policy and reference.
    training_forwards: u64,
    profile: Option<Profile>,
}

impl SubjectTask {
    /// Encodes all inputs and labels the pairs. `reference` is needed by RPO alone.
    pub fn new(
        pipeline: Pipeline,
        reference: Option<Reference>,
        encoder: DualEncoder,
        config: &SubjectConfig,
        inputs: Inputs,
        settings: SampleSettings,
    ) -> Result<Self> {
        prepare::prepare(pipeline, reference, encoder, config, inputs, settings)
    }

    /// Times the parts of the steps to come.
    pub fn set_profile(&mut self, profile: Profile) {
        self.profile = Some(profile);
    }

    /// The parts' times, where they were asked for.
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    /// Figures of the preference labels; `None` where the objective has none.
    pub fn label_statistics(&self) -> Option<&Statistics> {
        self.labels.as_ref().map(|labels| &labels.statistics)
    }

    /// Mean leave-one-out image similarity of the photos: what a perfect likeness would score.
    pub fn oracle(&self) -> Option<f64> {
        self.judge.oracle
    }

    /// Position of the first image of the class word alone among the images of a validation; `None` where there is none.
    pub fn first_of_class(&self) -> Option<usize> {
        self.judge.first_of_class()
    }

    /// Takes the untuned model's figures from a run's earlier part: the mean cosine of its images of the class word with the
    /// photos, and those images. `false` if not all of them are there, and drift from them cannot be measured.
    ///
    /// # Errors
    /// The reward encoder does not take the images.
    pub fn remember_untuned(&mut self, cosine: f64, images: &[RgbImage]) -> Result<bool> {
        self.judge.remember_untuned(cosine, images)
    }

    /// The reward encoder.
    pub fn encoder(&self) -> &DualEncoder {
        &self.judge.encoder
    }
}

impl Task for SubjectTask {
    fn accumulate(&mut self, step: u64, micro: u64) -> Result<Vec<Scalar>> {
        let weight = self.share.examples(self.batch).len() as f64 / self.batch as f64;
        Ok(Scalar::all(weight, self.training_step(step, micro)))
    }

    fn take(&mut self, share: &Share) -> Result<()> {
        self.share = share.clone();
        Ok(())
    }

    fn validate(&mut self, step: u64, observer: &mut dyn Observer) -> Result<Validation> {
        let peers = self.share.peers();
        self.judge.validate(&self.pipeline, peers, step, observer)
    }

    fn alarms(&self, validation: &Validation, untuned: &Metrics) -> Vec<String> {
        self.judge.alarms(validation, untuned)
    }

    fn updated(&mut self) {
        if let Some(profile) = &mut self.profile {
            profile.lap("update");
            profile.count();
        }
    }

    fn counts(&self) -> Vec<(String, u64)> {
        [
            ("unet_forwards_training", self.training_forwards),
            ("unet_forwards_sampling", self.pipeline.sample_forwards()),
            ("reward_image_encodes", self.judge.encoder.image_encodes()),
            ("reward_text_encodes", self.judge.encoder.text_encodes()),
            ("vae_encodes", self.pipeline.vae_encodes()),
        ]
        .map(|(name, count)| (name.to_owned(), count))
        .to_vec()
    }
}

/// Conditioning rows of `prompts`, in the pipeline's types.
fn conditioning(
    pipeline: &Pipeline,
    prompts: &[String],
    settings: &SampleSettings,
) -> Result<Conditioning> {
    pipeline.encode_prompts(prompts, settings.width, settings.height)
}
