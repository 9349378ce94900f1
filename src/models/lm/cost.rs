//! The cost of a pass of a language model, from its configuration alone: weights, operations, and the memory that a
//! training step takes at its highest. Mirrors the graph of `block.rs` and `attention.rs`, and the two-pass head of
//! `ops/logprobs.rs`.

use super::config::{AttentionBias, Family, LmConfig};
use crate::models::lora::sites::{Site, Sites};

/// Size of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LmPass {
    /// Rows, each of one or several sequences.
    pub rows: u64,
    /// Tokens of the longest row.
    pub length: u64,
    /// Tokens whose log-probs are asked for.
    pub scored: u64,
    /// A mask says what each token sees, because rows hold several sequences.
    pub masked: bool,
}

impl LmPass {
    /// Tokens that run through the model, padding included.
    pub fn positions(&self) -> u64 {
        self.rows * self.length
    }
}

/// How a training step stores what it needs.
#[derive(Clone, Copy, Debug)]
pub struct Storage {
    /// Bytes of an activation.
    pub activation: f64,
    /// Bytes of a copy of each weight in the activations' type: 0 where it is stored in that.
    pub cast: f64,
    /// Activations are recomputed block by block.
    pub checkpointed: bool,
    /// Shared keys and values are repeated for all heads, without and with a mask
    /// ([`needs_all_heads`](super::needs_all_heads)).
    pub all_heads: [bool; 2],
    /// Positions whose logits are computed together.
    pub head_rows: u64,
    /// Distributions over all tokens are compared with a reference's.
    pub token_kl: bool,
}

/// A linear layer of a block.
struct Layer {
    /// Below the block.
    path: &'static str,
    input: i64,
    output: i64,
    bias: bool,
}

impl Layer {
    fn weights(&self) -> f64 {
        (self.input * self.output + if self.bias { self.output } else { 0 }) as f64
    }
}

/// The four parts of a block that are linear layers, by what they read.
struct Layers {
    /// Queries, keys and values, of the first norm's output.
    projections: Vec<Layer>,
    output: Layer,
    /// Of the second norm's output.
    expand: Vec<Layer>,
    contract: Layer,
}

impl Layers {
    fn new(config: &LmConfig) -> Self {
        let layer = |path, input, output, bias| Layer {
            path,
            input,
            output,
            bias,
        };
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        if config.family == Family::Gpt2 {
            return Self {
                projections: vec![layer("attn.c_attn", width, 3 * width, true)],
                output: layer("attn.c_proj", width, width, true),
                expand: vec![layer("mlp.c_fc", width, inner, true)],
                contract: layer("mlp.c_proj", inner, width, true),
            };
        }
        let [wide, narrow] = [config.heads, config.kv_heads].map(|heads| heads * config.head_dim);
        let inputs = config.attention_bias != AttentionBias::None;
        Self {
            projections: vec![
                layer("self_attn.q_proj", width, wide, inputs),
                layer("self_attn.k_proj", width, narrow, inputs),
                layer("self_attn.v_proj", width, narrow, inputs),
            ],
            output: layer(
                "self_attn.o_proj",
                wide,
                width,
                config.attention_bias == AttentionBias::All,
            ),
            expand: vec![
                layer("mlp.gate_proj", width, inner, config.mlp_bias),
                layer("mlp.up_proj", width, inner, config.mlp_bias),
            ],
            contract: layer("mlp.down_proj", inner, width, config.mlp_bias),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Layer> {
        let ends = [&self.output, &self.contract];
        self.projections.iter().chain(&self.expand).chain(ends)
    }
}

/// The layers of a model that can carry a LoRA, without its weights.
pub fn sites(config: &LmConfig) -> Sites {
    let (layers, names) = (Layers::new(config), config.family.names());
    let site = |layer: &Layer| Site {
        input: layer.input,
        output: layer.output,
        kernel: None,
    };
    let mut sites: Sites = (0..config.layers)
        .flat_map(|index| {
            let below = format!("{}.{}.{index}", names.root, names.layers);
            let named = |layer: &Layer| (format!("{below}.{}", layer.path), site(layer));
            layers.all().map(named).collect::<Vec<_>>()
        })
        .collect();
    if !config.tie_word_embeddings {
        let head = Site {
            input: config.hidden_size,
            output: config.vocab_size,
            kernel: None,
        };
        sites.insert("lm_head".to_owned(), head);
    }
    sites
}

/// Whose inputs a block keeps, because the gradients of weights or of LoRAs ask for them.
struct Reads {
    /// Queries, keys and values.
    projections: bool,
    /// The layers that widen.
    expand: bool,
    /// The one that narrows.
    contract: bool,
    /// Numbers that all LoRAs of the block make of a token on their way.
    ranks: i64,
}

/// Costs of passes.
pub struct LmCost<'a> {
    config: &'a LmConfig,
    layers: Layers,
    /// All weights are trained.
    full: bool,
    blocks: Vec<Reads>,
}

impl<'a> LmCost<'a> {
    /// Of the model that `config` describes, where all weights are trained, or the LoRAs of layers by path, of a rank.
    pub fn new(config: &'a LmConfig, adapted: Option<(&[String], i64)>) -> Self {
        let (layers, names) = (Layers::new(config), config.family.names());
        let block = |index| {
            let reads = |layer: &Layer| {
                let path = format!("{}.{}.{index}.{}", names.root, names.layers, layer.path);
                adapted.is_none_or(|(paths, _)| paths.contains(&path))
            };
            let carrying = layers.all().filter(|layer| reads(layer)).count();
            Reads {
                projections: layers.projections.iter().any(reads),
                expand: layers.expand.iter().any(reads),
                contract: reads(&layers.contract),
                ranks: adapted.map_or(0, |(_, rank)| rank * carrying as i64),
            }
        };
        Self {
            blocks: (0..config.layers).map(block).collect(),
            config,
            full: adapted.is_none(),
            layers,
        }
    }

    fn is_gpt2(&self) -> bool {
        self.config.family == Family::Gpt2
    }

    /// Weights of a norm over a width.
    fn norm_weights(&self, width: i64) -> f64 {
        (width * if self.is_gpt2() { 2 } else { 1 }) as f64
    }

    /// Norms of queries and keys.
    fn head_norms(&self) -> bool {
        self.config.family == Family::Qwen3
    }

    fn block_weights(&self) -> f64 {
        let heads = if self.head_norms() {
            2 * self.config.head_dim
        } else {
            0
        };
        let linear: f64 = self.layers.all().map(Layer::weights).sum();
        linear + 2.0 * self.norm_weights(self.config.hidden_size) + heads as f64
    }

    /// Numbers in the table of tokens, or in an output layer.
    fn table(&self) -> f64 {
        (self.config.vocab_size * self.config.hidden_size) as f64
    }

    /// Weights and biases of the model.
    pub fn parameters(&self) -> u64 {
        let config = self.config;
        let positions = if self.is_gpt2() {
            config.max_position_embeddings * config.hidden_size
        } else {
            0
        };
        let tables = if config.tie_word_embeddings { 1.0 } else { 2.0 };
        let blocks = config.layers as f64 * self.block_weights();
        let norm = self.norm_weights(config.hidden_size);
        (tables * self.table() + positions as f64 + blocks + norm) as u64
    }

    /// Floating-point operations of a training step, two for each multiplication with an addition, in linear layers,
    /// attention and the output layer, which runs twice; `reference` passes of a frozen model come with it.
    pub fn step_flops(&self, pass: &LmPass, reference: f64, checkpointed: bool) -> f64 {
        let positions = pass.positions() as f64;
        let linear: f64 = self
            .layers
            .all()
            .map(|layer| 2.0 * (layer.input * layer.output) as f64 * positions)
            .sum();
        let wide = (self.config.heads * self.config.head_dim) as f64;
        let attention = 4.0 * wide * positions * pass.length as f64;
        let blocks = self.config.layers as f64 * (linear + attention);
        let head = 2.0 * self.table() * pass.scored as f64;
        let backward = if self.full { 2.0 } else { 1.0 };
        let again = f64::from(u8::from(checkpointed));
        blocks * (1.0 + reference + backward + again) + head * (2.0 + reference + backward)
    }

    /// Bytes that the backward pass of a norm over `elements` reads: its input (in f32 where it divides by the root mean
    /// square) and, where its weight is trained, what it is multiplied with.
    fn norm_bytes(&self, elements: f64, activation: f64) -> f64 {
        if self.is_gpt2() {
            elements * activation
        } else {
            elements * 4.0 * if self.full { 2.0 } else { 1.0 }
        }
    }

    /// Bytes that the backward pass of a block reads.
    fn block_bytes(&self, block: &Reads, pass: &LmPass, storage: &Storage) -> f64 {
        let config = self.config;
        let positions = pass.positions() as f64;
        let of = |width: i64| width as f64 * positions;
        let (width, inner) = (of(config.hidden_size), of(config.intermediate_size));
        let [wide, narrow] =
            [config.heads, config.kv_heads].map(|heads| of(heads * config.head_dim));
        let windowed = config.windows.iter().flatten();
        let masked = pass.masked
            || windowed
                .min()
                .is_some_and(|&least| least < pass.length as i64);
        let shared = if storage.all_heads[usize::from(masked)] {
            wide
        } else {
            narrow
        };
        let kept = |is_read: bool, elements: f64| if is_read { elements } else { 0.0 };
        let elements = kept(block.projections, width)
            // Queries, keys, values, and the sums of values, which the output layer reads too.
            + 2.0 * (wide + shared)
            + kept(block.expand, width)
            // What is activated; where there is a gate, its activation and what that is multiplied by.
            + if self.is_gpt2() { inner } else { 3.0 * inner }
            + kept(block.contract, inner)
            + of(block.ranks);
        let mut norms = 2.0 * self.norm_bytes(width, storage.activation);
        if self.head_norms() {
            norms += self.norm_bytes(wide + narrow, storage.activation);
        }
        elements * storage.activation + norms + self.block_weights() * storage.cast
    }

    /// Bytes of logits and what is computed from them, over the positions that are taken together.
    fn head_bytes(&self, pass: &LmPass, storage: &Storage) -> f64 {
        let together = pass.scored.min(storage.head_rows) as f64;
        let logits = together * self.config.vocab_size as f64;
        // Log-softmax, its exponential and their product; the reference's come on top.
        let computed = if storage.token_kl { 6.0 } else { 3.0 };
        logits * (storage.activation + computed * 4.0) + self.table() * storage.cast
    }

    /// Bytes of the widest activation of a block.
    fn widest_bytes(&self, pass: &LmPass, storage: &Storage) -> f64 {
        let widest = self.config.intermediate_size.max(self.config.hidden_size);
        (widest as u64 * pass.positions()) as f64 * storage.activation
    }

    /// Bytes at the highest point of a training step: activations, the logits that are there at one time, and gradients of
    /// weights as they come in, where all are trained.
    pub fn training_bytes(&self, pass: &LmPass, storage: &Storage) -> f64 {
        let gradient = if self.full { 4.0 } else { 0.0 };
        let stream = self.config.hidden_size as f64 * pass.positions() as f64;
        let states = (self.config.hidden_size as u64 * pass.scored) as f64 * storage.activation;
        // One mask for all blocks, beside the boolean one.
        let mask = if pass.masked {
            (pass.positions() * pass.length) as f64 * (1.0 + storage.activation)
        } else {
            0.0
        };
        let held = |block: &Reads| {
            if storage.checkpointed {
                stream * storage.activation
            } else {
                self.block_bytes(block, pass, storage)
            }
        };
        let mut before: f64 = self.blocks.iter().map(held).sum();
        before += mask + states + self.norm_bytes(stream, storage.activation);
        // The table's gradient, and that of a part of the positions before it is added.
        let mut gradients = self.table() * gradient;
        let parts = if pass.scored > storage.head_rows {
            2.0
        } else {
            1.0
        };
        let mut peak = before + self.head_bytes(pass, storage) + parts * gradients;
        let working = 3.0 * self.widest_bytes(pass, storage);
        for block in self.blocks.iter().rev() {
            let again = if storage.checkpointed {
                self.block_bytes(block, pass, storage)
            } else {
                0.0
            };
            gradients += self.block_weights() * gradient;
            peak = peak.max(before + again + gradients + working);
            before -= held(block);
        }
        // That of the table as the input's, before it is added to that of the output layer.
        peak.max(before + gradients + self.table() * gradient)
    }

    /// Bytes at the highest point of a pass without gradients.
    pub fn forward_bytes(&self, pass: &LmPass, storage: &Storage) -> f64 {
        let states = (self.config.hidden_size as u64 * pass.scored) as f64 * storage.activation;
        let head = states + self.head_bytes(pass, storage);
        head.max(4.0 * self.widest_bytes(pass, storage))
    }
}
