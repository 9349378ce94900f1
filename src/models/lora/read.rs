//! Reading LoRA files: every spelling in use, each pair complete and fitting, the strength from `alpha` tensors or from
//! PEFT's settings. What a file holds and the model lacks is an error, never dropped silently.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tch::{Kind, Tensor};

use super::keys::{self, Part, Spellings};
use super::settings::Settings;
use super::sites::{Site, Sites};
use super::{LoraWeights, adapter, peft};
use crate::error::{Error, Result};
use crate::hub::refuse_broken_links;
use crate::models::layers::Lora;
use crate::models::recognize::{not_a, recognize};
use crate::models::weights::Checkpoint;

/// Tensor names of one module, by what they are.
#[derive(Default)]
struct Found {
    down: Option<String>,
    up: Option<String>,
    mid: Option<String>,
    alpha: Option<String>,
}

/// Reads a LoRA of a model with these `sites`; `path` is a file, or a folder with `adapter_model.safetensors` (PEFT) or
/// `pytorch_lora_weights.safetensors` (diffusers), or either as `.bin`.
///
/// Known are the spellings of PEFT and diffusers (new and old), kohya (diffusers and sgm block names), ComfyUI and
/// LyCORIS. Tensors come in their stored type, in the form of their site.
///
/// # Errors
/// A damaged file; one that is no LoRA; modules that the model lacks or that belong to a text encoder; half of a pair;
/// a shape that does not fit; values that are not finite; DoRA, LoHa, LoKr, biases; a setting of PEFT that changes the
/// result and is not read; one that needs the base's weights, see [`read_on`].
pub fn read(path: &Path, sites: Rc<Sites>) -> Result<LoraWeights> {
    let weight = |module: &str| {
        let message = format!("starts from the base's weight of `{module}`, which is not at hand");
        Err(Error::weights(path, message))
    };
    read_on(path, sites, &weight)
}

/// As [`read`] for a LoRA that PEFT starts by changing the base (PiSSA, OLoRA): `weight` gives the base's weight
/// `[out, in]` of a module, and what is taken away from it becomes a part of the LoRA.
///
/// # Errors
/// As [`read`], and those of `weight`.
pub fn read_on(
    path: &Path,
    sites: Rc<Sites>,
    weight: &dyn Fn(&str) -> Result<Tensor>,
) -> Result<LoraWeights> {
    refuse_broken_links(path)?;
    let given = path;
    let path = &resolve(path);
    if !path.exists() {
        return Err(not_a(given, "a LoRA file or a folder with one"));
    }
    let file = Checkpoint::open_file(path)?;
    let settings = Settings::read(&file)?;
    let found = match_names(&file, &sites, &settings)?;
    let mut modules = BTreeMap::new();
    for (module, found) in found {
        settings.check_chosen(&module)?;
        let site = &sites[&module];
        let lora = module_of(&file, &module, site, &found, &settings)?;
        let lora = settings.with_start(&module, site, lora, weight)?;
        modules.insert(module, lora);
    }
    Ok(LoraWeights { modules, sites })
}

fn resolve(path: &Path) -> PathBuf {
    if !path.is_dir() {
        return path.to_owned();
    }
    adapter::weights_in(path)
        .or_else(|| peft::weights_in(path))
        .unwrap_or_else(|| path.join(peft::FILE_NAME))
}

fn match_names(
    file: &Checkpoint,
    sites: &Sites,
    settings: &Settings,
) -> Result<BTreeMap<String, Found>> {
    let path = file.path();
    let spellings = Spellings::collect(sites);
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let (mut foreign, mut text, mut strange) = (Vec::new(), Vec::new(), Vec::new());
    for key in file.names().filter(|key| *key != adapter::SCORE) {
        let Some((spelling, part)) = keys::split(key) else {
            strange.push(key);
            continue;
        };
        if let Part::Other(what) = part {
            return Err(Error::tensor(
                path,
                key,
                format!("belongs to {what}, which preftune does not read"),
            ));
        }
        if keys::is_text(spelling) {
            text.push(spelling);
            continue;
        }
        let Some(module) = spellings.module(spelling) else {
            foreign.push(spelling);
            continue;
        };
        let module = found.entry(module.to_owned()).or_default();
        let slot = match part {
            Part::Down => &mut module.down,
            Part::Up => &mut module.up,
            Part::Mid => &mut module.mid,
            Part::Alpha | Part::Other(_) => &mut module.alpha,
        };
        if let Some(other) = slot.replace(key.to_owned()) {
            let message = format!("means the same as `{other}`; one of them must go");
            return Err(Error::tensor(path, key, message));
        }
    }
    foreign.dedup();
    text.dedup();
    if let Some(error) = strange.iter().find_map(|key| settings.reason_of(key)) {
        return Err(error);
    }
    if found.is_empty() && foreign.is_empty() && text.is_empty() {
        let message = format!("holds no LoRA; it is {}", recognize(path).what);
        return Err(Error::weights(path, message).with_hint(
            "a LoRA file has names that end in `.lora_A.weight` or `.lora_down.weight`",
        ));
    }
    if !strange.is_empty() {
        let message = format!(
            "holds tensors that belong to no LoRA: {}",
            some_of(&strange)
        );
        return Err(Error::weights(path, message));
    }
    if !foreign.is_empty() {
        let message = format!(
            "{} of {} LoRA modules are not in the model: {}",
            foreign.len(),
            foreign.len() + found.len(),
            some_of(&foreign)
        );
        return Err(Error::weights(path, message)
            .with_hint("it was made for a model of another architecture; take that as the base"));
    }
    if !text.is_empty() {
        let message = format!(
            "also adapts the text encoder ({} modules: {}), which preftune does not",
            text.len(),
            some_of(&text)
        );
        return Err(Error::weights(path, message)
            .with_hint("remove the tensors of the text encoder from the file to use the rest"));
    }
    Ok(found)
}

fn some_of(names: &[&str]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(4)
        .map(|name| format!("`{name}`"))
        .collect();
    let rest = names.len() - shown.len();
    let more = if rest > 0 {
        format!(" and {rest} more")
    } else {
        String::new()
    };
    shown.join(", ") + &more
}

fn module_of(
    file: &Checkpoint,
    module: &str,
    site: &Site,
    found: &Found,
    settings: &Settings,
) -> Result<Lora> {
    let path = file.path();
    let (down_name, up_name) = match (&found.down, &found.up) {
        (Some(down), Some(up)) => (down, up),
        (Some(name), None) | (None, Some(name)) => {
            return Err(Error::tensor(path, name, "has no other half (A and B)"));
        }
        (None, None) => {
            let message = format!("has an alpha for `{module}`, but no matrices");
            return Err(Error::weights(path, message));
        }
    };
    let up = file.tensor(up_name)?;
    let down = match &found.mid {
        Some(mid) => with_core(file, down_name, mid)?,
        None => file.tensor(down_name)?,
    };
    let rank = rank_of(&down);
    if up.dim() < 2 || up.size()[1] != rank {
        let message = format!(
            "has shape {:?}, but its other half has rank {rank}",
            up.size()
        );
        return Err(Error::tensor(path, up_name, message));
    }
    for (name, tensor, shape) in [
        (down_name, &down, site.down_shape(rank)),
        (up_name, &up, site.up_shape(rank)),
    ] {
        if !same_form(&tensor.size(), &shape) {
            let message = format!(
                "has shape {:?}, but `{module}` of the model asks for {shape:?}",
                tensor.size()
            );
            return Err(Error::tensor(path, name, message)
                .with_hint("it was made for a model of another size; take that as the base"));
        }
    }
    let stored = match &found.alpha {
        Some(name) => Some(scalar(file, name)? / rank as f64),
        None => None,
    };
    let scale = match (stored, settings.scale(module, rank)?) {
        (Some(stored), Some(other)) if (stored - other).abs() > 1e-3 * stored.abs() => {
            let message =
                format!("`{module}` has strength {stored} by its alpha and {other} by the header");
            return Err(Error::weights(path, message));
        }
        (stored, other) => stored.or(other).unwrap_or(1.0),
    };
    Ok(Lora {
        down: down.reshape(site.down_shape(rank)),
        up: up.reshape(site.up_shape(rank)),
        scale,
    })
}

/// First size of A; 0, which fits no site, for a scalar.
fn rank_of(down: &Tensor) -> i64 {
    down.size().first().copied().unwrap_or(0)
}

/// Multiplies the core `[rank, rank, k, k]` into A `[rank, in, 1, 1]`, giving an ordinary A `[rank, in, k, k]`.
fn with_core(file: &Checkpoint, down_name: &str, mid_name: &str) -> Result<Tensor> {
    let down = file.tensor(down_name)?.to_kind(Kind::Float);
    let mid = file.tensor(mid_name)?.to_kind(Kind::Float);
    let rank = rank_of(&down);
    let fits = matches!(mid.size()[..], [out, inner, high, wide] if out == rank && inner == rank && high == wide)
        && same_form(&down.size(), &[rank, down.numel() as i64 / rank.max(1)]);
    if !fits {
        let message = format!(
            "has shape {:?}, which does not go with A of shape {:?}",
            mid.size(),
            down.size()
        );
        return Err(Error::tensor(file.path(), mid_name, message));
    }
    let core = mid.permute([0, 2, 3, 1]); // [rank, k, k, rank]
    Ok(core.matmul(&down.flatten(1, -1)).permute([0, 3, 1, 2])) // [rank, in, k, k]
}

/// `true` if two shapes are equal, a matrix counting as a 1x1 kernel.
fn same_form(left: &[i64], right: &[i64]) -> bool {
    let kernel = |shape: &[i64]| match *shape {
        [output, input] => Some([output, input, 1, 1]),
        [output, input, high, wide] => Some([output, input, high, wide]),
        _ => None,
    };
    left.iter().all(|&size| size > 0)
        && kernel(left).is_some_and(|left| Some(left) == kernel(right))
}

fn scalar(file: &Checkpoint, name: &str) -> Result<f64> {
    let tensor = file.tensor(name)?;
    if tensor.numel() != 1 {
        let message = format!("is an alpha of shape {:?}, not a number", tensor.size());
        return Err(Error::tensor(file.path(), name, message));
    }
    Ok(tensor.to_kind(Kind::Double).reshape([1]).double_value(&[0]))
}
