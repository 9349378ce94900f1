//! PEFT's settings of a LoRA, read as PEFT reads them: which modules it adapts, with which rank and strength, and what
//! it does to the base's weights at the start. What changes the result and is not read is refused by its name.

use std::path::PathBuf;

use fancy_regex::Regex;
use serde_json::{Map, Value};
use tch::{Kind, Tensor};

use super::read::OTHER_KINDS;
use super::sites::{Site, has_suffix};
use super::{adapter, keys, peft};
use crate::error::{Error, Result};
use crate::models::json::read_object;
use crate::models::layers::Lora;
use crate::models::weights::Checkpoint;

/// Settings that say where an adapter comes from or how it was trained, and those that are read below.
const READ: [&str; 41] = [
    "alpha",
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "decompose_both",
    "decompose_factor",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out", // follows from the layer, as in PEFT
    "inference_mode",
    "init_lora_weights",
    "init_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "merge_weights",
    "module_dropout",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_dropout",
    "rank_dropout_scale",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "trainable_token_indices",
    "use_dora",
    "use_effective_conv2d",
    "use_rslora",
];

/// The change that PEFT makes to the weights of the base when it attaches an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Nothing.
    Plain,
    /// Takes the principal components away (Meng et al. 2024, arXiv 2404.02948).
    Pissa,
    /// Takes the first columns of its QR decomposition away (Büyükakyüz 2024, arXiv 2406.01775).
    Olora,
}

/// PEFT's settings: in the header of a file for diffusers, in a file of their own beside an adapter.
pub(super) struct Settings {
    /// The file that holds them.
    path: PathBuf,
    values: Map<String, Value>,
    prefix: &'static str,
    start: Start,
}

/// The settings of each part of a pipeline; a language model's are those of the first.
pub(super) struct SettingsByPart {
    unet: Settings,
    text_encoders: [Settings; 2],
}

impl SettingsByPart {
    pub(super) fn read(file: &Checkpoint) -> Result<Self> {
        Ok(Self {
            unet: Settings::read(file, "unet.")?,
            text_encoders: [
                Settings::read(file, "text_encoder.")?,
                Settings::read(file, "text_encoder_2.")?,
            ],
        })
    }

    pub(super) fn unet(&self) -> &Settings {
        &self.unet
    }

    /// The settings that a module of a pipeline goes by.
    pub(super) fn of_module(&self, module: &str) -> &Settings {
        match keys::in_text_encoder(module) {
            Some((number, _)) => &self.text_encoders[number],
            None => &self.unet,
        }
    }

    /// `true` if the adapter was trained on a base that it changed at the start.
    pub(super) fn change_the_base(&self) -> bool {
        self.unet.start != Start::Plain
            || self
                .text_encoders
                .iter()
                .any(|settings| settings.start != Start::Plain)
    }

    /// Refuses settings of an adapter that is no plain LoRA.
    pub(super) fn refuse_other_kinds(&self) -> Result<()> {
        self.unet.refuse_other_kinds()?;
        self.text_encoders
            .iter()
            .try_for_each(Settings::refuse_other_kinds)
    }
}

impl Settings {
    fn read(file: &Checkpoint, prefix: &'static str) -> Result<Self> {
        let path = file.path();
        let mut settings = if adapter::is_weights(path) {
            let path = path.with_file_name(adapter::CONFIG_NAME);
            Self {
                values: read_object(&path)?,
                path,
                prefix: "",
                start: Start::Plain,
            }
        } else {
            let text = file.metadata().get(peft::METADATA_KEY);
            let values = serde_json::from_str(text.map_or("{}", String::as_str));
            Self {
                values: values.map_err(|error| {
                    let message =
                        format!("header `{}` is not readable: {error}", peft::METADATA_KEY);
                    Error::weights(path, message)
                })?,
                path: path.to_owned(),
                prefix,
                start: Start::Plain,
            }
        };
        settings.check()?;
        settings.start = settings.start()?;
        Ok(settings)
    }

    fn refused(&self, message: &str) -> Error {
        Error::weights(&self.path, message).with_hint(
            "merge the adapter into its base once in Python (`merge_and_unload`, then `save_pretrained`) and take \
             that model",
        )
    }

    /// Refuses what changes the result and is not read.
    fn check(&self) -> Result<()> {
        match self.value("peft_type").and_then(Value::as_str) {
            None | Some("LORA" | "LOHA" | "LOKR") => {}
            Some(other) => {
                return Err(self.refused(&format!("is a `{other}` adapter, not a LoRA")));
            }
        }
        for key in self.values.keys() {
            let key = key.strip_prefix(self.prefix).unwrap_or(key);
            if !READ.contains(&key) && self.is_set(key) {
                let message = format!("sets `{key}`, which preftune does not read");
                return Err(self.refused(&message));
            }
        }
        Ok(())
    }

    /// Refuses an adapter that is no plain LoRA.
    fn refuse_other_kinds(&self) -> Result<()> {
        let refused = |message: String| self.refused(&message).with_hint(OTHER_KINDS);
        match self.value("peft_type").and_then(Value::as_str) {
            Some(other) if other != "LORA" => {
                Err(refused(format!("is a `{other}` adapter, not a LoRA")))
            }
            _ if self.is_dora() => Err(refused(
                "is a DoRA (`use_dora`), not a plain LoRA".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// `true` if every module has norms of its merged weight.
    pub(super) fn is_dora(&self) -> bool {
        self.is_true("use_dora")
    }

    fn start(&self) -> Result<Start> {
        let value = self.value("init_lora_weights");
        let Some(name) = value.and_then(Value::as_str) else {
            return Ok(Start::Plain);
        };
        match name.to_lowercase().as_str() {
            "pissa" => Ok(Start::Pissa),
            "olora" => Ok(Start::Olora),
            // These draw A or B otherwise and leave the base as it is.
            "true" | "false" | "gaussian" | "eva" | "orthogonal" | "mica" => Ok(Start::Plain),
            _ => {
                let message = format!(
                    "was trained on a base that `init_lora_weights` = `{name}` had changed, which cannot be done again \
                     from the adapter alone"
                );
                Err(Error::weights(&self.path, message).with_hint(
                    "save it in PEFT with `path_initial_model_for_weight_conversion`, which makes it a plain LoRA of \
                     the unchanged base",
                ))
            }
        }
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(&format!("{}{key}", self.prefix))
    }

    fn is_true(&self, key: &str) -> bool {
        self.value(key) == Some(&Value::Bool(true))
    }

    /// `true` if a setting says anything: `null`, `false`, empty texts, lists and objects do not.
    fn is_set(&self, key: &str) -> bool {
        match self.value(key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(object)) => !object.is_empty(),
            Some(_) => true,
        }
    }

    /// The error that names what a tensor that belongs to no LoRA was trained for, by the setting that asks for it.
    pub(super) fn reason_of(&self, tensor: &str) -> Option<Error> {
        let what = if tensor.contains("trainable_tokens") || tensor.contains("token_adapter") {
            "learned vectors of single tokens (`trainable_token_indices`)"
        } else if tensor.contains("lora_embedding_") {
            "a LoRA of the token vectors"
        } else if tensor.starts_with(adapter::PREFIX) && tensor.rsplit('.').next() == Some("bias") {
            "trained biases (`bias`)"
        } else if tensor.starts_with(adapter::PREFIX) && tensor.ends_with(".weight") {
            "a whole trained layer (`modules_to_save`, or resized token vectors)"
        } else {
            return None;
        };
        let message = format!("`{tensor}`: holds {what}, which preftune does not read");
        Some(self.refused(&message))
    }

    fn regex(&self, key: &str, pattern: &str) -> Result<Regex> {
        Regex::new(pattern).map_err(|error| {
            let message = format!("`{key}` has a regular expression that cannot be read: {error}");
            Error::weights(&self.path, message)
        })
    }

    fn matches(&self, key: &str, regex: &Regex, module: &str) -> Result<bool> {
        regex.is_match(module).map_err(|error| {
            let message = format!("`{key}` has a regular expression that is too deep: {error}");
            Error::weights(&self.path, message)
        })
    }

    /// `true` if `key`, a regular expression for the whole path or a list of paths and endings, names `module`.
    fn names(&self, key: &str, module: &str) -> Result<bool> {
        match self.value(key) {
            Some(Value::String(pattern)) => {
                let regex = self.regex(key, &format!(r"\A(?:{pattern})\z"))?;
                self.matches(key, &regex, module)
            }
            Some(Value::Array(endings)) => {
                let mut endings = endings.iter().filter_map(Value::as_str);
                Ok(endings.any(|ending| has_suffix(module, ending)))
            }
            _ => Ok(false),
        }
    }

    /// Refuses a module of the file that the settings do not choose: PEFT would leave its matrices out.
    pub(super) fn check_chosen(&self, module: &str) -> Result<()> {
        let module = keys::in_text_encoder(module).map_or(module, |(_, path)| path);
        let by = if self.names("exclude_modules", module)? {
            "exclude_modules"
        } else if !self.is_targeted(module)? {
            "target_modules"
        } else if !self.is_of_chosen_layer(module)? {
            "layers_to_transform"
        } else {
            return Ok(());
        };
        let message = format!(
            "`{by}` leaves out `{module}`, for which the adapter has matrices; PEFT would not use them"
        );
        Err(Error::weights(&self.path, message).with_hint(format!("mend `{by}`")))
    }

    fn is_targeted(&self, module: &str) -> Result<bool> {
        match self.value("target_modules") {
            None | Some(Value::Null) => Ok(true),
            // Every linear layer; whether the module is one, its shape says.
            Some(Value::String(all)) if all.to_lowercase() == "all-linear" => Ok(true),
            Some(Value::Array(list)) if list.iter().any(|one| one == "all-linear") => Ok(true),
            _ => self.names("target_modules", module),
        }
    }

    fn is_of_chosen_layer(&self, module: &str) -> Result<bool> {
        let key = "layers_to_transform";
        let layers: Vec<i64> = match self.value(key) {
            Some(Value::Number(layer)) => layer.as_i64().into_iter().collect(),
            Some(Value::Array(layers)) => layers.iter().filter_map(Value::as_i64).collect(),
            _ => Vec::new(),
        };
        // With a regular expression of targets PEFT does not look at the layers.
        if layers.is_empty() || matches!(self.value("target_modules"), Some(Value::String(_))) {
            return Ok(true);
        }
        let patterns: Vec<String> = match self.value("layers_pattern") {
            Some(Value::String(pattern)) if !pattern.is_empty() => {
                vec![format!(r"\A(?:|.*?\.){pattern}\.(?P<idx>\d+)\.")]
            }
            Some(Value::Array(list)) if !list.is_empty() => {
                let patterns = list.iter().filter_map(Value::as_str);
                let whole = |pattern| format!(r"\A(?:|.*?\.){pattern}\.(?P<idx>\d+)\.");
                patterns.map(whole).collect()
            }
            _ => vec![r"\A.*?\.[^.]*\.(?P<idx>\d+)\.".to_owned()],
        };
        for pattern in patterns {
            let regex = self.regex("layers_pattern", &pattern)?;
            let found = regex.captures(module).ok().flatten();
            let index = found.and_then(|found| found.name("idx")?.as_str().parse().ok());
            if let Some(index) = index {
                return Ok(layers.contains(&index));
            }
        }
        Ok(false)
    }

    /// The value of the first pattern of `key` that matches `module`, else the value of `plain`, which is for all.
    fn by_pattern(&self, key: &str, plain: &str, module: &str) -> Result<Option<f64>> {
        if let Some(Value::Object(patterns)) = self.value(key) {
            for (pattern, value) in patterns {
                let regex = self.regex(key, &format!(r"\A(.*\.)?({pattern})\z"))?;
                if self.matches(key, &regex, module)? {
                    return Ok(value.as_f64());
                }
            }
        }
        Ok(self.value(plain).and_then(Value::as_f64))
    }

    /// `alpha / rank` of a module whose factors have this rank, or `alpha / sqrt(rank)` in a rank-stabilised LoRA; `rank` is
    /// `None` of a module without factors, which goes by the rank that is said. `None` where nothing is said of it.
    pub(super) fn scale(&self, module: &str, rank: Option<i64>) -> Result<Option<f64>> {
        // PEFT knows modules by their paths in the part that has the adapter.
        let module = keys::in_text_encoder(module).map_or(module, |(_, path)| path);
        let said = self.by_pattern("rank_pattern", "r", module)?;
        if let (Some(said), Some(rank)) = (said, rank)
            && (said - rank as f64).abs() > 0.0
        {
            let message = format!("says rank {said} of `{module}`, whose matrices have {rank}");
            return Err(Error::weights(&self.path, message));
        }
        let Some(rank) = rank.map(|rank| rank as f64).or(said) else {
            return Ok(None);
        };
        let divisor = if self.is_true("use_rslora") {
            rank.sqrt()
        } else {
            rank
        };
        let other_kind = matches!(
            self.value("peft_type").and_then(Value::as_str),
            Some("LOHA" | "LOKR")
        );
        let key = if other_kind { "alpha" } else { "lora_alpha" };
        let alpha = self.by_pattern("alpha_pattern", key, module)?;
        Ok(alpha.map(|alpha| alpha / divisor))
    }

    /// The update that takes `lora` together with what PEFT takes away from the base's weight at the start: a LoRA of
    /// twice the rank. `weight` gives the base's `[out, in]`.
    pub(super) fn with_start(
        &self,
        module: &str,
        site: &Site,
        lora: Lora,
        weight: &dyn Fn(&str) -> Result<Tensor>,
    ) -> Result<Lora> {
        if self.start == Start::Plain {
            return Ok(lora);
        }
        let rank = lora.down.size()[0];
        let transposed = self.start == Start::Olora && module.starts_with(adapter::GPT2_BLOCKS);
        if site.kernel.is_some() || transposed || lora.scale <= 0.0 {
            let message = format!("`{module}` cannot start as `init_lora_weights` says");
            return Err(self.refused(&message));
        }
        let weight = weight(module)?.detach().to_kind(Kind::Float);
        if rank > weight.size()[0].min(weight.size()[1]) {
            let message = format!("`{module}` has a LoRA of more than its own rank");
            return Err(self.refused(&message));
        }
        let (down, up) = if self.start == Start::Olora {
            let (q, r) = Tensor::f_linalg_qr(&weight, "reduced")?;
            (r.narrow(0, 0, rank), q.narrow(1, 0, rank))
        } else {
            let (u, values, v) = weight.f_svd(true, true)?;
            let roots = (values.narrow(0, 0, rank) / lora.scale).sqrt();
            (
                (v.narrow(1, 0, rank) * &roots).tr(),
                u.narrow(1, 0, rank) * roots,
            )
        };
        let beside = |first: &Tensor, second: Tensor, dim| {
            let first = first.to_kind(Kind::Float).to_device(second.device());
            Tensor::cat(&[first, second], dim)
        };
        Ok(Lora {
            down: beside(&lora.down, down, 0), // [2 rank, in]
            up: beside(&lora.up, -up, 1),      // [out, 2 rank]
            scale: lora.scale,
        })
    }
}
