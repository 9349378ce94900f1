//! Prompts to what the U-Net is conditioned on, from a Stable Diffusion folder: SD 1.x and 2.x have one text
//! encoder and use its last state, SDXL has two and uses their last but one states side by side plus a pooled
//! vector (Podell et al. 2023, arXiv 2307.01952, section 2.1).

use std::path::Path;

use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor, no_grad};

use super::clip::{ClipText, ClipTextConfig};
use super::json;
use super::layers::Adapters;
use super::lora::keys::{TEXT_ENCODERS, text_module};
use super::prompt_notes::{marks, notes};
use super::tokenizer::{Tokenizer, Truncated};
use super::weights::{Checkpoint, Loader};
use crate::error::{Error, Result};
use crate::ops::random::{derive_seed, randn};

/// The U-Net's inputs for `n` prompts.
pub struct PromptEmbedding {
    /// Token states for cross-attention, `[n, t, d]`.
    pub context: Tensor,
    /// SDXL: the projected pooled vector of the second encoder, `[n, p]`.
    pub pooled: Option<Tensor>,
}

struct Part {
    /// Its folder in the pipeline.
    folder: &'static str,
    tokenizer: Tokenizer,
    model: ClipText,
    loader: Loader,
}

/// The text encoders of one Stable Diffusion folder with their tokenizers.
pub struct PromptEncoder {
    parts: Vec<Part>,
    is_xl: bool,
    empty_is_zero: bool,
    device: Device,
}

impl PromptEncoder {
    /// Opens `text_encoder` + `tokenizer`, and `text_encoder_2` + `tokenizer_2` where the folder has them.
    ///
    /// `variant` (`fp16`) is preferred among several weight files; `kind` is the type that the encoders run in.
    ///
    /// # Errors
    /// No text encoder, a component that `model_index.json` lists but the folder lacks, or unusable files.
    pub fn open(folder: &Path, variant: Option<&str>, device: Device, kind: Kind) -> Result<Self> {
        let index = json::read_object_if_there(&folder.join("model_index.json"))?;
        let mut parts = Vec::new();
        for (name, tokenizer) in TEXT_ENCODERS.into_iter().zip(["tokenizer", "tokenizer_2"]) {
            if has_component(folder, &index, name) {
                let tokenizer = folder.join(tokenizer);
                parts.push(open_part(
                    (folder, name),
                    &tokenizer,
                    variant,
                    device,
                    kind,
                )?);
            }
        }
        let is_xl = has_component(folder, &index, "text_encoder_2");
        match parts.last() {
            None => {
                let message = "no `text_encoder` in it: not a Stable Diffusion folder";
                return Err(Error::weights(folder, message));
            }
            Some(last) if is_xl && !last.model.has_projection() => {
                return Err(Error::tensor(
                    last.loader.checkpoint().path(),
                    "text_projection.weight",
                    "missing: SDXL conditions on the projected vector of its second text encoder",
                ));
            }
            Some(_) => {}
        }
        // True where the file does not say, as in diffusers' pipeline of SDXL.
        let empty_is_zero = index
            .get("force_zeros_for_empty_prompt")
            .and_then(Value::as_bool)
            .unwrap_or(true);
        Ok(Self {
            parts,
            is_xl,
            empty_is_zero: is_xl && empty_is_zero,
            device,
        })
    }

    /// Encodes prompts to `[n, t, d]` (and `[n, p]` for SDXL); an empty one too is run through the encoders.
    ///
    /// # Errors
    /// The tokenizer makes ids for which the encoder has no vector.
    pub fn encode(&self, prompts: &[String]) -> Result<PromptEmbedding> {
        let _no_grad = tch::no_grad_guard();
        let mut contexts = Vec::with_capacity(self.parts.len());
        let mut pooled = None;
        for part in &self.parts {
            let encoded = part.tokenizer.encode(prompts)?;
            let output = part.model.forward(&encoded.ids.to_device(self.device));
            if self.is_xl {
                pooled = Some(part.model.project(&output.pooled)); // [n, p]
                contexts.push(output.penultimate); // [n, t, d]
            } else {
                contexts.push(output.last_hidden_state); // [n, t, d]
            }
        }
        Ok(PromptEmbedding {
            context: Tensor::cat(&contexts, -1), // [n, t, d_1 + d_2]
            pooled,
        })
    }

    /// The prompts whose end the encoders do not see; nothing is encoded.
    ///
    /// # Errors
    /// The tokenizer makes ids for which the encoder has no vector.
    pub fn truncations(&self, prompts: &[String]) -> Result<Vec<Truncated>> {
        match self.parts.last() {
            Some(part) => Ok(part.tokenizer.encode(prompts)?.truncated),
            None => Ok(Vec::new()),
        }
    }

    /// Notes on the parts of these prompts that the encoders do not read, a sentence each; nothing is encoded.
    ///
    /// # Errors
    /// The tokenizer makes ids for which the encoder has no vector.
    pub fn notes(&self, prompts: &[String]) -> Result<Vec<String>> {
        match self.parts.last() {
            Some(part) => {
                let mut notes = notes("the text encoder", &part.tokenizer, prompts)?;
                notes.extend(marks(prompts));
                Ok(notes)
            }
            None => Ok(Vec::new()),
        }
    }

    /// Which of some words an encoder does not know.
    ///
    /// # Errors
    /// As [`Self::notes`].
    pub fn unknown_words(&self, words: &str) -> Result<Vec<String>> {
        let words = [words.to_owned()];
        let mut unknown = Vec::new();
        for part in &self.parts {
            let lacks = part.tokenizer.encode(&words)?.unknown;
            unknown.extend(lacks.into_iter().map(|(_, word)| word));
        }
        unknown.dedup();
        Ok(unknown)
    }

    /// Encodes negative prompts. An empty one is "none given": zeros, context and pooled, of SDXL where
    /// `model_index.json` does not set `force_zeros_for_empty_prompt` to false, else the same as [`Self::encode`].
    pub fn encode_negative(&self, prompts: &[String]) -> Result<PromptEmbedding> {
        let embedding = self.encode(prompts)?;
        if !self.empty_is_zero {
            return Ok(embedding);
        }
        let kept: Vec<f32> = prompts
            .iter()
            .map(|prompt| f32::from(!prompt.is_empty()))
            .collect();
        let kept = Tensor::from_slice(&kept).to_device(self.device); // [n]
        let zeroed = |values: &Tensor| {
            let mut shape = vec![1; values.dim()];
            shape[0] = -1;
            no_grad(|| values * kept.to_kind(values.kind()).view(&shape[..]))
        };
        Ok(PromptEmbedding {
            context: zeroed(&embedding.context),
            pooled: embedding.pooled.as_ref().map(zeroed),
        })
    }

    /// `true` if this is SDXL's pair of encoders.
    pub fn is_xl(&self) -> bool {
        self.is_xl
    }

    /// Width of the context.
    pub fn context_width(&self) -> i64 {
        self.parts
            .iter()
            .map(|part| part.model.config().hidden_size)
            .sum()
    }

    /// The encoders' layers that can carry a LoRA, by the names that they have among those of the pipeline:
    /// `text_encoder.text_model.encoder.layers.0.self_attn.q_proj`.
    pub fn adapters(&self) -> Adapters {
        let layers = self.parts.iter().flat_map(|part| {
            let layers = part.loader.adapters().into_iter();
            layers.map(|(path, layer)| (text_module(part.folder, &path), layer))
        });
        layers.collect()
    }

    /// The loaders of the encoders, for their tensors and file hashes.
    pub fn loaders(&self) -> impl Iterator<Item = &Loader> {
        self.parts.iter().map(|part| &part.loader)
    }
}

/// Ways that are tried for a word's vector.
const DRAWS: u64 = 256;

/// Cosine of a class word's states with and without a word before it, below which a U-Net that is tuned can tell the two apart.
const TOLD_APART: f64 = 0.9;

/// One text encoder that is trained with a U-Net of the SD 1.x family, with its tokenizer.
pub struct TextPart(Part);

impl TextPart {
    /// The encoder that `text_encoder/config.json` of a pipeline's folder describes, with weights as training from
    /// scratch begins with them, and the tokenizer of that folder.
    ///
    /// # Errors
    /// Either is missing or broken.
    pub fn fresh(folder: &Path, seed: u64, device: Device) -> Result<Self> {
        let path = folder.join("text_encoder").join("config.json");
        let config = ClipTextConfig::open(&path)?;
        let loader = Loader::fresh(&path, &["text_projection.weight"], seed, device);
        let [name, _] = TEXT_ENCODERS;
        build_part(name, &folder.join("tokenizer"), &config, loader).map(Self)
    }

    /// As [`Self::fresh`], with the weights that lie in `start`'s `text_encoder`.
    ///
    /// # Errors
    /// Either is missing or broken, or the weights are of another shape.
    pub fn open(folder: &Path, start: &Path, device: Device) -> Result<Self> {
        let [name, _] = TEXT_ENCODERS;
        let config = ClipTextConfig::open(&folder.join(name).join("config.json"))?;
        let checkpoint = Checkpoint::open_component(&start.join(name), "model", None)?;
        let loader = Loader::new(checkpoint, device, Kind::Float);
        build_part(name, &folder.join("tokenizer"), &config, loader).map(Self)
    }

    /// Gives each of `drawn` a vector like those of `like`: their mean, and from there a random way as long as theirs are on
    /// average. Some ways change next to nothing of the states of `classes`, and a U-Net cannot be tuned to them apart from the
    /// class. So the first way is taken by which the word changes the state of each class to a cosine of 0.9 or less; of 256 ways,
    /// none of which does, the one that comes closest. Done twice, it changes nothing.
    ///
    /// # Errors
    /// One of them is not a single token.
    pub fn draw_words(
        &mut self,
        drawn: &[&str],
        like: &[&str],
        classes: &[String],
        seed: u64,
    ) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let parameters = self.parameters();
        let table = parameters
            .iter()
            .find(|(name, _)| name.ends_with("token_embedding.weight"));
        let Some((_, table)) = table else {
            return Ok(());
        };
        let known = table.index_select(0, &self.ids(like)?); // [n, d]
        let mean = known.mean_dim(0, true, Kind::Float); // [1, d]
        let distances = (&known - &mean).norm_scalaropt_dim(2, 1, true);
        let distance = distances.mean(Kind::Float);
        for word in drawn {
            let row = self.ids(&[word])?;
            let put = |attempt: u64| {
                let way = randn(
                    derive_seed(seed, word, &[attempt]),
                    &mean.size(),
                    known.device(),
                );
                let vector = &mean + &way / way.norm() * &distance;
                let _ = table.shallow_clone().index_copy_(0, &row, &vector);
            };
            let mut best = (f64::INFINITY, 0);
            for attempt in 0..DRAWS {
                put(attempt);
                let likeness = self.likeness_with(word, classes)?;
                if likeness < best.0 {
                    best = (likeness, attempt);
                }
                if likeness <= TOLD_APART {
                    break;
                }
            }
            put(best.1);
        }
        Ok(())
    }

    /// Ids of single words, `[n]`.
    fn ids(&self, words: &[&str]) -> Result<Tensor> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        self.check_words(&words)?;
        let rows = self.0.tokenizer.encode(&words)?.ids; // [n, t]: start, word, end
        Ok(rows.select(1, 1).to_device(self.0.loader.device()))
    }

    /// The largest cosine, over classes, of a class word's state with a word before it and without.
    fn likeness_with(&self, word: &str, classes: &[String]) -> Result<f64> {
        let alone: Vec<String> = classes.iter().map(|class| format!("a {class}")).collect();
        let with: Vec<String> = classes
            .iter()
            .map(|class| format!("a {word} {class}"))
            .collect();
        // The start, the article and perhaps the word stand before the class.
        let (alone, with) = (
            self.states(&alone)?.select(1, 2),
            self.states(&with)?.select(1, 3),
        );
        let cosines = Tensor::cosine_similarity(&alone, &with, 1, 1e-8); // [n]
        Ok(cosines.max().double_value(&[]))
    }

    /// States of the texts' tokens, `[n, t, d]`, with gradient.
    ///
    /// # Errors
    /// The tokenizer makes ids for which the encoder has no vector.
    pub fn states(&self, texts: &[String]) -> Result<Tensor> {
        let Part {
            tokenizer,
            model,
            loader,
            ..
        } = &self.0;
        let ids = tokenizer.encode(texts)?.ids.to_device(loader.device());
        Ok(model.forward(&ids).last_hidden_state)
    }

    /// Checks that the tokenizer tells all of these words apart.
    ///
    /// # Errors
    /// Names two words that it does not.
    pub fn check_words(&self, words: &[String]) -> Result<()> {
        let rows = Vec::<Vec<i64>>::try_from(self.0.tokenizer.encode(words)?.ids);
        let mut known = std::collections::BTreeMap::new();
        for (word, row) in words.iter().zip(rows.unwrap_or_default()) {
            if let Some(other) = known.insert(row, word) {
                let message = format!("reads `{word}` and `{other}` as the same");
                return Err(Error::weights(self.0.tokenizer.folder(), message)
                    .with_hint("its vocabulary lacks words of the captions"));
            }
        }
        Ok(())
    }

    /// The encoder's tensors under their checkpoint names.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        self.0.loader.parameters()
    }
}

/// `true` if `model_index.json` lists a class for the component; without that file, if its folder is there.
fn has_component(folder: &Path, index: &Map<String, Value>, name: &str) -> bool {
    if index.is_empty() {
        return folder.join(name).is_dir();
    }
    index
        .get(name)
        .and_then(Value::as_array)
        .is_some_and(|class| class.iter().all(Value::is_string))
}

fn open_part(
    (pipeline, name): (&Path, &'static str),
    tokenizer: &Path,
    variant: Option<&str>,
    device: Device,
    kind: Kind,
) -> Result<Part> {
    let folder = pipeline.join(name);
    let config = ClipTextConfig::open(&folder.join("config.json"))?;
    let checkpoint = Checkpoint::open_component(&folder, "model", variant)?;
    let loader = Loader::new(checkpoint, device, kind);
    build_part(name, tokenizer, &config, loader)
}

fn build_part(
    folder: &'static str,
    tokenizer: &Path,
    config: &ClipTextConfig,
    loader: Loader,
) -> Result<Part> {
    Ok(Part {
        folder,
        tokenizer: Tokenizer::open(tokenizer, config.max_position_embeddings, config.vocab_size)?,
        model: ClipText::load(&loader, config)?,
        loader,
    })
}
