//! From a path that the user gives to a language model: a folder in Hugging Face layout, a GGUF file, an adapter folder, or
//! a run on texts.

use std::path::{Path, PathBuf};

use tch::{Device, Kind};

use crate::config::{self, AdapterKind, ChatForm, Config};
use crate::error::{Error, Result};
use crate::hub::fetch_command;
use crate::jobs::open::image::{lora_config, take_weights};
use crate::models::json::read_object;
use crate::models::lm::LanguageModel;
use crate::models::lm::gguf::is_gguf;
use crate::models::lm::tokenizer::TextTokenizer;
use crate::models::lm::words::noted;
use crate::models::lora::LoraSet;
use crate::models::lora::adapter::base_model;
use crate::models::single_file::is_there;
use crate::run::checkpoint::{best_of, weights_at};
use crate::run::data_manifest::DataManifest;
use crate::run::{manifest, rounds};

/// PEFT's settings in an adapter folder.
const ADAPTER: &str = "adapter_config.json";

/// `true` if a path is a language model, an adapter of one, or a run that tuned one.
pub(crate) fn is_text(path: &Path) -> bool {
    if is_gguf(path) {
        return true;
    }
    let diffusion = path.join("model_index.json").exists();
    let adapter = || path.join(ADAPTER).exists() && !adapts_diffusion(path);
    let model = path.join("config.json").exists() || adapter();
    let run = path.join("config.toml");
    let text_run = || {
        let config = config::load_any(&run, &[]);
        matches!(config, Ok(Config::Text(_) | Config::Rounds(_)))
    };
    !diffusion && (model || run.exists() && text_run())
}

/// `true` of PEFT's adapter of a diffusion model's U-Net.
fn adapts_diffusion(folder: &Path) -> bool {
    let Ok(settings) = read_object(&folder.join(ADAPTER)) else {
        return false;
    };
    let library = settings
        .get("auto_mapping")
        .and_then(|mapping| mapping["parent_library"].as_str());
    library.is_some_and(|library| library.starts_with("diffusers"))
        || diffusion_base(folder).is_some()
}

/// The folder of the diffusion model that PEFT's adapter in a folder goes with, where it is there.
pub(crate) fn diffusion_base(adapter: &Path) -> Option<PathBuf> {
    let path = adapter.join(ADAPTER);
    let settings = read_object(&path).ok()?;
    let base = base_model(&path, &settings).ok()?;
    // Of the U-Net alone it is the model above.
    let folders = [Some(base.as_path()), base.parent()];
    let mut folders = folders.into_iter().flatten();
    let found = folders.find(|folder| is_there(&folder.join("model_index.json")));
    found.map(Path::to_owned)
}

/// A language model with its tokenizer.
pub(crate) struct Loaded {
    pub(crate) model: LanguageModel,
    pub(crate) tokenizer: TextTokenizer,
    /// Folder or file of the weights, without an adapter.
    pub(crate) base: PathBuf,
    /// Folder or file of the tokenizer.
    pub(crate) words: PathBuf,
    /// Type in which a run trained all weights, where they come from its checkpoint.
    pub(crate) trained: Option<Kind>,
}

/// As [`open`]; where a step is named, the run with its checkpoint of that step.
pub(crate) fn open_at(
    path: &Path,
    checkpoint: Option<u64>,
    device: Device,
    kind: Kind,
) -> Result<Loaded> {
    match checkpoint {
        None => open(path, device, kind),
        Some(step) => open_checkpoint(path, step, device, kind),
    }
}

fn open_checkpoint(run: &Path, step: u64, device: Device, kind: Kind) -> Result<Loaded> {
    let file = run.join("config.toml");
    if !file.exists() {
        return Err(Error::config("`--checkpoint` is for a run"));
    }
    let Config::Text(config) = config::load_any(&file, &[])? else {
        let message = "of a run with checkpoints of each round, not of one model";
        return Err(Error::data(file, message)
            .with_hint("name one of its rounds, which are runs of their own"));
    };
    let weights = weights_at(run, step)?;
    let base = there(manifest::read::<DataManifest>(run)?.base_model, run)?;
    let model = if config.model.from_scratch {
        LanguageModel::fresh(&base, config.run.seed, device, kind)?
    } else {
        LanguageModel::open(&base, device, kind, kind)?
    };
    let trained = match config.adapter.kind {
        AdapterKind::Full => {
            take_weights(model.parameters(), &weights)?;
            Some(Kind::Float)
        }
        AdapterKind::Lora => {
            let lora = lora_config(&config.adapter);
            let lora = LoraSet::attach(&model.adapters(), &lora, 0, device, Kind::Float)?;
            take_weights(lora.parameters(), &weights)?;
            lora.merge();
            None
        }
    };
    let tokenizer = TextTokenizer::open(&base, model.config().vocab_size)?
        .with_words(ChatForm::raw(config.data.chat));
    Ok(Loaded {
        model,
        tokenizer,
        words: base.clone(),
        base,
        trained,
    })
}

impl Loaded {
    /// The same, which takes words as they are or through the chat template where that is asked for.
    #[must_use]
    pub(crate) fn with_words(mut self, raw: Option<bool>) -> Self {
        self.tokenizer.set_words(raw);
        self
    }
}

/// Opens what [`is_text`] knows; adapters are merged into their base. Of rounds it is the last policy.
pub(crate) fn open(path: &Path, device: Device, kind: Kind) -> Result<Loaded> {
    let run = path.join("config.toml");
    let weights = if !run.exists() {
        path.to_owned()
    } else if let Ok(Config::Rounds(config)) = config::load_any(&run, &[]) {
        rounds::last_policy(&config, path)?
    } else {
        best_of(path)?
    };
    let adapter = weights.join(ADAPTER).exists();
    let base = if adapter {
        base_of(path, &weights)?
    } else {
        weights.clone()
    };
    let model = LanguageModel::open(&base, device, kind, kind)?;
    if adapter {
        LoraSet::load(&model.adapters(), &weights)?.merge();
    }
    // An adapter that was trained with tokens of its own brings the tokenizer that knows them.
    let own = adapter && weights.join("tokenizer.json").exists();
    let noted = noted(&weights);
    let words = if own { weights } else { base.clone() };
    let tokenizer = TextTokenizer::open(&words, model.config().vocab_size)?.with_words(noted);
    Ok(Loaded {
        model,
        tokenizer,
        base,
        words,
        trained: None,
    })
}

/// Folder of the model that an adapter goes with.
fn base_of(path: &Path, adapter: &Path) -> Result<PathBuf> {
    let base = if path == adapter {
        let path = adapter.join(ADAPTER);
        base_model(&path, &read_object(&path)?)?
    } else {
        manifest::read::<DataManifest>(path)?.base_model
    };
    there(base, path)
}

/// The base model of what is at `path`, which must be there.
fn there(base: PathBuf, path: &Path) -> Result<PathBuf> {
    if base.exists() {
        return Ok(base);
    }
    let problem = format!("the base model of `{}` is not there", path.display());
    let error = Error::weights(&base, problem);
    Err(match fetch_command(&base) {
        Some(advice) => error.with_hint(advice),
        None => error,
    })
}
