//! Events of a run, as values: the trainer's only output. It knows no files and prints nothing.

use std::path::PathBuf;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::early_stopping::{Difference, EarlyStopping};
use crate::data::text::answers::Answer;
use crate::error::Result;

/// Named numbers, in the order in which they are shown.
pub type Metrics = Vec<(String, f64)>;

/// The number under a name.
pub fn metric(metrics: &[(String, f64)], name: &str) -> Option<f64> {
    let mut known = metrics.iter().filter(|(known, _)| known == name);
    known.next().map(|(_, value)| *value)
}

/// Something that happened.
pub enum Event<'a> {
    /// `done` of `total` units of a phase are finished.
    Progress {
        /// The work being done, with what is counted where it is not clear: `train`, `denoising steps of validation`.
        phase: &'static str,
        /// Units finished.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// An optimiser step whose metrics were read.
    Step {
        /// Number of the step, from 1.
        step: u64,
        /// Loss and its parts, gradient norm, learning rate.
        metrics: &'a Metrics,
    },
    /// A validation was made.
    Validated {
        /// Steps made before it; 0 is the untuned model.
        step: u64,
        /// Its figures and images.
        validation: &'a Validation,
        /// `true` if it is the best so far.
        best: bool,
        /// How it compares with the last gain, where single rewards are known.
        difference: Option<Difference>,
        /// Validations in a row that were no gain, and how many of them end the run (0: none do).
        without_gain: (u64, u64),
    },
    /// Something that usually means that a run goes wrong; it goes on.
    Alarm {
        /// Steps made.
        step: u64,
        /// `train` or `validation`.
        during: &'static str,
        /// The observation, in a sentence.
        message: String,
    },
    /// Training ended.
    Finished {
        /// Steps made.
        step: u64,
        /// `true` if patience ended it.
        early: bool,
        /// Step and reward of the best weights.
        best: Option<(u64, f64)>,
    },
}

/// The result of a validation.
pub struct Validation {
    /// The number that early stopping maximises.
    pub reward: f64,
    /// Those of the single images, always of the same prompts and noise in the same order; none where they are not known.
    pub rewards: Vec<f64>,
    /// Reward and its parts.
    pub metrics: Metrics,
    /// The validation images.
    pub samples: Vec<Sample>,
    /// A language model's answers to held-out prompts.
    pub answers: Vec<Answer>,
}

/// A generated image and what it was generated from.
pub struct Sample {
    /// The prompt, token included.
    pub prompt: String,
    /// Seed of its initial noise.
    pub seed: u64,
    /// The image.
    pub image: RgbImage,
}

/// Everything that a resumed run needs beside its configuration and inputs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimiser steps made.
    pub step: u64,
    /// Step of the last finished validation.
    pub validated: Option<u64>,
    /// Loss of the first step that was read, beside which a later one is exploding.
    pub first_loss: Option<f64>,
    /// Figures of the untuned model's validation.
    pub untuned: Metrics,
    /// Best validation and patience.
    pub early_stopping: EarlyStopping,
    /// Counts of work done so far (U-Net sample-forwards, reward encodes).
    pub counts: Vec<(String, u64)>,
}

/// The state of a run at a step, ready to be stored.
pub struct Snapshot<'a> {
    /// Step, early stopping, counts.
    pub progress: &'a Progress,
    /// Trained tensors by name, f32.
    pub parameters: Vec<(String, Tensor)>,
    /// The optimiser's moments.
    pub moments: Vec<(String, Tensor)>,
}

/// Receives what the trainer does: recorders, progress bars, checkpoint stores.
pub trait Observer {
    /// `true` if the user asked to stop; asked between steps and between sampled batches.
    fn interrupted(&self) -> bool;

    /// Something happened.
    fn event(&mut self, event: &Event) -> Result<()>;

    /// Stores a checkpoint and returns where.
    fn checkpoint(&mut self, snapshot: &Snapshot) -> Result<PathBuf>;

    /// Stores the weights as the best so far.
    fn best(&mut self, snapshot: &Snapshot) -> Result<()>;
}
