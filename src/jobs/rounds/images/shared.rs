//! Everything that the rounds of one run share.

use std::rc::Rc;

use tch::{Device, Kind};

use crate::config::ImageRoundsConfig;
use crate::data::photo::Photo;
use crate::jobs::Display;
use crate::jobs::interrupt::Interrupt;
use crate::jobs::pairs::SubjectMeasures;
use crate::trainer::pairs::SharedReward;

/// Everything that the rounds of one run share.
pub(super) struct Shared<'a> {
    pub(super) config: &'a ImageRoundsConfig,
    pub(super) device: Device,
    pub(super) kind: Kind,
    pub(super) interrupt: &'a Interrupt,
    pub(super) display: &'a mut dyn Display,
    pub(super) reward: SharedReward,
    /// What a subject's images are measured by, where the reward's encoder measures them.
    pub(super) measures: Option<Rc<SubjectMeasures>>,
    /// The photos of the subject, where there is one.
    pub(super) photos: Option<Rc<[Photo]>>,
    /// The prompt that the photos are learnt under; empty without them.
    pub(super) photo_prompt: String,
    /// Prompts of which images are learnt from.
    pub(super) train: Vec<String>,
    /// Prompts by which policies are compared.
    pub(super) held_out: Vec<String>,
}
