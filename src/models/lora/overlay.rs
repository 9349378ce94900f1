//! Adapter files laid over a model for sampling: LoRA and LoCon, LoHa, LoKr, whole differences and DoRA, of U-Net and text encoders,
//! several one after the other, each with a strength.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::{Kind, Tensor, no_grad};

use super::changes::ModuleChange;
use super::read::{self, Matched};
use super::sites::{self, Sites};
use crate::error::{Error, Result};
use crate::hub::place;
use crate::models::layers::{Adapters, Lora};

/// A LoRA file with the strength that it is laid over a model with.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlay {
    /// The file, or a folder with one.
    pub path: PathBuf,
    /// s in `W + s (W' - W)`, where W' is the weight that the file makes of W.
    pub strength: f64,
    /// Words that the file teaches beside (`bundle_emb`) are left out; else a file with such is refused.
    pub without_words: bool,
}

impl Overlay {
    /// The whole of a file.
    pub fn whole(path: &Path) -> Self {
        Self {
            path: place(path.to_owned()),
            strength: 1.0,
            without_words: false,
        }
    }

    /// Reads `FILE` or `FILE:STRENGTH`. A name that is there as it stands is a file, colons and all.
    ///
    /// # Errors
    /// What follows the colon behind a file is no number, or there are two.
    pub fn parse(text: &Path) -> Result<Self> {
        let whole = Self::whole(text);
        let Some((file, strength)) = text.to_str().and_then(|text| text.rsplit_once(':')) else {
            return Ok(whole);
        };
        if text.exists() {
            return Ok(whole);
        }
        let there = |file: &str| place(PathBuf::from(file)).exists();
        match strength.parse::<f64>() {
            // As some tools write it, with a strength for each of them.
            Ok(_) if !there(file) && file.rsplit_once(':').is_some_and(|(file, _)| there(file)) => {
                let message = format!("`{}` has two strengths", text.display());
                Err(Error::config(message).with_hint(
                    "write one, which holds for the U-Net and the text encoders: `FILE:0.8`",
                ))
            }
            Ok(strength) if strength.is_finite() && !file.is_empty() => Ok(Self {
                path: place(PathBuf::from(file)),
                strength,
                without_words: false,
            }),
            _ if there(file) => {
                let message = format!("`{strength}` is no strength of `{file}`");
                Err(Error::config(message).with_hint("write a number, such as `:0.8`"))
            }
            _ => Ok(whole),
        }
    }
}

/// A file whose modules are found in the model.
pub(in crate::models) struct Opened {
    matched: Matched,
    strength: f64,
    /// The modules of a LoRA that was trained on a changed base, with that change in them.
    started: BTreeMap<String, Lora>,
}

/// Lays files over a model with these `adapters`, the first one first, in its weights. Returns a sentence on each file of
/// which something is left out.
///
/// # Errors
/// A file is damaged or no adapter; a module that the model lacks; a shape that does not fit; biases; settings of PEFT that
/// change the result and are not read. Every file is looked through before the first weight is changed.
pub fn lay(adapters: &Adapters, overlays: &[Overlay]) -> Result<Vec<String>> {
    if overlays.is_empty() {
        return Ok(Vec::new());
    }
    let sites = sites::of_layers(adapters);
    let weight = |module: &str| Ok(adapters[module].weight.shallow_clone());
    let opened: Vec<Opened> = overlays
        .iter()
        .map(|overlay| Opened::open(overlay, &sites, &weight))
        .collect::<Result<_>>()?;
    for file in &opened {
        for module in file.modules() {
            let mut weight = adapters[module].weight.shallow_clone();
            let changed = no_grad(|| file.changed(module, &sites, &weight))?;
            no_grad(|| weight.copy_(&changed));
        }
    }
    let notes = opened
        .iter()
        .filter_map(|file| file.matched.note_on_words());
    Ok(notes.collect())
}

impl Opened {
    /// Finds the modules of a file among `sites`; `weight` gives the base's.
    ///
    /// # Errors
    /// As [`lay`].
    pub(in crate::models) fn open(
        overlay: &Overlay,
        sites: &Sites,
        weight: &dyn Fn(&str) -> Result<Tensor>,
    ) -> Result<Self> {
        let matched = read::open(&overlay.path, sites, overlay.without_words)?;
        // The change at the start is of the base as it was trained on, without what is laid before.
        let started = if matched.settings.change_the_base() {
            matched.loras(sites, weight)?
        } else {
            BTreeMap::new()
        };
        Ok(Self {
            matched,
            strength: overlay.strength,
            started,
        })
    }

    /// The modules that the file changes.
    pub(in crate::models) fn modules(&self) -> impl Iterator<Item = &String> {
        self.matched.modules.keys()
    }

    /// `W + s (W' - W)` in f32.
    ///
    /// # Errors
    /// As [`lay`].
    pub(in crate::models) fn changed(
        &self,
        module: &str,
        sites: &Sites,
        weight: &Tensor,
    ) -> Result<Tensor> {
        let weight = weight.to_kind(Kind::Float);
        let merged = match self.started.get(module) {
            Some(lora) => {
                let update = lora.update(&weight.size());
                weight.shallow_clone() + update.to_device(weight.device())
            }
            None => self.change(module, sites).merged(&weight)?,
        };
        if merged.isfinite().all().int64_value(&[]) == 0 {
            let message = format!("makes a weight of `{module}` that is not finite");
            return Err(Error::weights(self.matched.file.path(), message));
        }
        if (self.strength - 1.0).abs() < f64::EPSILON {
            return Ok(merged);
        }
        Ok(&weight + (merged - &weight) * self.strength)
    }

    fn change<'a>(&'a self, module: &'a str, sites: &'a Sites) -> ModuleChange<'a> {
        ModuleChange {
            file: &self.matched.file,
            module,
            site: &sites[module],
            found: &self.matched.modules[module],
            settings: self.matched.settings.of_module(module),
        }
    }
}
