//! Everything that the rounds of one run share.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::config::RoundsConfig;
use crate::jobs::Display;
use crate::jobs::interrupt::Interrupt;
use crate::jobs::judge::scorer::Scorer;
use crate::models::lm::tokenizer::TextTokenizer;
use crate::rewards::comparable::Choice;
use crate::rewards::transform::Reference;
use crate::trainer::objective::Objective;

/// Figures of a policy.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PolicyFigures {
    /// Means over held-out prompts and counts of the round that made it.
    pub metrics: BTreeMap<String, f64>,
    /// Bootstrap intervals of some of them.
    pub intervals: BTreeMap<String, (f64, f64)>,
}

/// Everything that the rounds of one run share.
pub(crate) struct Shared<'a> {
    pub(crate) config: &'a RoundsConfig,
    pub(crate) objective: Objective,
    pub(crate) device: Device,
    pub(crate) kind: Kind,
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) display: &'a mut dyn Display,
    /// That of all policies.
    pub(crate) tokenizer: TextTokenizer,
    /// Started when it is needed first.
    pub(crate) scorer: Option<Scorer>,
    /// The transform of rewards before answers are learnt from.
    pub(crate) transform: Option<(Choice, Reference)>,
    /// With a transform: rewards of the first policy's answers, `[answer][output]`, by the prompts' lines.
    pub(crate) baseline: BTreeMap<usize, Vec<Vec<f64>>>,
}
