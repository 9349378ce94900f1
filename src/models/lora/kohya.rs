//! The LoRA file of kohya's sd-scripts, which ComfyUI, A1111 and diffusers read: underscored names, an alpha for
//! each module, training facts and ModelSpec 1.0.1 entries in the header.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::LoraWeights;
use super::keys::{Blocks, in_text_encoder, underscored};
use crate::error::{Error, Result};
use crate::models::weights::{self, hex};

/// Which base models the LoRA goes with. Decides names and header entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1.x.
    Sd1,
    /// Stable Diffusion 2.x.
    Sd2,
    /// Stable Diffusion XL.
    Sdxl,
}

/// Tensors by their names in a file, and the names of layers that were kept in f32.
type KohyaTensors = (Vec<(String, Tensor)>, Vec<String>);

impl Family {
    /// The family of a U-Net, from its `config.json`: SDXL conditions on sizes, SD 2 has linear projections.
    pub fn of_unet(config: &serde_json::Value) -> Self {
        if config["addition_embed_type"] == "text_time" {
            Self::Sdxl
        } else if config["use_linear_projection"] == true {
            Self::Sd2
        } else {
            Self::Sd1
        }
    }
}

/// The header's fields for other tools; `None` where not known.
#[derive(Clone, Debug, Default)]
pub struct KohyaMetadata {
    /// Name of the LoRA: title, and alias in prompts.
    pub name: String,
    /// Name of the base model.
    pub base_model: String,
    /// Training image size in pixels.
    pub resolution: i64,
    /// The base model predicts velocity, not noise.
    pub v_prediction: bool,
    /// Number of training images.
    pub images: Option<usize>,
    /// Optimiser steps.
    pub steps: Option<u64>,
    /// Learning rate of the U-Net's LoRA.
    pub learning_rate: Option<f64>,
    /// Seed of the run.
    pub seed: Option<u64>,
    /// The words that call the subject (`a [V] dog`).
    pub trigger_phrase: Option<String>,
    /// Date and time in ISO 8601.
    pub date: Option<String>,
    /// Further entries, such as the run's config.
    pub extra: BTreeMap<String, String>,
}

impl LoraWeights {
    /// Writes `lora_unet_MODULE.lora_down.weight`, `.lora_up.weight` and `.alpha`, with sgm block names for SDXL and
    /// diffusers block names otherwise, and `lora_te_`, `lora_te1_` or `lora_te2_` of text encoders. Matrices are stored as `kind` (others expect f16), alphas as f32. Modules whose
    /// update `kind` cannot hold are stored as f32 and returned.
    ///
    /// # Errors
    /// The file cannot be written, values overflow `kind`, or an SDXL module has no sgm name.
    pub fn save_kohya(
        &self,
        path: &Path,
        family: Family,
        kind: Kind,
        metadata: &KohyaMetadata,
    ) -> Result<Vec<String>> {
        let alpha = self.common_alpha();
        let (tensors, widened) = self.kohya_tensors(path, family, kind, alpha)?;
        let mut header = metadata.training_entries(family, self.common_rank(), alpha);
        let hashes = Hashes::compute(path, &tensors, &header)?;
        header.extend(metadata.model_spec(family, "/lora"));
        header.extend(metadata.extra.clone());
        for (key, value) in [
            ("sshs_model_hash", hashes.model.clone()),
            ("sshs_legacy_hash", hashes.legacy),
            ("modelspec.hash_sha256", format!("0x{}", hashes.model)),
        ] {
            header.insert(key.to_owned(), value);
        }
        weights::save(path, &tensors, &header)?;
        Ok(widened)
    }

    fn kohya_tensors(
        &self,
        path: &Path,
        family: Family,
        kind: Kind,
        alpha: f64,
    ) -> Result<KohyaTensors> {
        let blocks = Blocks::collect(&self.sites);
        let mut tensors = Vec::with_capacity(3 * self.modules.len());
        let mut widened = Vec::new();
        for (module, lora) in &self.modules {
            let name = match (in_text_encoder(module), family) {
                (Some((_, path)), Family::Sd1 | Family::Sd2) => underscored("lora_te_", path),
                (Some((number, path)), Family::Sdxl) => {
                    underscored(&format!("lora_te{}_", number + 1), path)
                }
                (None, Family::Sd1 | Family::Sd2) => underscored("lora_unet_", module),
                (None, Family::Sdxl) => {
                    let name = blocks.sgm(module).ok_or_else(|| {
                        Error::weights(path, format!("`{module}` has no name in SDXL LoRA files"))
                    })?;
                    underscored("lora_unet_", &name)
                }
            };
            // One alpha for all: diffusers ignores differing ones. What differs goes into B.
            let scale = alpha / lora.down.size()[0] as f64;
            let (stored, wider) = lora.stored(scale, kind, &self.sites[module]);
            if wider {
                widened.push(module.clone());
            }
            for (suffix, tensor) in [
                ("lora_down.weight", stored.down),
                ("lora_up.weight", stored.up),
            ] {
                let name = format!("{name}.{suffix}");
                if tensor.isfinite().all().int64_value(&[]) == 0 {
                    let message = format!("has values that {kind:?} cannot hold");
                    return Err(Error::tensor(path, name, message));
                }
                tensors.push((name, tensor));
            }
            tensors.push((
                format!("{name}.alpha"),
                Tensor::from(alpha).to_kind(Kind::Float),
            ));
        }
        Ok((tensors, widened))
    }

    /// The alpha that most modules have.
    pub(super) fn common_alpha(&self) -> f64 {
        let mut counts: Vec<(f64, usize)> = Vec::new();
        for lora in self.modules.values() {
            let alpha = lora.scale * lora.down.size()[0] as f64;
            match counts
                .iter_mut()
                .find(|(known, _)| (known - alpha).abs() <= 1e-9 * alpha.abs())
            {
                Some((_, count)) => *count += 1,
                None => counts.push((alpha, 1)),
            }
        }
        let most = counts
            .into_iter()
            .filter(|&(alpha, _)| alpha != 0.0)
            .max_by_key(|&(_, count)| count);
        most.map_or(1.0, |(alpha, _)| alpha)
    }
}

impl KohyaMetadata {
    /// The `ss_` entries.
    fn training_entries(&self, family: Family, rank: i64, alpha: f64) -> BTreeMap<String, String> {
        let resolution = self.resolution;
        let base_version = match (family, self.v_prediction) {
            (Family::Sd1, _) => "sd_v1",
            (Family::Sd2, false) => "sd_v2",
            (Family::Sd2, true) => "sd_v2_v",
            (Family::Sdxl, _) => "sdxl_base_v1-0",
        };
        let is_sd2 = if family == Family::Sd2 {
            "True"
        } else {
            "False"
        };
        let mut entries: BTreeMap<String, String> = [
            ("ss_network_module", "networks.lora".to_owned()),
            ("ss_network_dim", rank.to_string()),
            ("ss_network_alpha", alpha.to_string()),
            ("ss_v2", is_sd2.to_owned()),
            ("ss_base_model_version", base_version.to_owned()),
            ("ss_output_name", self.name.clone()),
            ("ss_sd_model_name", self.base_model.clone()),
            ("ss_resolution", format!("({resolution}, {resolution})")),
            ("ss_clip_skip", "None".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        let optional = [
            (
                "ss_num_train_images",
                self.images.map(|count| count.to_string()),
            ),
            ("ss_steps", self.steps.map(|steps| steps.to_string())),
            (
                "ss_unet_lr",
                self.learning_rate.map(|rate| rate.to_string()),
            ),
            ("ss_seed", self.seed.map(|seed| seed.to_string())),
            ("ss_tag_frequency", self.tag_frequency()),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                entries.insert(key.to_owned(), value);
            }
        }
        entries
    }

    /// How often which words described a training image: here one phrase describes all.
    fn tag_frequency(&self) -> Option<String> {
        let phrase = self.trigger_phrase.as_ref()?;
        let count = self.images?;
        Some(serde_json::json!({ &self.name: { phrase: count } }).to_string())
    }

    /// The `modelspec.` entries (ModelSpec 1.0.1).
    /// Entries of ModelSpec; `of` is `/lora`, or nothing for a whole model.
    pub(in crate::models) fn model_spec(
        &self,
        family: Family,
        of: &str,
    ) -> BTreeMap<String, String> {
        let resolution = self.resolution;
        let architecture = match (family, self.v_prediction) {
            (Family::Sd1, _) => "stable-diffusion-v1",
            (Family::Sd2, false) => "stable-diffusion-v2-512",
            (Family::Sd2, true) => "stable-diffusion-v2-768-v",
            (Family::Sdxl, _) => "stable-diffusion-xl-v1-base",
        };
        let implementation = match family {
            Family::Sd1 | Family::Sd2 => "diffusers",
            Family::Sdxl => "https://github.com/Stability-AI/generative-models",
        };
        let prediction = if self.v_prediction { "v" } else { "epsilon" };
        let mut entries: BTreeMap<String, String> = [
            ("sai_model_spec", "1.0.1".to_owned()),
            ("architecture", format!("{architecture}{of}")),
            ("implementation", implementation.to_owned()),
            ("title", self.name.clone()),
            ("resolution", format!("{resolution}x{resolution}")),
            ("prediction_type", prediction.to_owned()),
        ]
        .map(|(key, value)| (format!("modelspec.{key}"), value))
        .into();
        for (key, value) in [
            ("trigger_phrase", &self.trigger_phrase),
            ("date", &self.date),
        ] {
            if let Some(value) = value {
                entries.insert(format!("modelspec.{key}"), value.clone());
            }
        }
        entries
    }
}

/// The two hashes by which web interfaces know a LoRA again, whatever is edited in its header later.
struct Hashes {
    /// SHA-256 of everything after the header.
    model: String,
    /// First 8 digits of SHA-256 over 64 KiB at 1 MiB of a copy with only the `ss_` entries.
    legacy: String,
}

impl Hashes {
    /// Both are defined on a file with only the `ss_` entries, which is written beside `path` for the purpose.
    fn compute(
        path: &Path,
        tensors: &[(String, Tensor)],
        training_entries: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".hash");
        let copy = path.with_file_name(name);
        weights::save(&copy, tensors, training_entries)?;
        let hashes = Self::of_file(&copy).map_err(|source| Error::io("read", &copy, source));
        std::fs::remove_file(&copy).map_err(|source| Error::io("remove", &copy, source))?;
        hashes
    }

    fn of_file(path: &Path) -> std::io::Result<Self> {
        const LEGACY_BEGIN: u64 = 0x10_0000;
        const LEGACY_LENGTH: u64 = 0x1_0000;
        let mut file = File::open(path)?;
        let mut length = [0u8; 8];
        file.read_exact(&mut length)?;
        file.seek(SeekFrom::Start(8 + u64::from_le_bytes(length)))?;
        let mut model = Sha256::new();
        std::io::copy(&mut file, &mut model)?;
        file.seek(SeekFrom::Start(LEGACY_BEGIN))?;
        let mut legacy = Sha256::new();
        std::io::copy(&mut file.take(LEGACY_LENGTH), &mut legacy)?;
        let legacy = hex(&legacy.finalize());
        Ok(Self {
            model: hex(&model.finalize()),
            legacy: legacy[..8].to_owned(),
        })
    }
}
