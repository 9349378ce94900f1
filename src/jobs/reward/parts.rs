//! The parts of a reward run's training.

use std::collections::BTreeMap;
use std::rc::Rc;

use tch::Tensor;

use crate::models::heads::Head;
use crate::run::checkpoint::BestWeights;
use crate::trainer::reward::{Examples, Source};

/// Everything that a run trains with.
pub(crate) struct RewardParts {
    pub(crate) head: Rc<Head>,
    pub(crate) source: Source,
    pub(crate) train: Examples,
    pub(crate) held_out: Option<Examples>,
    pub(crate) parameters: Vec<(String, Tensor)>,
    pub(crate) best: BestWeights,
    /// SHA-256 of the inputs, by what they are.
    pub(crate) hashes: BTreeMap<String, String>,
}

/// The key of extrapolated weights' header that names their factor.
pub(crate) const EXTRAPOLATED: &str = "preftune_extrapolated";

/// The note of extrapolated weights.
pub(crate) fn extrapolated_by(factor: f64) -> BTreeMap<String, String> {
    BTreeMap::from([(EXTRAPOLATED.to_owned(), factor.to_string())])
}
