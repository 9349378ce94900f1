//! A language model with a head on the state of each text's last token: scores of texts. Where the head is one matrix the
//! folder is that of a classifier in transformers (`...ForSequenceClassification`), or PEFT's adapter of one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tch::{Device, Kind, Tensor, no_grad};

use super::tokenizer::{Sequence, TextTokenizer};
use super::words::{note, noted};
use super::{LanguageModel, gguf};
use crate::error::{Error, Result};
use crate::files::replace_folder;
use crate::hub::fetch_command;
use crate::models::heads::{Head, HeadConfig, HeadKind};
use crate::models::json::read_object_as_written;
use crate::models::lora::{LoraSet, adapter};
use crate::models::weights::{Checkpoint, hex};
use crate::ops::tape::Tape;
use crate::ops::transfer::upload_slice;

/// The output layer of a classifier in transformers.
pub(super) const SCORE: &str = "score.weight";
/// Folder of a head that is more than a matrix, beside the language model's files.
const HEAD: &str = "head";

/// A language model, whole or with a LoRA, and its head.
pub struct RewardModel {
    body: LanguageModel,
    lora: Option<(LoraSet, PathBuf)>,
    head: Rc<Head>,
    pad: Option<i64>,
    /// `true` if it reads words as they are where they could go through a chat template.
    raw: bool,
}

/// The weights of a language model that are trained.
pub enum Trained<'a> {
    /// All of it.
    Whole,
    /// A LoRA that is already attached, with the folder of the model that it goes with.
    Lora(LoraSet, &'a Path),
}

/// States of texts, f32.
pub struct States {
    /// Of the last token, `[s, d]`.
    pub last: Tensor,
    /// Of the last token of each prompt, `[s, d]`.
    pub prompt: Tensor,
}

impl RewardModel {
    /// A model to train: `head` reads the states of `body`.
    ///
    /// # Errors
    /// The head reads another width than the states have.
    pub fn new(
        body: LanguageModel,
        trained: Trained,
        head: Head,
        tokenizer: &TextTokenizer,
    ) -> Result<Self> {
        let width = body.config().hidden_size;
        if head.config().input != width {
            return Err(Error::config(format!(
                "the head reads states of width {}, the language model has {width}",
                head.config().input
            )));
        }
        let pad = pad(body.folder(), tokenizer)?;
        Ok(Self {
            body,
            lora: match trained {
                Trained::Whole => None,
                Trained::Lora(lora, base) => Some((lora, base.to_owned())),
            },
            head: Rc::new(head),
            pad,
            raw: tokenizer.is_raw(),
        })
    }

    /// Opens a folder that [`Self::fill`] wrote, or that transformers wrote of a classifier, to score texts: a LoRA is
    /// merged into its base.
    ///
    /// # Errors
    /// It is none of these, or a file is missing or broken.
    pub fn open(folder: &Path, device: Device, kind: Kind) -> Result<(Self, TextTokenizer)> {
        let base = base_of(folder)?;
        let body = LanguageModel::open_body(&base, device, kind, kind)?;
        if base != folder {
            LoraSet::load(&body.adapters(), folder)?.merge();
        }
        let tokenizer =
            TextTokenizer::open(&base, body.config().vocab_size)?.with_words(noted(folder));
        let head = open_head(folder, device)?;
        let model = Self::new(body, Trained::Whole, head, &tokenizer)?;
        Ok((model, tokenizer))
    }

    /// `true` if [`Self::open`] takes a folder, as far as its names tell.
    pub fn is_there(folder: &Path) -> bool {
        adapter::weights_in(folder).is_some() || folder.join(HEAD).exists() || is_classifier(folder)
    }

    /// The head.
    pub fn head(&self) -> &Rc<Head> {
        &self.head
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.body.device()
    }

    /// The trained weights: the LoRA or all weights, and the head's under `head.`.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        let body = match &self.lora {
            Some((lora, _)) => lora.parameters(),
            None => self.body.parameters(),
        };
        let head = self.head.parameters().into_iter();
        let head = head.map(|(name, tensor)| (format!("{HEAD}.{name}"), tensor));
        body.into_iter().chain(head).collect()
    }

    /// States that heads read, of texts padded on the right to the longest.
    ///
    /// As in transformers, the last token is the last that is not padding by its id: where texts end with the token that
    /// also pads, the one before. With a `tape`, activations are recomputed in its backward pass.
    pub fn states<'a>(&'a self, sequences: &[&Sequence], tape: Option<&Tape<'a>>) -> States {
        let device = self.device();
        let longest = sequences.iter().map(|sequence| sequence.ids.len()).max();
        let longest = longest.unwrap_or_default();
        let padded = sequences.iter().flat_map(|sequence| {
            let padding = std::iter::repeat_n(0, longest - sequence.ids.len());
            sequence.ids.iter().copied().chain(padding)
        });
        let ids: Vec<i64> = padded.collect();
        let shape = [sequences.len() as i64, longest as i64];
        let ids = upload_slice(&ids, device).view(shape); // [s, t]
        let hidden = self.body.forward(&ids, None, tape); // [s, t, d]
        let width = hidden.size()[2];
        let flat = hidden.reshape([-1, width]); // [s * t, d]
        let at = |place: &dyn Fn(&Sequence) -> usize| {
            let rows = sequences.iter().enumerate();
            let rows: Vec<i64> = rows
                .map(|(row, sequence)| (row * longest + place(sequence)) as i64)
                .collect();
            let rows = upload_slice(&rows, device);
            flat.index_select(0, &rows).to_kind(Kind::Float) // [s, d]
        };
        let real = |id: &i64| Some(*id) != self.pad;
        States {
            last: at(&|sequence| sequence.ids.iter().rposition(real).unwrap_or_default()),
            prompt: at(&|sequence| sequence.prompt.saturating_sub(1)),
        }
    }

    /// Writes the model into a folder that is there.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn fill(&self, folder: &Path, notes: &BTreeMap<String, String>) -> Result<()> {
        let mut all = note(self.raw);
        all.extend(notes.clone());
        let notes = &all;
        let score = self.head.is_matrix().then(|| {
            let matrix = self.head.parameters().into_iter().next();
            matrix.map(|(_, tensor)| tensor)
        });
        let score = score.flatten();
        if let Some((lora, base)) = &self.lora {
            let base = base.to_string_lossy();
            lora.weights()
                .fill_adapter(folder, &base, score.as_ref(), notes)?;
        } else {
            let settings = self.settings(score.is_some());
            let more = score
                .as_ref()
                .map(|score| (SCORE.to_owned(), score.detach()));
            let more: Vec<_> = more.into_iter().collect();
            self.body
                .fill(folder, Kind::Float, settings, &more, notes)?;
        }
        if score.is_none() || self.lora.is_some() {
            // An adapter has no place for the outputs' names.
            self.head.save(&folder.join(HEAD), notes)?;
        }
        Ok(())
    }

    /// As [`Self::fill`] in the place of a folder, whole or not at all.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, folder: &Path, notes: &BTreeMap<String, String>) -> Result<()> {
        replace_folder(folder, |partial| self.fill(partial, notes))
    }

    /// The settings that a classifier's configuration has beside the language model's.
    fn settings(&self, classifier: bool) -> Map<String, Value> {
        let class = self.body.config().family.class();
        let mut settings = Map::from_iter([
            ("architectures".to_owned(), json!([format!("{class}Model")])),
            ("pad_token_id".to_owned(), json!(self.pad)),
        ]);
        if let (true, HeadKind::Scalar { outputs }) = (classifier, &self.head.config().kind) {
            let class = format!("{class}ForSequenceClassification");
            let numbered = outputs.iter().enumerate();
            let names: Map<_, _> = numbered
                .clone()
                .map(|(index, name)| (index.to_string(), json!(name)))
                .collect();
            let numbers: Map<_, _> = numbered
                .map(|(index, name)| (name.clone(), json!(index)))
                .collect();
            settings.insert("architectures".to_owned(), json!([class]));
            settings.insert("id2label".to_owned(), Value::Object(names));
            settings.insert("label2id".to_owned(), Value::Object(numbers));
            settings.insert("problem_type".to_owned(), json!("regression"));
        }
        settings
    }

    /// Takes over the values of tensors that another model of this form has under the same names: those at `factor` on
    /// the line from `weak` (0) to `strong` (1).
    ///
    /// # Errors
    /// One of the two is of another form.
    pub fn between(&self, weak: &Self, strong: &Self, factor: f64) -> Result<()> {
        let (weak, strong) = (weak.parameters(), strong.parameters());
        let own = self.parameters();
        let same = |other: &[(String, Tensor)]| {
            own.len() == other.len()
                && own
                    .iter()
                    .zip(other)
                    .all(|(own, other)| own.0 == other.0 && own.1.size() == other.1.size())
        };
        if !same(&weak) || !same(&strong) {
            return Err(Error::config(
                "extrapolation needs two reward models of one form",
            ));
        }
        for ((_, mut own), ((_, weak), (_, strong))) in
            own.into_iter().zip(weak.into_iter().zip(strong))
        {
            no_grad(|| {
                let (weak, strong) = (weak.to_kind(own.kind()), strong.to_kind(own.kind()));
                own.copy_(&weak.lerp(&strong, factor));
            });
        }
        Ok(())
    }
}

/// The folder of the language model that a reward model's folder goes with: itself, or that of its adapter.
///
/// # Errors
/// An adapter names none, or one that is not there.
pub fn base_of(folder: &Path) -> Result<PathBuf> {
    let settings = folder.join(adapter::CONFIG_NAME);
    if !settings.exists() {
        return Ok(folder.to_owned());
    }
    let object = read_object_as_written(&settings)?;
    let base = adapter::base_model(&settings, &object)?;
    if base.is_dir() || gguf::is_gguf(&base) && base.exists() {
        return Ok(base);
    }
    let problem = format!("the base model of `{}` is not there", folder.display());
    let error = Error::weights(&base, problem);
    Err(match fetch_command(&base) {
        Some(advice) => error.with_hint(advice),
        None => error,
    })
}

/// Hash of all weights of a reward model's folder: of the language model, the adapter and the head.
///
/// # Errors
/// One of the files is missing or broken.
pub fn sha256(folder: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(super::checkpoint(&base_of(folder)?)?.sha256()?);
    let head = folder.join(HEAD);
    if let Some(adapter) = adapter::weights_in(folder) {
        hash.update(Checkpoint::open_file(&adapter)?.sha256()?);
    }
    if head.exists() {
        hash.update(Head::sha256(&head)?);
    }
    Ok(hex(&hash.finalize()))
}

/// The head of a reward model's folder, in f32.
///
/// # Errors
/// There is none, or it is broken.
pub fn open_head(folder: &Path, device: Device) -> Result<Head> {
    let own = folder.join(HEAD);
    if own.exists() {
        return Head::open(&own, Kind::Float, device);
    }
    let (weights, name) = if let Some(adapter) = adapter::weights_in(folder) {
        (Checkpoint::open_file(&adapter)?, adapter::SCORE)
    } else {
        (super::checkpoint(folder)?, SCORE)
    };
    if !weights.contains(name) {
        return Err(
            Error::weights(folder, "a language model without a reward head").with_hint(
                "give the folder of a reward model: `best` of a run with a section `[reward_model]`, or a \
                 `...ForSequenceClassification` of transformers",
            ),
        );
    }
    let score = weights.tensor(name)?;
    let &[outputs, input] = score.size().as_slice() else {
        let problem = format!("has shape {:?}, not [outputs, width]", score.size());
        return Err(Error::tensor(weights.path(), name, problem));
    };
    let config = HeadConfig {
        input,
        hidden: Vec::new(),
        bias: false,
        kind: HeadKind::Scalar {
            outputs: output_names(folder, outputs)?,
        },
    };
    let head = Head::new(config, 0, Kind::Float, device);
    for (_, mut own) in head.parameters() {
        no_grad(|| own.copy_(&score));
    }
    Ok(head)
}

/// The outputs' names in `id2label`; `reward` where there is one output and none is named.
fn output_names(folder: &Path, outputs: i64) -> Result<Vec<String>> {
    let path = folder.join("config.json");
    let names = if path.exists() {
        read_object_as_written(&path)?.remove("id2label")
    } else {
        None
    };
    let name = |index: i64| {
        let given = names
            .as_ref()
            .and_then(|names| names.get(index.to_string()));
        match given.and_then(Value::as_str) {
            Some(name) if !name.starts_with("LABEL_") => name.to_owned(),
            _ if outputs == 1 => "reward".to_owned(),
            _ => format!("output_{index}"),
        }
    };
    Ok((0..outputs).map(name).collect())
}

fn is_classifier(folder: &Path) -> bool {
    let config = read_object_as_written(&folder.join("config.json"));
    let classes = config
        .ok()
        .and_then(|mut config| config.remove("architectures"));
    let first = classes.as_ref().and_then(|classes| classes.get(0));
    let class = first.and_then(Value::as_str).unwrap_or_default();
    class.ends_with("ForSequenceClassification")
}

/// The token that does not count as a text's last: of the model's configuration, else of its tokenizer, else the one
/// that ends texts, as TRL sets it.
fn pad(folder: &Path, tokenizer: &TextTokenizer) -> Result<Option<i64>> {
    let own = if gguf::is_gguf(folder) {
        None
    } else {
        let config = read_object_as_written(&folder.join("config.json"))?;
        config.get("pad_token_id").and_then(Value::as_i64)
    };
    Ok(own.or(tokenizer.pad()).or(tokenizer.eos()))
}
