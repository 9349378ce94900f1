//! Decoder-only language models from Hugging Face folders: Llama 2 and 3, SmolLM2, Mistral, Qwen2, Qwen2.5, Qwen3 and
//! GPT-2, exact against transformers. Dropout is off, in training too: a policy and its reference must compute the same.

mod attention;
mod block;
pub mod chat;
pub mod config;
mod cost;
pub mod generate;
pub mod gguf;
mod gguf_tokenizer;
mod jinja;
pub mod reward;
mod rope;
mod save;
pub mod tokenizer;
pub mod words;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use self::attention::{Cache, Context};
use self::block::{Block, Norm};
use self::rope::Rope;
use super::layers::{Adapters, Embedding, Linear};
use super::weights::{Checkpoint, Loader};
use crate::error::{Error, Result};
use crate::ops::tape::{Tape, checkpointed};
pub use attention::needs_all_heads;
pub use config::{Family, LmConfig, Longest};
pub use cost::{LmCost, LmPass, Storage, sites};
pub use rope::{RopeConfig, RopeScaling};
pub(in crate::models) use save::COMPANIONS;
pub use save::replace_tokenizer;

/// Output layer.
enum Head {
    /// The table of token vectors.
    Tied,
    Own(Linear),
}

/// How several sequences that begin alike share a row: the beginning once, then each one's own part.
pub struct Layout {
    /// Place of every token in its sequence, `[b, t]`.
    pub positions: Tensor,
    /// Which tokens each one sees, boolean `[b, 1, t, t]`; at least itself.
    pub visible: Tensor,
}

/// A language model with its weights.
pub struct LanguageModel {
    config: LmConfig,
    folder: PathBuf,
    tokens: Embedding,
    positions: Option<Embedding>,
    rope: Option<Rope>,
    blocks: Vec<Block>,
    norm: Norm,
    head: Head,
    loader: Loader,
    compute: Kind,
}

impl LanguageModel {
    /// Opens a model folder or a GGUF file: weights as `weights` (f32 for training all of them) on `device`, activations as `compute`.
    ///
    /// # Errors
    /// Another architecture or a feature that is not implemented, each by its name; missing, damaged, quantised or left
    /// over weights.
    pub fn open(folder: &Path, device: Device, weights: Kind, compute: Kind) -> Result<Self> {
        Self::open_parts(folder, device, (weights, compute), true)
    }

    /// As [`Self::open`] without an output layer, of which nothing is read: a language model's or a classifier's folder.
    /// [`Self::logits`] are those of the table of token vectors.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_body(folder: &Path, device: Device, weights: Kind, compute: Kind) -> Result<Self> {
        Self::open_parts(folder, device, (weights, compute), false)
    }

    fn open_parts(
        folder: &Path,
        device: Device,
        (weights, compute): (Kind, Kind),
        output: bool,
    ) -> Result<Self> {
        let config = LmConfig::open(folder)?;
        let mut checkpoint = checkpoint(folder)?;
        if !output {
            let own = [reward::SCORE, "lm_head.weight"];
            checkpoint.rename(|name| (!own.contains(&name)).then(|| name.to_owned()));
        }
        normalise_names(&mut checkpoint, &config)?;
        let loader = Loader::new(checkpoint, device, weights);
        Self::load(folder, config, loader, compute, output)
    }

    /// A model with new weights drawn from `seed`, in f32, by the configuration of a folder.
    ///
    /// # Errors
    /// As [`Self::open`] of the configuration.
    pub fn fresh(folder: &Path, seed: u64, device: Device, compute: Kind) -> Result<Self> {
        let path = folder.join("config.json");
        let loader = Loader::fresh(&path, &["lm_head.weight"], seed, device);
        Self::load(folder, LmConfig::open(folder)?, loader, compute, true)
    }

    /// Without `output`, the head is the table of token vectors whatever the model has.
    fn load(
        folder: &Path,
        config: LmConfig,
        loader: Loader,
        compute: Kind,
        output: bool,
    ) -> Result<Self> {
        let names = config.family.names();
        let root = loader.pp(names.root);
        let width = config.hidden_size;
        let tokens = Embedding::load(&root.pp(names.tokens), config.vocab_size, width)?;
        let positions = match names.positions {
            Some(name) => {
                let count = config.max_position_embeddings;
                Some(Embedding::load(&root.pp(name), count, width)?)
            }
            None => None,
        };
        let blocks = (0..config.windows.len())
            .map(|index| Block::load(&root.pp(names.layers).pp(index), &config, index))
            .collect::<Result<_>>()?;
        let norm = Norm::load(&root.pp(names.norm), &config)?;
        let own = loader.contains("lm_head.weight") || !config.tie_word_embeddings;
        let head = if output && own {
            let loader = loader.pp("lm_head");
            Head::Own(Linear::load_no_bias(&loader, width, config.vocab_size)?)
        } else {
            Head::Tied
        };
        loader.refuse_unused()?;
        Ok(Self {
            rope: config
                .rope
                .as_ref()
                .map(|rope| Rope::new(rope, &config, loader.device())),
            config,
            folder: folder.to_owned(),
            tokens,
            positions,
            blocks,
            norm,
            head,
            loader,
            compute,
        })
    }

    /// The folder that it was read from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Sizes and features.
    pub fn config(&self) -> &LmConfig {
        &self.config
    }

    /// Every weight under its name in transformers; a tied output layer is not listed.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        self.loader.parameters()
    }

    /// The layers that can carry a LoRA, by the module paths that PEFT knows.
    pub fn adapters(&self) -> Adapters {
        self.loader.adapters()
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.loader.device()
    }

    /// Final hidden states `[b, t, d]` of token ids `[b, t]`, each below `vocab_size`; [`Self::logits`] follows.
    ///
    /// `mask`, boolean `[b, t]`, is true where there is a token; positions count these. Padding on the right needs no
    /// mask, because causal attention does not see it, and runs faster without. States of padding mean nothing, but
    /// are finite. With a `tape`, activations are recomputed in its backward pass.
    pub fn forward<'a>(
        &'a self,
        ids: &Tensor,
        mask: Option<&Tensor>,
        tape: Option<&Tape<'a>>,
    ) -> Tensor {
        let positions = positions(ids, mask, 0); // [b or 1, t]
        let context = self.context(ids, mask, &positions, 0);
        self.run(ids, positions, context, tape)
    }

    /// As [`Self::forward`] for rows that hold several sequences, in their layout.
    pub fn forward_laid_out<'a>(
        &'a self,
        ids: &Tensor,
        layout: &Layout,
        tape: Option<&Tape<'a>>,
    ) -> Tensor {
        let rotation = self.rope.as_ref();
        let rotation = rotation.map(|rope| rope.at(&layout.positions, self.compute));
        let context = Context::laid_out(rotation, &layout.visible, self.compute);
        self.run(ids, layout.positions.shallow_clone(), context, tape)
    }

    fn run<'a>(
        &'a self,
        ids: &Tensor,
        positions: Tensor,
        context: Context,
        tape: Option<&Tape<'a>>,
    ) -> Tensor {
        let context = Rc::new(context);
        let (told, at) = (ids.shallow_clone(), positions);
        let mut xs = checkpointed(tape, vec![], move |_| self.embed(&told, &at)); // [b, t, d]
        for block in &self.blocks {
            let context = Rc::clone(&context);
            xs = checkpointed(tape, vec![xs], move |xs| {
                block.forward(&xs[0], &context, None)
            });
        }
        self.norm.forward(&xs)
    }

    /// As [`Self::forward`] for the tokens that follow those in `cache`, which it extends; `mask` is `[b, past + t]`.
    fn forward_cached(&self, ids: &Tensor, mask: Option<&Tensor>, cache: &mut Cache) -> Tensor {
        let positions = positions(ids, mask, cache.length);
        let context = self.context(ids, mask, &positions, cache.length);
        let mut xs = self.embed(ids, &positions);
        for (block, layer) in self.blocks.iter().zip(&mut cache.layers) {
            xs = block.forward(&xs, &context, Some(layer));
        }
        cache.length += ids.size()[1];
        self.norm.forward(&xs)
    }

    /// Scores of every token, `[.., vocab_size]`, from hidden states `[.., d]`; apart from [`Self::forward`] so that
    /// they can be made for a part of the positions at a time.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        match &self.head {
            Head::Tied => self.tokens.scores(hidden),
            Head::Own(linear) => linear.forward(hidden),
        }
    }

    fn embed(&self, ids: &Tensor, positions: &Tensor) -> Tensor {
        let tokens = self.tokens.forward(ids);
        let states = match &self.positions {
            Some(table) => tokens + table.forward(positions),
            None => tokens,
        };
        states.to_kind(self.compute)
    }

    fn context(&self, ids: &Tensor, mask: Option<&Tensor>, at: &Tensor, past: i64) -> Context {
        let rotation = self.rope.as_ref().map(|rope| rope.at(at, self.compute));
        Context::new(&self.config, rotation, mask, (ids, past), self.compute)
    }
}

/// The stored weights of a model folder or a GGUF file.
///
/// # Errors
/// Missing or damaged ones.
pub fn checkpoint(path: &Path) -> Result<Checkpoint> {
    if gguf::is_gguf(path) {
        gguf::checkpoint(path)
    } else {
        Checkpoint::open_component(path, "model", None)
    }
}

/// Position of each of the last `t` tokens, `[b, t]`, or `[1, t]` where all rows agree.
fn positions(ids: &Tensor, mask: Option<&Tensor>, past: i64) -> Tensor {
    let t = ids.size()[1];
    match mask {
        Some(mask) => {
            let counted = mask.cumsum(1, Kind::Int64) - 1; // [b, past + t]
            counted.clamp_min(0).narrow(1, past, t)
        }
        None => Tensor::arange_start(past, past + t, (Kind::Int64, ids.device())).unsqueeze(0),
    }
}

/// Gives all tensors the names that transformers writes today: files of bare models lack the root, old ones keep masks
/// and frequencies beside the weights, and some repeat a tied output layer.
fn normalise_names(checkpoint: &mut Checkpoint, config: &LmConfig) -> Result<()> {
    let root = format!("{}.", config.family.names().root);
    let bare = !checkpoint.names().any(|name| name.starts_with(&root));
    let constant = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];
    checkpoint.rename(|name| {
        if constant.iter().any(|ending| name.ends_with(ending)) {
            None
        } else if bare && !name.starts_with("lm_head.") {
            Some(root.clone() + name)
        } else {
            Some(name.to_owned())
        }
    });
    if !config.tie_word_embeddings || !checkpoint.contains("lm_head.weight") {
        return Ok(());
    }
    // As in transformers, an output layer that differs from the table it is said to be stays a layer of its own.
    let table = root + config.family.names().tokens + ".weight";
    let (table, head) = (
        checkpoint.tensor(&table)?,
        checkpoint.tensor("lm_head.weight")?,
    );
    if table.size() == head.size() && table.equal(&head) {
        checkpoint.rename(|name| (name != "lm_head.weight").then(|| name.to_owned()));
    }
    Ok(())
}

/// An id that the model has no vector for, which libtorch would only report by a panic or not at all.
fn check_ids(config: &LmConfig, ids: &[i64]) -> Result<()> {
    match ids
        .iter()
        .find(|&&id| !(0..config.vocab_size).contains(&id))
    {
        Some(id) => Err(Error::config(format!(
            "token id {id} is not below the model's vocabulary of {}",
            config.vocab_size
        ))
        .with_hint("take the tokenizer that belongs to the model")),
        None => Ok(()),
    }
}
