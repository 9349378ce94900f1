//! A tuned model in the forms that other tools load: LoRA files, and diffusers folders with the tuned or merged
//! U-Net beside the base model's other parts. The base model is only read, an existing folder is not overwritten
//! unasked, and everything written is read back and compared before it is put in place.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Value, json};
use tch::{Kind, Tensor};

use super::json::{read_object, read_object_if_there};
use super::lora::{Family, KohyaMetadata, LoraWeights, Sites, peft, read, sites};
use super::weights::{self, Checkpoint};
use crate::error::{Error, Result};
use crate::files::{link_or_copy, replace_folder, write_atomically};

const UNET_STEM: &str = "diffusion_pytorch_model";

/// Marks a folder as an export, which alone `force` may replace, and records where it comes from.
const RECORD: &str = "export.json";

/// A LoRA file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraFormat {
    /// `pytorch_lora_weights.safetensors`, for diffusers.
    Peft,
    /// `NAME.safetensors`, for ComfyUI, A1111 and their kin.
    Kohya,
}

/// Where an export goes, and in which number type.
#[derive(Clone, Debug)]
pub struct Target {
    /// The folder to create.
    pub folder: PathBuf,
    /// Number type of the weights; `None` takes the usual one: f16 in kohya files, else as they are stored.
    pub kind: Option<Kind>,
    /// Whether an earlier export in `folder` may be replaced.
    pub force: bool,
}

/// A LoRA's name is a file name.
fn check_name(name: &str) -> Result<()> {
    let taken = peft::FILE_NAME.trim_end_matches(".safetensors");
    if name.is_empty() || name == taken || name.starts_with('.') || name.contains(['/', '\\']) {
        return Err(Error::config(format!(
            "`{name}` cannot be the name of a LoRA: it names a file"
        )));
    }
    Ok(())
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The files with tuned weights.
    pub files: Vec<PathBuf>,
    /// Modules of the LoRA, or tensors of the U-Net, that were read back from every file.
    pub checked: usize,
}

/// What the base model folder says about itself.
struct Base {
    folder: PathBuf,
    unet: Checkpoint,
    sites: Rc<Sites>,
    family: Family,
    v_prediction: bool,
    resolution: i64,
}

impl Base {
    fn open(folder: &Path) -> Result<Self> {
        let unet_folder = folder.join("unet");
        let unet = Checkpoint::open_component(&unet_folder, UNET_STEM, None)?;
        let config = Value::Object(read_object(&unet_folder.join("config.json"))?);
        let scheduler = read_object_if_there(&folder.join("scheduler/scheduler_config.json"))?;
        let latents = config["sample_size"].as_i64().unwrap_or(64);
        Ok(Self {
            folder: folder.to_owned(),
            sites: Rc::new(sites::of_checkpoint(&unet)),
            unet,
            family: Family::of_unet(&config),
            v_prediction: scheduler.get("prediction_type") == Some(&json!("v_prediction")),
            resolution: latents * vae_factor(folder)?,
        })
    }
}

/// Pixels to a latent: each level of the autoencoder but the first halves the image.
fn vae_factor(base: &Path) -> Result<i64> {
    let config = read_object_if_there(&base.join("vae/config.json"))?;
    let levels = config
        .get("block_out_channels")
        .and_then(Value::as_array)
        .map_or(4, Vec::len);
    Ok(1 << levels.clamp(1, 8).saturating_sub(1))
}

/// Writes a LoRA (a file in any known spelling, or a folder with one) for the base model in `base`.
///
/// `metadata` goes into the kohya header; its base model, resolution and prediction type are filled from `base` where
/// empty.
///
/// # Errors
/// The LoRA does not fit the base; the folder is in the way; what was written does not read back as the same update.
pub fn export_lora(
    lora: &Path,
    base: &Path,
    target: &Target,
    formats: &[LoraFormat],
    metadata: &KohyaMetadata,
) -> Result<Exported> {
    check_name(&metadata.name)?;
    let base = Base::open(base)?;
    let weights = read::read(lora, Rc::clone(&base.sites))?;
    let mut metadata = metadata.clone();
    metadata.v_prediction |= base.v_prediction;
    if metadata.resolution == 0 {
        metadata.resolution = base.resolution;
    }
    if metadata.base_model.is_empty() {
        metadata.base_model = name_of(&base.folder);
    }
    let names: Vec<String> = formats
        .iter()
        .map(|format| match format {
            LoraFormat::Peft => peft::FILE_NAME.to_owned(),
            LoraFormat::Kohya => format!("{}.safetensors", metadata.name),
        })
        .collect();
    fill_target(target, lora, &base.folder, |folder| {
        for (format, name) in formats.iter().zip(&names) {
            let path = folder.join(name);
            match format {
                LoraFormat::Peft => {
                    let kind = target.kind;
                    weights
                        .converted(kind)
                        .save_peft(&path, "unet", &metadata.extra)?;
                }
                LoraFormat::Kohya => {
                    let kind = target.kind.unwrap_or(Kind::Half);
                    weights.save_kohya(&path, base.family, kind, &metadata)?;
                }
            }
            check_lora(&path, &weights)?;
        }
        Ok(())
    })?;
    Ok(Exported {
        files: names.iter().map(|name| target.folder.join(name)).collect(),
        checked: weights.modules.len(),
    })
}

impl LoraWeights {
    /// The matrices as `kind`, or as they are.
    fn converted(&self, kind: Option<Kind>) -> Self {
        let convert =
            |tensor: &Tensor| kind.map_or(tensor.shallow_clone(), |kind| tensor.to_kind(kind));
        let modules = self.modules.iter().map(|(name, lora)| {
            let lora = super::layers::Lora {
                down: convert(&lora.down),
                up: convert(&lora.up),
                scale: lora.scale,
            };
            (name.clone(), lora)
        });
        Self {
            modules: modules.collect(),
            sites: Rc::clone(&self.sites),
        }
    }
}

/// Reads a written LoRA as any user would and compares every update with the one that was meant.
fn check_lora(path: &Path, meant: &LoraWeights) -> Result<()> {
    let written = read::read(path, Rc::clone(&meant.sites))?;
    for (module, lora) in &meant.modules {
        let Some(written) = written.modules.get(module) else {
            return Err(Error::weights(path, format!("lost `{module}` in writing")));
        };
        // Half the last bit of each of the two factors, and some room for sums.
        let rounding = match written.up.kind() {
            Kind::Half => 2e-3,
            Kind::BFloat16 => 1.6e-2,
            _ => 1e-5,
        };
        let shape = meant.sites[module].weight_shape();
        let (actual, expected) = (written.update(&shape), lora.update(&shape));
        let largest = |tensor: &Tensor| tensor.abs().max().double_value(&[]);
        if largest(&(actual - &expected)) > rounding * largest(&expected) {
            let message = format!("the update of `{module}` is too small for the number type");
            return Err(Error::weights(path, message).with_hint("export with `--dtype f32`"));
        }
    }
    Ok(())
}

/// Writes a diffusers folder with the U-Net in `unet` and everything else of `base`.
///
/// # Errors
/// The U-Net has other tensors than the base's; the folder is in the way; values that are not finite.
pub fn export_full(unet: &Path, base: &Path, target: &Target) -> Result<Exported> {
    let base = Base::open(base)?;
    let tuned = Checkpoint::open_component(unet, UNET_STEM, None)?;
    check_same_tensors(&tuned, &base.unet)?;
    let config = unet.join("config.json");
    let config = if config.exists() {
        config
    } else {
        base.folder.join("unet/config.json")
    };
    write_pipeline(target, unet, &base, &config, |name| tuned.tensor(name))
}

/// Writes a diffusers folder with the LoRA added to the U-Net of `base`.
///
/// # Errors
/// As for [`export_lora`].
pub fn export_merged(lora: &Path, base: &Path, target: &Target) -> Result<Exported> {
    let base = Base::open(base)?;
    let weights = read::read(lora, Rc::clone(&base.sites))?;
    let config = base.folder.join("unet/config.json");
    write_pipeline(target, lora, &base, &config, |name| {
        let tensor = base.unet.tensor(name)?;
        let module = name.strip_suffix(".weight").unwrap_or_default();
        Ok(match weights.modules.get(module) {
            Some(lora) => {
                let update = lora.update(&tensor.size());
                let kind = target.kind.unwrap_or(tensor.kind());
                (tensor.to_kind(Kind::Float) + update).to_kind(kind)
            }
            None => tensor,
        })
    })
}

fn write_pipeline(
    target: &Target,
    source: &Path,
    base: &Base,
    config: &Path,
    tensor: impl Fn(&str) -> Result<Tensor>,
) -> Result<Exported> {
    let file = Path::new("unet").join(format!("{UNET_STEM}.safetensors"));
    fill_target(target, source, &base.folder, |folder| {
        link_other_parts(&base.folder, folder)?;
        create(&folder.join("unet"))?;
        link_or_copy(config, &folder.join("unet/config.json"))?;
        let mut tensors = Vec::new();
        for name in base.unet.names() {
            let tensor = tensor(name)?;
            let kind = target.kind.filter(|_| tensor.is_floating_point());
            let tensor = kind.map_or(tensor.shallow_clone(), |kind| tensor.to_kind(kind));
            if tensor.isfinite().all().int64_value(&[]) == 0 {
                let message = format!("has values that {:?} cannot hold", tensor.kind());
                return Err(Error::tensor(source, name, message)
                    .with_hint("export with `--dtype f32` or `--dtype bf16`"));
            }
            tensors.push((name.to_owned(), tensor));
        }
        let header = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        weights::save(&folder.join(&file), &tensors, &header)?;
        drop(tensors);
        let written = Checkpoint::open_file(&folder.join(&file))?;
        check_same_tensors(&written, &base.unet)
    })?;
    Ok(Exported {
        files: vec![target.folder.join(file)],
        checked: base.unet.names().count(),
    })
}

fn check_same_tensors(tuned: &Checkpoint, base: &Checkpoint) -> Result<()> {
    if let Some(name) = tuned.names().find(|name| !base.contains(name)) {
        return Err(
            Error::tensor(tuned.path(), name, "is not in the base model's U-Net")
                .with_hint("name the base model that was tuned with `--base`"),
        );
    }
    for name in base.names() {
        let (stored, expected) = (tuned.shape(name), base.shape(name));
        if stored != expected {
            let message = match stored {
                None => "missing, but in the base model's U-Net".to_owned(),
                Some(stored) => format!(
                    "has shape {stored:?}, but {:?} in the base model's U-Net",
                    expected.unwrap_or_default()
                ),
            };
            return Err(Error::tensor(tuned.path(), name, message)
                .with_hint("name the base model that was tuned with `--base`"));
        }
    }
    Ok(())
}

/// Links or copies the parts that `model_index.json` lists, but the U-Net.
fn link_other_parts(base: &Path, folder: &Path) -> Result<()> {
    let index = base.join("model_index.json");
    for (part, class) in read_object(&index)? {
        let is_part = class
            .as_array()
            .is_some_and(|class| class.iter().all(Value::is_string));
        if part == "unet" || part.starts_with('_') || !is_part {
            continue;
        }
        if !base.join(&part).is_dir() {
            let message = format!("lists `{part}`, but there is no such folder beside it");
            return Err(Error::weights(&index, message));
        }
        link_folder(&base.join(&part), &folder.join(&part))?;
    }
    link_or_copy(&index, &folder.join("model_index.json"))
}

fn link_folder(from: &Path, to: &Path) -> Result<()> {
    create(to)?;
    let entries = fs::read_dir(from).map_err(|source| Error::io("read", from, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| Error::io("read", from, source))?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            link_folder(&path, &to)?;
        } else {
            link_or_copy(&path, &to)?;
        }
    }
    Ok(())
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| Error::io("create", folder, source))
}

/// Lets `fill` write the export and its record beside the target folder and puts them in place.
fn fill_target(
    target: &Target,
    source: &Path,
    base: &Path,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let out = &target.folder;
    refuse_overlap(out, source, base)?;
    let occupied = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::io("read", out, error)),
    };
    if occupied && !out.join(RECORD).exists() {
        return Err(
            Error::data(out, "exists and holds other files than an export").with_hint(
                "choose another folder; `--force` replaces only what `preftune export` made",
            ),
        );
    }
    if occupied && !target.force {
        return Err(Error::data(out, "holds an export already")
            .with_hint("choose another folder, or replace it with `--force`"));
    }
    replace_folder(&real(out), |folder| {
        fill(folder)?;
        let record = json!({
            "preftune": env!("CARGO_PKG_VERSION"),
            "source": source,
            "base_model": base,
        });
        write_atomically(&folder.join(RECORD), format!("{record:#}\n").as_bytes())
    })
}

/// The base model must never be written to, and nothing that is read may lie in a folder that is replaced.
fn refuse_overlap(out: &Path, source: &Path, base: &Path) -> Result<()> {
    let out_real = real(out);
    let message = if out_real.starts_with(real(base)) {
        "lies in the base model's folder"
    } else if [base, source]
        .iter()
        .any(|path| real(path).starts_with(&out_real))
    {
        "holds what is to be exported"
    } else {
        return Ok(());
    };
    Err(Error::data(out, message).with_hint("choose another folder with `--out`"))
}

/// The path without symbolic links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (
        fs::canonicalize(&absolute),
        absolute.parent(),
        absolute.file_name(),
    ) {
        (Ok(real), _, _) => real,
        (Err(_), Some(parent), Some(name)) => real(parent).join(name),
        _ => absolute,
    }
}

/// The last part of a folder's path, as a name for people.
pub fn name_of(folder: &Path) -> String {
    let name = real(folder)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "model".to_owned())
}
