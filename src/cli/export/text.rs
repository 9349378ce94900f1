//! `preftune export` of a language model: a GGUF file, a tuned model or an adapter with its base as one folder that
//! transformers loads.

use std::path::Path;

use tch::{Device, Kind};

use crate::error::Result;
use crate::jobs::open::text::{Loaded, open_at};
use crate::models::export::{Exported, Target, export_language_model};
use crate::models::lm;
use crate::models::lm::words::note;
use crate::run::checkpoint::Notes;

/// Writes the model at `source`, of a run that of a checkpoint where one is named, adapters merged; as it is stored where
/// no type is asked for.
pub(crate) fn run((source, checkpoint): (&Path, Option<u64>), target: &Target) -> Result<Exported> {
    target.refuse_occupied()?;
    let Loaded {
        model,
        tokenizer,
        base,
        words,
        trained,
    } = open_at(source, checkpoint, Device::Cpu, Kind::Float)?;
    let stored = || -> Result<Kind> {
        let checkpoint = lm::checkpoint(&base)?;
        let first = checkpoint
            .names()
            .next()
            .map(|name| checkpoint.tensor(name));
        Ok(first
            .transpose()?
            .map_or(Kind::Float, |tensor| tensor.kind()))
    };
    let kind = target.kind.or(trained).map_or_else(stored, Ok)?;
    // What is tuned through the template is what others expect.
    let notes = if tokenizer.is_raw() {
        note(true)
    } else {
        Notes::new()
    };
    export_language_model(&model, (source, &base, &words), (kind, &notes), target)
}
