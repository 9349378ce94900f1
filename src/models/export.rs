//! A tuned model in the forms that other tools load: LoRA files, and diffusers folders with the tuned or merged
//! U-Net beside the base model's other parts. The base model is only read, an existing folder is not overwritten
//! unasked, and everything written is read back and compared before it is put in place.

mod merged;
mod one_file;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use super::diffusion::VaeSource;
use super::json::{read_object, read_object_if_there};
use super::lm::{self, LanguageModel};
use super::lora::{Family, KohyaMetadata, LoraWeights, PipelineWeights, peft, read};
use super::single_file::is_there;
use super::weights::{self, Checkpoint};
use crate::error::{Error, Result};
use crate::files::{copy_new, is_plain_name, refuse_link_out, write_atomically};

use merged::Merger;
pub use one_file::export_single_file;
pub use target::{Target, name_of};

const UNET_STEM: &str = "diffusion_pytorch_model";

/// A LoRA file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraFormat {
    /// `pytorch_lora_weights.safetensors`, for diffusers.
    Peft,
    /// `NAME.safetensors`, for ComfyUI, A1111 and their kin.
    Kohya,
}

/// The tuned part of a diffusion model.
#[derive(Clone, Debug)]
pub enum Tuned {
    /// A LoRA of its U-Net.
    Lora(LoraSource),
    /// A folder or a file of its whole U-Net.
    UNet(PathBuf),
}

/// A LoRA to export.
#[derive(Clone, Debug)]
pub struct LoraSource {
    /// A file in any known spelling, or a folder with one.
    pub path: PathBuf,
    /// The strengths, which the trained tensors of a run's checkpoint lack; `None` of any other file.
    pub checkpoint_of: Option<Strengths>,
}

/// Where the strengths of the trained tensors of a run's checkpoint come from.
#[derive(Clone, Debug)]
pub enum Strengths {
    /// This alpha is that of all modules.
    Alpha(f64),
    /// The LoRA that the run went on from, with its parts for text encoders.
    Start(PathBuf),
}

/// A LoRA's name is a file name.
fn check_name(name: &str) -> Result<()> {
    let taken = peft::FILE_NAME.trim_end_matches(".safetensors");
    if !is_plain_name(name) || name == taken || name.starts_with('.') {
        return Err(Error::config(format!(
            "`{name}` cannot be the name of a LoRA: it names a file"
        )));
    }
    Ok(())
}

/// The files that were written, and how they were checked.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The files with tuned weights.
    pub files: Vec<PathBuf>,
    /// Modules of the LoRA, or tensors of the U-Net, that were read back from every file.
    pub checked: usize,
    /// Modules that a file holds as f32, because the type that was asked for cannot hold their update; of several files
    /// each once, sorted.
    pub widened: Vec<String>,
}

/// The base model folder and its own description of itself.
struct Base {
    folder: PathBuf,
    /// The autoencoder in the place of its own.
    vae: Option<PathBuf>,
    weights: PipelineWeights,
    family: Family,
    v_prediction: bool,
    resolution: i64,
}

impl Base {
    fn open(folder: &Path, vae: Option<&Path>) -> Result<Self> {
        let unet_folder = folder.join("unet");
        let weights = PipelineWeights::open(folder, None)?;
        let config = Value::Object(read_object(&unet_folder.join("config.json"))?);
        let scheduler = read_object_if_there(&folder.join("scheduler/scheduler_config.json"))?;
        let latents = config["sample_size"].as_i64().unwrap_or(64);
        Ok(Self {
            folder: folder.to_owned(),
            vae: vae.map(Path::to_owned),
            weights,
            family: Family::of_unet(&config),
            v_prediction: scheduler.get("prediction_type") == Some(&json!("v_prediction")),
            resolution: latents * vae_factor(folder, vae)?,
        })
    }

    /// The header's fields, filled where they are empty.
    fn described(&self, metadata: &KohyaMetadata) -> KohyaMetadata {
        let mut metadata = metadata.clone();
        metadata.v_prediction |= self.v_prediction;
        if metadata.resolution == 0 {
            metadata.resolution = self.resolution;
        }
        if metadata.base_model.is_empty() {
            metadata.base_model = name_of(&self.folder);
        }
        metadata
    }

    /// Its autoencoder, or the one in its place.
    fn vae(&self) -> Result<VaeSource> {
        VaeSource::find(&self.folder, self.vae.as_deref())
    }

    /// Another U-Net of the same tensors, from a folder or a file.
    fn replaced(&self, unet: &Path) -> Result<Vec<(String, Tensor)>> {
        let tuned = open_unet(unet)?;
        check_same_tensors(&tuned, &self.weights.unet)?;
        let tensor = |name: &str| Ok((name.to_owned(), tuned.tensor(name)?));
        self.weights.unet.names().map(tensor).collect()
    }

    /// A LoRA of this base.
    fn read_lora(&self, lora: &LoraSource) -> Result<LoraWeights> {
        let mut weights = self.weights.read_lora(&lora.path)?;
        match &lora.checkpoint_of {
            None => {}
            Some(Strengths::Alpha(alpha)) => {
                for module in weights.modules.values_mut() {
                    module.scale = alpha / module.down.size()[0] as f64;
                }
            }
            Some(Strengths::Start(start)) => {
                for (name, start) in self.weights.read_lora(start)?.modules {
                    match weights.modules.get_mut(&name) {
                        Some(trained) => trained.scale = start.scale,
                        None => drop(weights.modules.insert(name, start)),
                    }
                }
            }
        }
        Ok(weights)
    }
}

/// Pixels to a latent: each level of the autoencoder but the first halves the image.
fn vae_factor(base: &Path, vae: Option<&Path>) -> Result<i64> {
    // A LoRA goes with a model that has none.
    let config = if vae.is_some() || is_there(&base.join("vae/config.json")) {
        VaeSource::find(base, vae)?.settings()?
    } else {
        Map::new()
    };
    let levels = config
        .get("block_out_channels")
        .and_then(Value::as_array)
        .map_or(4, Vec::len);
    Ok(1 << levels.clamp(1, 8).saturating_sub(1))
}

/// Writes a LoRA for the base model in `base`.
///
/// `metadata` goes into the kohya header; its base model, resolution and prediction type are filled from `base` where
/// empty.
///
/// # Errors
/// The LoRA does not fit the base; the folder is in the way; what was written does not read back as the same update.
pub fn export_lora(
    lora: &LoraSource,
    base: &Path,
    target: &Target,
    formats: &[LoraFormat],
    metadata: &KohyaMetadata,
) -> Result<Exported> {
    check_name(&metadata.name)?;
    let base = Base::open(base, None)?;
    let weights = base.read_lora(lora)?;
    let metadata = base.described(metadata);
    let names: Vec<String> = formats
        .iter()
        .map(|format| match format {
            LoraFormat::Peft => peft::FILE_NAME.to_owned(),
            LoraFormat::Kohya => format!("{}.safetensors", metadata.name),
        })
        .collect();
    let mut widened = BTreeSet::new();
    target.fill(&lora.path, &base.folder, |folder| {
        for (format, name) in formats.iter().zip(&names) {
            let path = folder.join(name);
            widened.extend(match format {
                LoraFormat::Peft => {
                    weights.save_peft_as(&path, "unet", target.kind, &metadata.extra)?
                }
                LoraFormat::Kohya => {
                    let kind = target.kind.unwrap_or(Kind::Half);
                    weights.save_kohya(&path, base.family, kind, &metadata)?
                }
            });
            check_lora(&path, &weights)?;
        }
        Ok(())
    })?;
    Ok(Exported {
        files: names.iter().map(|name| target.folder.join(name)).collect(),
        checked: weights.modules.len(),
        widened: widened.into_iter().collect(),
    })
}

/// Reads a written LoRA as any user would and compares every update with the one that was meant.
fn check_lora(path: &Path, meant: &LoraWeights) -> Result<()> {
    let written = read::read(path, Rc::clone(&meant.sites))?;
    for (module, lora) in &meant.modules {
        let Some(written) = written.modules.get(module) else {
            return Err(Error::weights(path, format!("lost `{module}` in writing")));
        };
        if !written.is_update_of(lora, &meant.sites[module]) {
            let message = format!("the update of `{module}` does not read back as it was written");
            return Err(Error::weights(path, message));
        }
    }
    Ok(())
}

/// Writes a diffusers folder with the U-Net in `unet`, a folder or a file of its tensors, and everything else of `base`; `vae`
/// stands in the place of its autoencoder.
///
/// # Errors
/// The U-Net has other tensors than the base's; the folder is in the way; values that are not finite.
pub fn export_full(
    unet: &Path,
    base: &Path,
    vae: Option<&Path>,
    target: &Target,
) -> Result<Exported> {
    let base = Base::open(base, vae)?;
    let tuned = open_unet(unet)?;
    check_same_tensors(&tuned, &base.weights.unet)?;
    let config = unet.join("config.json");
    let config = if config.exists() {
        config
    } else {
        base.folder.join("unet/config.json")
    };
    let tensor = |name: &str| tuned.tensor(name).map(stored_as_it_is);
    write_pipeline(target, unet, &base, &config, tensor, None)
}

/// Writes a diffusers folder with the LoRA added to U-Net and text encoders of `base`; adapters of other kinds, such as LoHa,
/// LoKr and DoRA, are merged too. `vae` stands in the place of the autoencoder of `base`.
///
/// # Errors
/// As for [`export_lora`].
pub fn export_merged(
    lora: &LoraSource,
    base: &Path,
    vae: Option<&Path>,
    target: &Target,
) -> Result<Exported> {
    let base = Base::open(base, vae)?;
    let merger = Merger::open(&base, lora)?;
    let config = base.folder.join("unet/config.json");
    let tensor = |name: &str| {
        let tensor = base.weights.unet.tensor(name)?;
        let kind = tensor.kind();
        Ok((merger.unet(name, tensor)?, kind))
    };
    write_pipeline(target, &lora.path, &base, &config, tensor, Some(&merger))
}

/// A tensor with the type that it has.
fn stored_as_it_is(tensor: Tensor) -> (Tensor, Kind) {
    let kind = tensor.kind();
    (tensor, kind)
}

/// `true` if the type of `stored` loses what tuning changed of `base`: rounding is as large as all of it.
fn is_lost(stored: &Tensor, meant: &Tensor, base: &Tensor) -> bool {
    let float = |tensor: &Tensor| tensor.to_kind(Kind::Float);
    let largest = |tensor: Tensor| tensor.abs().max().double_value(&[]);
    let change = largest(float(meant) - float(base));
    let rounding = largest(float(stored) - float(meant));
    change > 0.0 && rounding >= change
}

/// A tensor in the type that it is to be stored in; in f32, and true, where that type loses what tuning changed of `base`.
///
/// # Errors
/// Values that the type cannot hold.
fn stored_as(
    (path, name): (&Path, &str),
    meant: &Tensor,
    kind: Kind,
    base: &Tensor,
) -> Result<(Tensor, bool)> {
    let stored = meant.to_kind(kind);
    if stored.isfinite().all().int64_value(&[]) == 0 {
        let message = format!("has values that {kind:?} cannot hold");
        return Err(Error::tensor(path, name, message)
            .with_hint("export with `--dtype f32` or `--dtype bf16`"));
    }
    if is_lost(&stored, meant, base) {
        return Ok((meant.to_kind(Kind::Float), true));
    }
    Ok((stored, false))
}

fn open_unet(unet: &Path) -> Result<Checkpoint> {
    if unet.is_file() {
        Checkpoint::open_file(unet)
    } else {
        Checkpoint::open_component(unet, UNET_STEM, None)
    }
}

fn write_pipeline(
    target: &Target,
    source: &Path,
    base: &Base,
    config: &Path,
    tensor: impl Fn(&str) -> Result<(Tensor, Kind)>,
    texts: Option<&Merger>,
) -> Result<Exported> {
    if base.folder.is_file() {
        let message = "is a model in one file, which has no folders to take along";
        return Err(Error::data(&base.folder, message)
            .with_hint("`--format single-file` writes the tuned model as one file"));
    }
    let mut widened = Vec::new();
    let file = Path::new("unet").join(format!("{UNET_STEM}.safetensors"));
    target.fill(source, &base.folder, |folder| {
        copy_other_parts(&base.folder, folder, base.vae.is_some())?;
        if base.vae.is_some() {
            write_vae(&base.vae()?, &folder.join("vae"))?;
        }
        if let Some(texts) = texts {
            widened.extend(texts.write_text_encoders(folder, target.kind)?);
        }
        create(&folder.join("unet"))?;
        refuse_link_out(config.parent().unwrap_or(config), config)?;
        copy_new(config, &folder.join("unet/config.json"))?;
        let mut tensors = Vec::new();
        for name in base.weights.unet.names() {
            let (meant, usual) = tensor(name)?;
            let kind = target.kind.filter(|_| meant.is_floating_point());
            let base = base.weights.unet.tensor(name)?;
            let (stored, wider) = stored_as((source, name), &meant, kind.unwrap_or(usual), &base)?;
            if wider {
                widened.push(name.to_owned());
            }
            tensors.push((name.to_owned(), stored));
        }
        let header = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        weights::save(&folder.join(&file), &tensors, &header)?;
        drop(tensors);
        let written = Checkpoint::open_file(&folder.join(&file))?;
        check_same_tensors(&written, &base.weights.unet)
    })?;
    Ok(Exported {
        files: vec![target.folder.join(file)],
        checked: base.weights.unet.names().count(),
        widened,
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

/// Writes an autoencoder as a part of a diffusers folder, its numbers as they are stored.
fn write_vae(vae: &VaeSource, folder: &Path) -> Result<()> {
    create(folder)?;
    let settings = Value::Object(vae.settings()?);
    let config = folder.join("config.json");
    write_atomically(&config, format!("{settings:#}\n").as_bytes())?;
    let stored = vae.weights(None)?;
    let tensor = |name: &str| Ok((name.to_owned(), stored.tensor(name)?));
    let tensors = stored.names().map(tensor).collect::<Result<Vec<_>>>()?;
    let header = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let file = folder.join(format!("{UNET_STEM}.safetensors"));
    weights::save(&file, &tensors, &header)
}

/// Copies the parts that `model_index.json` lists, but the U-Net, and the autoencoder where another one comes in its place.
fn copy_other_parts(base: &Path, folder: &Path, other_vae: bool) -> Result<()> {
    let index = base.join("model_index.json");
    for (part, class) in read_object(&index)? {
        let is_part = class
            .as_array()
            .is_some_and(|class| class.iter().all(Value::is_string));
        if part == "unet" || other_vae && part == "vae" || part.starts_with('_') || !is_part {
            continue;
        }
        if !is_plain_name(&part) {
            let message =
                format!("lists the part `{part}`, which is no name of a folder beside it");
            return Err(Error::weights(&index, message).with_hint(
                "a model's parts lie in its own folder; take the model from its source again",
            ));
        }
        if !base.join(&part).is_dir() {
            let message = format!("lists `{part}`, but there is no such folder beside it");
            return Err(Error::weights(&index, message));
        }
        copy_folder(base, &base.join(&part), &folder.join(&part))?;
    }
    refuse_link_out(base, &index)?;
    copy_new(&index, &folder.join("model_index.json"))
}

/// Copies a folder of the model in `root`.
fn copy_folder(root: &Path, from: &Path, to: &Path) -> Result<()> {
    refuse_link_out(root, from)?;
    create(to)?;
    let entries = fs::read_dir(from).map_err(|source| Error::io("read", from, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| Error::io("read", from, source))?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        refuse_link_out(root, &path)?;
        if path.is_dir() {
            copy_folder(root, &path, &to)?;
        } else {
            copy_new(&path, &to)?;
        }
    }
    Ok(())
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| Error::io("create", folder, source))
}

/// Writes a language model, which was read from `base` and tuned by what lies at `source`, with the tokenizer of `words` as
/// a folder that transformers loads; `notes` go into the header of the weights.
///
/// # Errors
/// The folder is in the way; what was written does not read back as it was meant.
pub fn export_language_model(
    model: &LanguageModel,
    (source, base, words): (&Path, &Path, &Path),
    (kind, notes): (Kind, &BTreeMap<String, String>),
    target: &Target,
) -> Result<Exported> {
    for (folder, name) in lm::COMPANIONS
        .iter()
        .flat_map(|name| [(base, name), (words, name)])
    {
        let file = folder.join(name);
        if file.exists() {
            refuse_link_out(folder, &file)?;
        }
    }
    let parameters = model.parameters();
    target.fill(source, base, |folder| {
        model.fill(folder, kind, Map::new(), &[], notes)?;
        if words != base {
            lm::replace_tokenizer(words, folder)?;
        }
        let written = lm::checkpoint(folder)?;
        for (name, tensor) in &parameters {
            if written.tensor(name)? != tensor.to_kind(kind) {
                let message = "does not read back as it was written";
                return Err(Error::tensor(folder, name, message));
            }
        }
        Ok(())
    })?;
    Ok(Exported {
        files: vec![target.folder.join("model.safetensors")],
        checked: parameters.len(),
        widened: Vec::new(),
    })
}
