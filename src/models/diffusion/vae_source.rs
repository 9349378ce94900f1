//! Where the autoencoder of a model lies: among the model's parts, or by itself, in the place of the model's own.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tch::Device;

use super::Vae;
use crate::error::{Error, Result};
use crate::models::json::{read_object, read_object_if_there};
use crate::models::lora::Family;
use crate::models::recognize::not_a;
use crate::models::single_file::{has_autoencoder, is_there};
use crate::models::weights::{Checkpoint, hex};

const STEM: &str = "diffusion_pytorch_model";
const CONFIG: &str = "config.json";
const SCALE: &str = "scaling_factor";

/// What latents are scaled by where the settings do not say: they are older than the key, of Stable Diffusion 1 or 2.
pub(super) const OLD_SCALE: f64 = 0.182_15;

/// The autoencoder of a model, checked against the U-Net's settings.
#[derive(Clone, Debug)]
pub struct VaeSource {
    /// Its folder, on the disk or inside a file.
    folder: PathBuf,
    /// What the U-Net's latents are scaled by, where the autoencoder stands in the place of the model's own.
    scale: Option<f64>,
    /// The file that does not say its scale.
    silent: Option<PathBuf>,
}

impl VaeSource {
    /// The autoencoder of the model in `base`, a folder or a file; `separate` stands in its place: the folder of an
    /// autoencoder, that of a model with one, or a file with one.
    ///
    /// # Errors
    /// There is none, or its latents are not those that the U-Net was made for: other channels, another size or scale.
    pub fn find(base: &Path, separate: Option<&Path>) -> Result<Self> {
        let own = base.join("vae");
        if let Some(path) = separate {
            let folder = folder_of(path)?;
            let settings = read_object(&folder.join(CONFIG))?;
            let scale = fitting_scale(base, path, &settings)?;
            let silent = path.is_file() && !settings.contains_key(SCALE);
            return Ok(Self {
                folder,
                scale: Some(scale),
                silent: silent.then(|| path.to_owned()),
            });
        }
        if base.is_file() && !is_there(&own.join(CONFIG)) {
            let message = "has no autoencoder (VAE) in it";
            return Err(Error::weights(base, message).with_hint(
                "take the version of the model that has one baked in, or give one beside it: `model.vae` in a configuration, \
                 `--vae` of other commands",
            ));
        }
        Ok(Self {
            folder: own,
            scale: None,
            silent: None,
        })
    }

    /// `true` if it stands in the place of the model's own.
    pub fn is_separate(&self) -> bool {
        self.scale.is_some()
    }

    /// A sentence on what is assumed of a file with nothing else: those of every family have the same shapes.
    pub fn note(&self) -> Option<String> {
        let (file, scale) = (self.silent.as_deref()?, self.scale?);
        Some(format!(
            "`{}` does not say which models its autoencoder (VAE) is for: it is taken as one for this model, whose latents are \
             scaled by {scale}; one of another family would make wrong colours without an error",
            file.display()
        ))
    }

    /// The folder, on the disk or inside a file.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Loads it, frozen, to `device`; `variant` (`fp16`) is preferred among several weight files.
    ///
    /// # Errors
    /// As [`Vae::open`].
    pub fn open(&self, variant: Option<&str>, device: Device) -> Result<Vae> {
        let vae = Vae::open(&self.folder, variant, device)?;
        Ok(match self.scale {
            Some(scale) => vae.scaled_by(scale),
            None => vae,
        })
    }

    /// Its tensors, under diffusers' names.
    ///
    /// # Errors
    /// There are no weights, or they are broken.
    pub fn weights(&self, variant: Option<&str>) -> Result<Checkpoint> {
        Checkpoint::open_component(&self.folder, STEM, variant)
    }

    /// The contents of its `config.json`, with what its latents are scaled by.
    ///
    /// # Errors
    /// They are missing or unreadable.
    pub fn settings(&self) -> Result<Map<String, Value>> {
        let mut settings = read_object(&self.folder.join(CONFIG))?;
        if let Some(scale) = self.scale {
            settings.insert(SCALE.to_owned(), scale.into());
        }
        Ok(settings)
    }

    /// SHA-256 of its weights and settings.
    ///
    /// # Errors
    /// As [`Self::weights`] and [`Self::settings`].
    pub fn sha256(&self, variant: Option<&str>) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(self.weights(variant)?.sha256()?);
        hash.update(Value::Object(self.settings()?).to_string());
        Ok(hex(&hash.finalize()))
    }
}

/// The folder of the autoencoder at a path that a user gives.
fn folder_of(path: &Path) -> Result<PathBuf> {
    let class = |folder: &Path| -> Result<Option<String>> {
        let settings = read_object_if_there(&folder.join(CONFIG))?;
        let class = settings.get("_class_name").and_then(Value::as_str);
        // Without the key an autoencoder is meant, unless it is a model of transformers, which says its type.
        let unnamed = match settings.get("model_type") {
            None => "AutoencoderKL",
            Some(_) => "",
        };
        let class = class.unwrap_or(unnamed).to_owned();
        Ok((!settings.is_empty()).then_some(class))
    };
    let part = path.join("vae");
    let is_one = |class: Option<String>| class.is_some_and(|class| class == "AutoencoderKL");
    if path.is_file() && has_autoencoder(path) || path.is_dir() && is_one(class(&part)?) {
        return Ok(part);
    }
    if path.is_dir() && is_one(class(path)?) {
        return Ok(path.to_owned());
    }
    Err(not_a(
        path,
        "an autoencoder (VAE) of Stable Diffusion 1, 2 or XL",
    ))
}

/// What the latents are scaled by of an autoencoder with these settings, which is to stand in the place of that of `base`.
fn fitting_scale(base: &Path, path: &Path, settings: &Map<String, Value>) -> Result<f64> {
    let own = read_object_if_there(&base.join("vae/config.json"))?;
    let unet = Value::Object(read_object_if_there(&base.join("unet/config.json"))?);
    let refused = |message: String| {
        Err(Error::weights(path, message).with_hint(format!(
            "take an autoencoder (VAE) of the same family as `{}`",
            base.display()
        )))
    };
    let channels = settings.get("latent_channels").and_then(Value::as_i64);
    let channels = channels.unwrap_or(4);
    // Models for inpainting and editing read more than latents; they are refused by what they are.
    let reads = unet["in_channels"].as_i64().unwrap_or(4);
    if channels != reads && !matches!(reads, 8 | 9) {
        return refused(format!(
            "its latents have {channels} channels, but the U-Net of `{}` reads {reads}",
            base.display()
        ));
    }
    let levels = |settings: &Map<String, Value>| {
        let channels = settings.get("block_out_channels").and_then(Value::as_array);
        channels.map_or(1, Vec::len)
    };
    if !own.is_empty() && levels(&own) != levels(settings) {
        let [other, meant] =
            [settings, &own].map(|settings| 1u64 << (levels(settings).clamp(1, 32) - 1));
        return refused(format!(
            "a position of its latents stands for {other} pixels, but for {meant} in the model's own"
        ));
    }
    let said = |settings: &Map<String, Value>| settings.get(SCALE).and_then(Value::as_f64);
    let meant = if own.is_empty() {
        match Family::of_unet(&unet) {
            Family::Sd1 | Family::Sd2 => OLD_SCALE,
            Family::Sdxl => 0.130_25,
        }
    } else {
        said(&own).unwrap_or(OLD_SCALE)
    };
    // A file with nothing else does not say its scale: it is for the models of its family.
    let scale = said(settings).unwrap_or(if path.is_file() { meant } else { OLD_SCALE });
    if (scale / meant - 1.0).abs() > 1e-3 {
        return refused(format!(
            "its latents are scaled by {scale}, but those that the U-Net of `{}` was made for by {meant}",
            base.display()
        ));
    }
    Ok(scale)
}
