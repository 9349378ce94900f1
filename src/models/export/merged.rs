//! An adapter merged into the weights of its base model.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tch::{Kind, Tensor, no_grad};

use super::{Base, LoraSource, stored_as};
use crate::error::{Error, Result};
use crate::models::lora::keys::{TEXT_ENCODERS, in_text_encoder, text_module};
use crate::models::lora::overlay::{Opened, Overlay};
use crate::models::lora::{LoraWeights, PipelineWeights};
use crate::models::weights::{self, Checkpoint};

/// Endings of files with weights, which a merged text encoder replaces.
const WEIGHTS: [&str; 4] = [".safetensors", ".bin", ".index.json", ".ckpt"];

/// An adapter of any kind with the base that it is merged into.
pub(super) struct Merger<'a> {
    base: &'a PipelineWeights,
    source: Source,
}

enum Source {
    /// A file that says all.
    File(Box<Opened>),
    /// A checkpoint's tensors with what they lack.
    Checkpoint(LoraWeights),
}

impl<'a> Merger<'a> {
    pub(super) fn open(base: &'a Base, lora: &LoraSource) -> Result<Self> {
        let source = if lora.checkpoint_of.is_some() {
            Source::Checkpoint(base.read_lora(lora)?)
        } else {
            let weight = |module: &str| base.weights.weight(module);
            let overlay = Overlay::whole(&lora.path);
            Source::File(Box::new(Opened::open(
                &overlay,
                &base.weights.sites,
                &weight,
            )?))
        };
        Ok(Self {
            base: &base.weights,
            source,
        })
    }

    /// A tensor of the U-Net after merging, in f32 if it changes.
    pub(super) fn unet(&self, name: &str, tensor: Tensor) -> Result<Tensor> {
        self.merged(name.strip_suffix(".weight").unwrap_or_default(), tensor)
    }

    /// A tensor of the text encoder in the folder `part` after merging, in f32 if it changes.
    pub(super) fn text(&self, part: &str, name: &str, tensor: Tensor) -> Result<Tensor> {
        match name.strip_suffix(".weight") {
            Some(path) => self.merged(&text_module(part, path), tensor),
            None => Ok(tensor),
        }
    }

    fn changes(&self, module: &str) -> bool {
        match &self.source {
            Source::File(file) => file.modules().any(|own| own == module),
            Source::Checkpoint(lora) => lora.modules.contains_key(module),
        }
    }

    fn merged(&self, module: &str, tensor: Tensor) -> Result<Tensor> {
        if !self.changes(module) {
            return Ok(tensor);
        }
        match &self.source {
            Source::File(file) => no_grad(|| file.changed(module, &self.base.sites, &tensor)),
            Source::Checkpoint(lora) => {
                let update = lora.modules[module].update(&tensor.size());
                Ok(tensor.to_kind(Kind::Float) + update)
            }
        }
    }

    /// Writes the text encoders that change in the place of their copies in `folder`, and returns the names of tensors that
    /// are stored as f32 for want of room.
    pub(super) fn write_text_encoders(
        &self,
        folder: &Path,
        kind: Option<Kind>,
    ) -> Result<Vec<String>> {
        let mut widened = Vec::new();
        for (number, part) in TEXT_ENCODERS.into_iter().enumerate() {
            let own = |module: &String| {
                in_text_encoder(module).is_some_and(|(encoder, _)| encoder == number)
            };
            let changes = match &self.source {
                Source::File(file) => file.modules().any(own),
                Source::Checkpoint(lora) => lora.modules.keys().any(own),
            };
            let Some(encoder) = self.base.text_encoders[number].as_ref().filter(|_| changes) else {
                continue;
            };
            let mut tensors = Vec::new();
            for name in encoder.names() {
                let base = encoder.tensor(name)?;
                let meant = self.text(part, name, base.shallow_clone())?;
                let kind = kind.filter(|_| base.is_floating_point());
                let kind = kind.unwrap_or(base.kind());
                let (stored, wider) = stored_as((encoder.path(), name), &meant, kind, &base)?;
                if wider {
                    widened.push(format!("{part}.{name}"));
                }
                tensors.push((name.to_owned(), stored));
            }
            replace_weights(&folder.join(part), &tensors)?;
        }
        Ok(widened)
    }
}

/// Puts these weights in the place of a component's.
fn replace_weights(folder: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let failed = |source| Error::io("read", folder, source);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if WEIGHTS.iter().any(|ending| name.ends_with(ending)) {
            fs::remove_file(&path).map_err(|source| Error::io("remove", &path, source))?;
        }
    }
    let path = folder.join("model.safetensors");
    let header = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    weights::save(&path, tensors, &header)?;
    let written = Checkpoint::open_file(&path)?;
    for (name, tensor) in tensors {
        if written.tensor(name)? != *tensor {
            let message = "does not read back as it was written";
            return Err(Error::tensor(&path, name, message));
        }
    }
    Ok(())
}
