//! A whole Stable Diffusion 1, 2 or XL model in one file, as model sites have it: read as the folder that diffusers would have
//! made of it. `FILE/unet`, `FILE/scheduler/scheduler_config.json` and so on are answered from the file's tensors, from
//! what its header says, and from the vocabulary that is bundled with the program; nothing is written. A file with an
//! autoencoder alone is read as the folder `FILE/vae`.

mod configs;
mod names;
mod vocabulary;
mod write;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use serde_json::{Map, Value};

use super::lora::Family;
use super::recognize::not_a;
use super::stored::Cut;
use super::weights::Checkpoint;
use crate::error::{Error, Result};
pub(super) use names::open_clip as open_clip_names;
pub(super) use vocabulary::vocabulary;
pub(super) use write::{settings as header, tensors};

/// Header entry with the settings of a model that this program wrote, which its tensors do not say: heads, the schedule.
const SETTINGS: &str = "preftune_model";

const UNET: &str = "model.diffusion_model.";
const FIRST_CONVOLUTION: &str = "model.diffusion_model.input_blocks.0.0.weight";
const UNET_CONFIG: &str = "unet/config.json";
const VAE_CONFIG: &str = "vae/config.json";
/// Prefixes of an autoencoder's tensors; a file of its own has it without one, too.
const VAES: [&str; 3] = ["first_stage_model.", "vae.", ""];
const MODEL: &str = "a model of Stable Diffusion 1, 2 or XL";

/// The names that tell the parts of a file apart.
struct Layout {
    family: Family,
    vae: Option<Autoencoder>,
    /// Prefix of OpenCLIP's text encoder, and of CLIP's.
    open_clip: &'static str,
    clip: &'static str,
    /// Input blocks of a level of the U-Net.
    stride: usize,
}

/// The autoencoder in a file.
struct Autoencoder {
    /// Of the names of its tensors.
    prefix: &'static str,
    levels: usize,
}

/// The settings of a model by their path in diffusers' folder.
type Files = BTreeMap<String, Map<String, Value>>;

/// The file that was asked for last, with what was found in it: a model is asked for many settings one after the other.
struct Known {
    path: PathBuf,
    length: u64,
    changed: Option<SystemTime>,
    files: Rc<Files>,
}

thread_local! {
    static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
}

/// The file that a path leads into, and the path inside; `None` of a path that leads into none.
fn within(path: &Path) -> Option<(&Path, String)> {
    let file = path.ancestors().skip(1).find(|above| above.is_file())?;
    let inside = path.strip_prefix(file).ok()?;
    Some((file, inside.to_str()?.to_owned()))
}

/// `true` if `path` is there, on the disk or inside a model in one file.
pub fn is_there(path: &Path) -> bool {
    path.exists() || matches!(settings(path), Ok(Some(_)))
}

/// The settings at a path inside a model in one file; `None` of a path that leads into none.
///
/// # Errors
/// The file cannot be read, or holds another kind of model.
pub(super) fn settings(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some((file, inside)) = within(path) else {
        return Ok(None);
    };
    let files = files(file)?;
    if inside != VAE_CONFIG && !files.contains_key(UNET_CONFIG) {
        return Err(not_a(file, MODEL));
    }
    Ok(files.get(&inside).cloned())
}

/// The weights of a part of a model in one file, under diffusers' names; `None` of a path that leads into none.
///
/// # Errors
/// The file cannot be read, holds another kind of model, or lacks the part.
pub(super) fn component(folder: &Path) -> Result<Option<Checkpoint>> {
    let Some((file, part)) = within(folder) else {
        return Ok(None);
    };
    let mut checkpoint = Checkpoint::open_file(file)?;
    match alone(&checkpoint) {
        Some(vae) if part == "vae" => checkpoint.regroup(|name, _| vae.renamed(name))?,
        _ => {
            let layout = layout(&checkpoint)?;
            checkpoint.regroup(|name, _| layout.renamed(&part, name))?;
        }
    }
    if checkpoint.names().next().is_none() {
        return Err(Error::weights(file, format!("has no `{part}` in it")));
    }
    Ok(Some(checkpoint))
}

/// `true` of a file with an autoencoder, be it alone or a part of a model.
pub(super) fn has_autoencoder(path: &Path) -> bool {
    is_there(&path.join(VAE_CONFIG))
}

/// Refuses a file that is no such model, by name.
///
/// # Errors
/// It is none.
pub(super) fn check(path: &Path) -> Result<()> {
    settings(&path.join(UNET_CONFIG)).map(drop)
}

fn files(file: &Path) -> Result<Rc<Files>> {
    let about = fs::metadata(file).map_err(|source| Error::io("read", file, source))?;
    let (length, changed) = (about.len(), about.modified().ok());
    let known = KNOWN.with_borrow(|known| {
        let known = known.as_ref()?;
        let same = known.path == file && known.length == length && known.changed == changed;
        same.then(|| Rc::clone(&known.files))
    });
    if let Some(files) = known {
        return Ok(files);
    }
    let checkpoint = Checkpoint::open_file(file)?;
    let files = match alone(&checkpoint) {
        Some(vae) => configs::of_autoencoder(&checkpoint, &vae)?,
        None => configs::files(&checkpoint, &layout(&checkpoint)?)?,
    };
    let files = Rc::new(files);
    KNOWN.set(Some(Known {
        path: file.to_owned(),
        length,
        changed,
        files: Rc::clone(&files),
    }));
    Ok(files)
}

/// The autoencoder in a file.
fn autoencoder(file: &Checkpoint) -> Option<Autoencoder> {
    let level = |prefix: &str, level: usize| {
        file.contains(&format!("{prefix}decoder.up.{level}.block.0.conv1.weight"))
    };
    let prefix = VAES.into_iter().find(|prefix| level(prefix, 0))?;
    let levels = (0..64).take_while(|&number| level(prefix, number)).count();
    Some(Autoencoder { prefix, levels })
}

/// That of a file with nothing else.
fn alone(file: &Checkpoint) -> Option<Autoencoder> {
    let has_unet = || file.names().any(|name| name.starts_with(UNET));
    autoencoder(file).filter(|_| !has_unet())
}

fn layout(file: &Checkpoint) -> Result<Layout> {
    let path = file.path();
    let other = || not_a(path, MODEL);
    let begins = |prefix: &str| file.names().any(|name| name.starts_with(prefix));
    match file.shape(FIRST_CONVOLUTION) {
        Some(&[_, 4, _, _]) => {}
        _ => return Err(other()),
    }
    if file.names().any(|name| name.starts_with("edm_")) {
        let message = "samples with the noise levels of EDM (as Playground 2.5 does), which are not implemented";
        return Err(Error::weights(path, message));
    }
    let label = file.contains(&format!("{UNET}label_emb.0.0.weight"));
    let (family, open_clip, clip) = if begins("conditioner.embedders.1.model.") {
        let clip = "conditioner.embedders.0.transformer.";
        (Family::Sdxl, "conditioner.embedders.1.model.", clip)
    } else if label {
        return Err(other());
    } else if begins("cond_stage_model.model.") {
        (Family::Sd2, "cond_stage_model.model.", "")
    } else if begins("conditioner.embedders.0.model.") {
        (Family::Sd2, "conditioner.embedders.0.model.", "")
    } else if begins("cond_stage_model.transformer.") {
        (Family::Sd1, "", "cond_stage_model.transformer.")
    } else {
        let message = "has a U-Net, but no text encoder of Stable Diffusion 1, 2 or XL";
        return Err(Error::weights(path, message)
            .with_hint("take the whole checkpoint, with its text encoder"));
    };
    let stride = (1..).take(64).find(|block| {
        let name = format!("{UNET}input_blocks.{block}.0.op.weight");
        file.contains(&name)
    });
    Ok(Layout {
        family,
        vae: autoencoder(file),
        open_clip,
        clip,
        // Without a second level there is nothing to count by.
        stride: stride.unwrap_or(64),
    })
}

impl Autoencoder {
    /// The name that a tensor has in diffusers' folder, with its form there; none where it is not of the autoencoder.
    fn renamed(&self, name: &str) -> Vec<(String, Cut)> {
        match name.strip_prefix(self.prefix) {
            // The losses that it was trained with.
            Some(name) if name.starts_with("loss.") || name.starts_with("model_ema.") => Vec::new(),
            Some(name) => {
                let renamed = names::vae(name, self.levels);
                vec![renamed.unwrap_or_else(|| (name.to_owned(), Cut::Whole))]
            }
            None => Vec::new(),
        }
    }
}

impl Layout {
    /// The names that a tensor has in a part of the folder, with its form there; none where it belongs to another part.
    fn renamed(&self, part: &str, name: &str) -> Vec<(String, Cut)> {
        let one = |name: Option<String>| name.map(|name| (name, Cut::Whole)).into_iter().collect();
        let of_open_clip = |name: &str| match name.strip_prefix(self.open_clip) {
            // Stable Diffusion 2 does not use the last block, nor what comes after it.
            Some(name) if self.family == Family::Sd2 => {
                if names::block(name) == Some(23) || name == "text_projection" {
                    Vec::new()
                } else {
                    names::open_clip(name)
                }
            }
            Some(name) => names::open_clip(name),
            None => Vec::new(),
        };
        match part {
            // What has no name there keeps its own, and is refused by it.
            "unet" => one(name
                .strip_prefix(UNET)
                .map(|name| names::unet(name, self.stride).unwrap_or_else(|| name.to_owned()))),
            "vae" => match &self.vae {
                Some(vae) => vae.renamed(name),
                None => Vec::new(),
            },
            "text_encoder" if self.family == Family::Sd2 => of_open_clip(name),
            "text_encoder" => one(name.strip_prefix(self.clip).and_then(names::clip)),
            "text_encoder_2" if self.family == Family::Sdxl => of_open_clip(name),
            _ => Vec::new(),
        }
    }
}
