//! `preftune export` of a language model: a GGUF file, a tuned model or an adapter with its base as one folder that
//! transformers loads.

use std::path::Path;

use tch::{Device, Kind};

use super::generate_text::{Loaded, open};
use crate::error::{Error, Result};
use crate::models::export::Exported;
use crate::models::lm;

/// Writes the model at `source`, adapters merged, to `folder`; as it is stored where no type is asked for.
pub(super) fn run(
    source: &Path,
    folder: &Path,
    kind: Option<Kind>,
    force: bool,
) -> Result<Exported> {
    let earlier = folder.join("config.json").exists();
    if folder.exists() && !(force && earlier) {
        let message = "is there already";
        return Err(Error::data(folder, message)
            .with_hint("name another folder, or replace an earlier export by `--force`"));
    }
    let Loaded { model, base, .. } = open(source, Device::Cpu, Kind::Float)?;
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
    let kind = kind.map_or_else(stored, Ok)?;
    model.save(folder, kind)?;
    let written = lm::checkpoint(folder)?;
    let parameters = model.parameters();
    for (name, tensor) in &parameters {
        let back = written.tensor(name)?;
        if back != tensor.to_kind(kind) {
            return Err(Error::tensor(
                folder,
                name,
                "does not read back as it was written",
            ));
        }
    }
    Ok(Exported {
        files: vec![folder.join("model.safetensors")],
        checked: parameters.len(),
    })
}
