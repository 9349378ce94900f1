//! Reading LoRA files: every spelling in use, each pair complete and fitting, the strength from `alpha` tensors or from
//! PEFT's settings. What a file holds and the model lacks is an error, never dropped silently.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tch::{Kind, Tensor};

use super::keys::{self, Part, Spellings};
use super::settings::{Settings, SettingsByPart};
use super::sites::{Site, Sites};
use super::{LoraWeights, adapter, peft};
use crate::error::{Error, Result};
use crate::hub::refuse_broken_links;
use crate::models::json::read_object;
use crate::models::layers::Lora;
use crate::models::recognize::{not_a, recognize};
use crate::models::weights::{Checkpoint, hex};

/// Tensor names of one module, by their role.
pub(super) type Found = BTreeMap<Part, String>;

/// A file with the names that its modules have in the model.
pub(super) struct Matched {
    pub(super) file: Checkpoint,
    pub(super) settings: SettingsByPart,
    pub(super) modules: BTreeMap<String, Found>,
    /// Names of tensors of learned words, which are left out.
    words: Vec<String>,
}

/// Beginning of the names of tensors of learned words that a LoRA of kohya brings along (`bundle_emb.WORD.string_to_param`).
const WORDS: &str = "bundle_emb.";

/// Reads a LoRA of a model with these `sites`; `path` is a file, or a folder with `adapter_model.safetensors` (PEFT) or
/// `pytorch_lora_weights.safetensors` (diffusers), or either as `.bin`.
///
/// Known are the spellings of PEFT and diffusers (new and old), kohya (diffusers and sgm block names), ComfyUI and
/// LyCORIS. Tensors come in their stored type, in the form of their site.
///
/// # Errors
/// A damaged file; one that is no LoRA; modules that the model lacks, those of text encoders among them where `sites` has none;
/// half of a pair; a shape that does not fit; values that are not finite; DoRA, LoHa, LoKr, differences, biases; a setting of PEFT that changes the
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
    let matched = open(path, &sites, false)?;
    matched.refuse_other_kinds()?;
    let modules = matched.loras(&sites, weight)?;
    Ok(LoraWeights { modules, sites })
}

/// Opens a file of any kind of adapter and finds its modules among `sites`; `without_words` leaves out learned words, with
/// which a file is refused otherwise.
///
/// # Errors
/// As [`read`], but for kinds that are no plain LoRA.
pub(super) fn open(path: &Path, sites: &Sites, without_words: bool) -> Result<Matched> {
    refuse_broken_links(path)?;
    let given = path;
    let path = &resolve(path);
    if !path.exists() {
        return Err(not_a(given, "a LoRA file or a folder with one"));
    }
    let file = Checkpoint::open_file(path)?;
    let settings = SettingsByPart::read(&file)?;
    let words: Vec<String> = file
        .names()
        .filter(|name| without_words && name.starts_with(WORDS))
        .map(str::to_owned)
        .collect();
    let modules = match_names(&file, sites, settings.unet(), &words)?;
    for module in modules.keys() {
        settings.of_module(module).check_chosen(module)?;
    }
    Ok(Matched {
        file,
        settings,
        modules,
        words,
    })
}

impl Matched {
    /// A sentence on the learned words that are left out, where there are any.
    pub(super) fn note_on_words(&self) -> Option<String> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let (count, file) = (words.len(), self.file.path().display());
        (count > 0).then(|| {
            format!(
                "`{file}`: {count} tensors of the learned words {} are left out: in prompts they mean nothing new",
                named(&words)
            )
        })
    }

    /// Refuses a file of which anything is no plain LoRA.
    fn refuse_other_kinds(&self) -> Result<()> {
        let found = self.modules.values().flatten();
        for (part, name) in found {
            if let Some(what) = part.other_kind() {
                let message = format!("belongs to {what}, not to a plain LoRA");
                return Err(Error::tensor(self.file.path(), name, message).with_hint(OTHER_KINDS));
            }
        }
        self.settings.refuse_other_kinds()
    }

    /// The matrices of a plain LoRA's modules.
    pub(super) fn loras(
        &self,
        sites: &Sites,
        weight: &dyn Fn(&str) -> Result<Tensor>,
    ) -> Result<BTreeMap<String, Lora>> {
        let mut modules = BTreeMap::new();
        for (module, found) in &self.modules {
            let (site, settings) = (&sites[module], self.settings.of_module(module));
            let lora = module_of(&self.file, module, site, found, settings)?;
            let lora = settings.with_start(module, site, lora, weight)?;
            modules.insert(module.clone(), lora);
        }
        Ok(modules)
    }
}

/// Advice on adapters that are no plain LoRA.
pub(super) const OTHER_KINDS: &str = "of models of images, `preftune generate --lora` lays it over one, and \
     `preftune export --format merged` merges it into one";

/// SHA-256 of the weights of a LoRA file, or of the one in a folder.
///
/// # Errors
/// There is none, or it is damaged.
pub fn sha256(path: &Path) -> Result<String> {
    let file = resolve(path);
    let weights = Checkpoint::open_file(&file)?.sha256()?;
    if !adapter::is_weights(&file) {
        return Ok(weights);
    }
    let settings = Value::Object(read_object(&file.with_file_name(adapter::CONFIG_NAME))?);
    let mut hash = Sha256::new();
    hash.update(weights);
    hash.update(settings.to_string());
    Ok(hex(&hash.finalize()))
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
    left_out: &[String],
) -> Result<BTreeMap<String, Found>> {
    let path = file.path();
    let spellings = Spellings::collect(sites);
    let has_text = sites
        .keys()
        .any(|module| keys::in_text_encoder(module).is_some());
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let (mut foreign, mut text, mut strange) = (Vec::new(), Vec::new(), Vec::new());
    let read = |key: &&str| *key != adapter::SCORE && !left_out.iter().any(|left| left == key);
    for key in file.names().filter(read) {
        let Some((spelling, part)) = keys::split(key) else {
            strange.push(key);
            continue;
        };
        if part == Part::Bias {
            let message = "changes a bias, which preftune does not do";
            return Err(Error::tensor(path, key, message));
        }
        if keys::is_text(spelling) && !has_text {
            text.push(spelling);
            continue;
        }
        let Some(module) = spellings.module(spelling) else {
            foreign.push(spelling);
            continue;
        };
        let module = found.entry(module.to_owned()).or_default();
        if let Some(other) = module.insert(part, key.to_owned()) {
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
        let has = |part: &str| strange.iter().any(|key| key.contains(part));
        if strange.iter().all(|key| key.starts_with(WORDS)) {
            let message = format!(
                "brings learned words along (`bundle_emb`), which are not read: {}",
                named(&strange)
            );
            return Err(Error::weights(path, message).with_hint(
                "`preftune generate --lora FILE --without-words` lays the rest over a model; or take the file without them out of \
                 the tool that made it",
            ));
        }
        let error = Error::weights(path, message);
        return Err(if has("oft_blocks") || has("oft_diag") {
            error.with_hint("they are OFT, which is not read: merge it into its base with the tool that made it")
        } else if has(".w_norm") || has(".b_norm") {
            error.with_hint(
                "they change norms (`train_norm` of LyCORIS), which is not read: merge it into its base with the tool that made it",
            )
        } else {
            error
        });
    }
    if !foreign.is_empty() {
        let message = format!(
            "{} of {} LoRA modules are not in the model: {}",
            foreign.len(),
            foreign.len() + found.len(),
            some_of(&foreign)
        );
        let said = ["ss_base_model_version", "modelspec.architecture"]
            .iter()
            .find_map(|key| file.metadata().get(*key));
        let of = said.map_or_else(String::new, |said| format!(" (`{said}` by its header)"));
        return Err(Error::weights(path, message).with_hint(format!(
            "it was made for a model of another architecture{of}; take that as the base"
        )));
    }
    if !text.is_empty() {
        let message = format!(
            "also adapts the text encoder ({} modules: {}), which is not at hand here",
            text.len(),
            some_of(&text)
        );
        return Err(Error::weights(path, message)
            .with_hint("remove the tensors of the text encoder from the file to use the rest"));
    }
    Ok(found)
}

/// The learned words that some tensors belong to.
fn named(tensors: &[&str]) -> String {
    let word = |name: &&str| {
        let rest = name.strip_prefix(WORDS)?;
        Some(rest.split_once('.')?.0.to_owned())
    };
    let words: BTreeSet<String> = tensors.iter().filter_map(word).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    some_of(&words)
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

/// A and B of a module with its strength.
///
/// # Errors
/// One of them is missing, or of another shape than the module asks for.
pub(super) fn module_of(
    file: &Checkpoint,
    module: &str,
    site: &Site,
    found: &Found,
    settings: &Settings,
) -> Result<Lora> {
    let path = file.path();
    let (down_name, up_name) = match (found.get(&Part::Down), found.get(&Part::Up)) {
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
    let down = match found.get(&Part::Mid) {
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
    let scale = strength(file, module, found, settings, Some(rank))?;
    Ok(Lora {
        down: down.reshape(site.down_shape(rank)),
        up: up.reshape(site.up_shape(rank)),
        scale,
    })
}

/// The number by which a module's product is multiplied: `alpha / rank`, from its alpha or PEFT's settings; 1 where neither
/// says one. `rank` is `None` of a module without factors, whose alpha says nothing.
///
/// # Errors
/// An alpha that is no number, or that the settings contradict.
pub(super) fn strength(
    file: &Checkpoint,
    module: &str,
    found: &Found,
    settings: &Settings,
    rank: Option<i64>,
) -> Result<f64> {
    let stored = match (found.get(&Part::Alpha), rank) {
        (Some(name), Some(rank)) => Some(scalar(file, name)? / rank as f64),
        _ => None,
    };
    match (stored, settings.scale(module, rank)?) {
        (Some(stored), Some(other)) if (stored - other).abs() > 1e-3 * stored.abs() => {
            let message =
                format!("`{module}` has strength {stored} by its alpha and {other} by the header");
            Err(Error::weights(file.path(), message))
        }
        (stored, other) => Ok(stored.or(other).unwrap_or(1.0)),
    }
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
