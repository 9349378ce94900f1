//! Where the policies of rounds lie in their run's folder.

use std::path::{Path, PathBuf};

use crate::config::{AdapterKind, RoundsConfig};
use crate::error::{Error, Result};

/// The folder of one round.
pub fn folder(run: &Path, round: u64) -> PathBuf {
    run.join(format!("round-{round}"))
}

/// The folder of the policy that a round made; of round 0, the first model.
pub fn policy(config: &RoundsConfig, run: &Path, round: u64) -> PathBuf {
    let folder = folder(run, round);
    match config.adapter.kind {
        _ if round == 0 => config.model.base.clone(),
        AdapterKind::Lora => folder.join("model"),
        AdapterKind::Full => folder.join("train").join("best"),
    }
}

/// The newest policy that the rounds in a folder have made.
///
/// # Errors
/// No round has been finished.
pub fn last_policy(config: &RoundsConfig, run: &Path) -> Result<PathBuf> {
    let rounds = (1..=config.rounds.count).rev();
    let mut policies = rounds.map(|round| policy(config, run, round));
    policies.find(|folder| folder.exists()).ok_or_else(|| {
        Error::data(run, "has made no policy yet")
            .with_hint("continue the rounds: `preftune rounds --resume`")
    })
}
