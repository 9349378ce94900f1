//! Causal self-attention with grouped keys and values, sliding windows, normalised queries and keys, and the cache of
//! keys and values that generation fills.

use tch::{Device, Kind, Tensor};

use super::config::{AttentionBias, Family, LmConfig};
use super::rope::Rotation;
use crate::error::Result;
use crate::models::layers::{Linear, RmsNorm};
use crate::models::weights::Loader;

/// The values that all blocks share in one pass.
pub(super) struct Context {
    rotation: Option<Rotation>,
    /// Which keys each query sees, as [`added`] to scores, `[b or 1, 1, t, past + t]`; `None` where plain causality says it.
    visible: Option<Tensor>,
    /// The same within the sliding window.
    windowed: Option<Tensor>,
    /// Cached tokens.
    past: i64,
}

impl Context {
    /// For `ids` `[b, t]` after `past` cached tokens; `mask` is `[b, past + t]`, true where there is a token. Attention is
    /// computed in `compute`.
    pub(super) fn new(
        config: &LmConfig,
        rotation: Option<Rotation>,
        mask: Option<&Tensor>,
        (ids, past): (&Tensor, i64),
        compute: Kind,
    ) -> Self {
        let t = ids.size()[1];
        let window = config.windows.iter().flatten().min().copied();
        let visible = |window: Option<i64>| {
            let seen = visible(mask, window, past, t, ids.device());
            seen.map(|seen| added(&seen, compute))
        };
        Self {
            rotation,
            visible: visible(None),
            windowed: window.and_then(|window| visible(Some(window))),
            past,
        }
    }
}

impl Context {
    /// Where `visible`, boolean `[b, 1, t, t]`, says which keys each query sees, in every layer.
    pub(super) fn laid_out(rotation: Option<Rotation>, visible: &Tensor, compute: Kind) -> Self {
        let visible = added(visible, compute);
        Self {
            rotation,
            windowed: Some(visible.shallow_clone()),
            visible: Some(visible),
            past: 0,
        }
    }
}

/// The mask that is added to the scores of queries and keys: 0 where `seen`, minus infinity elsewhere. Given a boolean
/// mask, every layer's attention would make this for itself and keep it for the backward pass.
fn added(seen: &Tensor, compute: Kind) -> Tensor {
    let unseen = Tensor::zeros(seen.size(), (compute, seen.device()));
    unseen.masked_fill(&seen.logical_not(), f64::NEG_INFINITY)
}

/// The mask of one kind of layer; `None` where every query sees all that causality allows, and either it is the kernel
/// that keeps to causality or there is one query only.
fn visible(
    mask: Option<&Tensor>,
    window: Option<i64>,
    past: i64,
    t: i64,
    device: Device,
) -> Option<Tensor> {
    let window = window.filter(|&window| window < past + t);
    if mask.is_none() && window.is_none() && (past == 0 || t == 1) {
        return None;
    }
    let keys = Tensor::arange(past + t, (Kind::Int64, device)).unsqueeze(0); // [1, past + t]
    let queries = Tensor::arange_start(past, past + t, (Kind::Int64, device)).unsqueeze(1); // [t, 1]
    let mut seen = keys.le_tensor(&queries); // [t, past + t]
    if let Some(window) = window {
        seen = seen.logical_and(&keys.gt_tensor(&(&queries - window)));
    }
    let seen = match mask {
        // Padding sees itself: a query that sees nothing would be NaN, and so would all gradients.
        Some(mask) => seen
            .logical_and(&mask.unsqueeze(1))
            .logical_or(&keys.eq_tensor(&queries)), // [b, t, past + t]
        None => seen.unsqueeze(0),
    };
    Some(seen.unsqueeze(1)) // [b or 1, 1, t, past + t]
}

/// Keys and values of the tokens so far.
pub(super) struct Cache {
    /// One for each block.
    pub(super) layers: Vec<LayerCache>,
    /// Tokens in it.
    pub(super) length: i64,
}

/// Of one block: `[b, kv_heads, capacity, head_dim]` each.
pub(super) struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

impl Cache {
    /// An empty cache for `rows` rows of up to `capacity` tokens.
    pub(super) fn new(
        config: &LmConfig,
        rows: i64,
        capacity: i64,
        options: (Kind, Device),
    ) -> Self {
        let shape = [rows, config.kv_heads, capacity, config.head_dim];
        let layer = |_| LayerCache {
            keys: Tensor::zeros(shape, options),
            values: Tensor::zeros(shape, options),
        };
        Self {
            layers: (0..config.layers).map(layer).collect(),
            length: 0,
        }
    }

    /// Keeps the rows `rows` alone, integer `[n]`.
    pub(super) fn keep(&mut self, rows: &Tensor) {
        for layer in &mut self.layers {
            layer.keys = layer.keys.index_select(0, rows);
            layer.values = layer.values.index_select(0, rows);
        }
    }
}

impl LayerCache {
    /// Appends after `past` tokens and returns all.
    fn extend(&mut self, past: i64, keys: &Tensor, values: &Tensor) -> (Tensor, Tensor) {
        let t = keys.size()[2];
        self.keys.narrow(2, past, t).copy_(keys);
        self.values.narrow(2, past, t).copy_(values);
        (
            self.keys.narrow(2, 0, past + t),
            self.values.narrow(2, 0, past + t),
        )
    }
}

/// Layers that make queries, keys and values.
enum Projections {
    Separate {
        query: Linear,
        key: Linear,
        value: Linear,
    },
    /// GPT-2: side by side in one layer.
    Joined(Linear),
}

/// `true` if grouped keys and values must be repeated: on GPUs the fused kernel that takes masks, or f32, knows no groups, and
/// libtorch would fall back to plain products, which keep the weights of all pairs of tokens in f32.
pub fn needs_all_heads(device: Device, kind: Kind, masked: bool) -> bool {
    device.is_cuda() && (masked || kind == Kind::Float)
}

/// Multi-head causal self-attention.
pub(super) struct Attention {
    projections: Projections,
    output: Linear,
    /// Of queries and of keys, a head at a time.
    norms: Option<(RmsNorm, RmsNorm)>,
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    scale: f64,
    windowed: bool,
}

impl Attention {
    pub(super) fn load(loader: &Loader, config: &LmConfig, index: usize) -> Result<Self> {
        let (width, head_dim) = (config.hidden_size, config.head_dim);
        let (inner, narrow) = (config.heads * head_dim, config.kv_heads * head_dim);
        let linear = |name: &str, input, output, bias| {
            Linear::load_with(&loader.pp(name), input, output, bias)
        };
        let (projections, output) = if config.family == Family::Gpt2 {
            let joined = Linear::load_transposed(&loader.pp("c_attn"), width, 3 * width)?;
            let output = Linear::load_transposed(&loader.pp("c_proj"), width, width)?;
            (Projections::Joined(joined), output)
        } else {
            let bias = config.attention_bias != AttentionBias::None;
            let projections = Projections::Separate {
                query: linear("q_proj", width, inner, bias)?,
                key: linear("k_proj", width, narrow, bias)?,
                value: linear("v_proj", width, narrow, bias)?,
            };
            let output = linear(
                "o_proj",
                inner,
                width,
                config.attention_bias == AttentionBias::All,
            )?;
            (projections, output)
        };
        let norm = |name: &str| RmsNorm::load(&loader.pp(name), head_dim, config.norm_eps);
        let norms = if config.family == Family::Qwen3 {
            Some((norm("q_norm")?, norm("k_norm")?))
        } else {
            None
        };
        Ok(Self {
            projections,
            output,
            norms,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim,
            scale: config.attention_scales[index],
            windowed: config.windows[index].is_some(),
        })
    }

    /// `[b, t, d]`, shape kept.
    pub(super) fn forward(
        &self,
        xs: &Tensor,
        context: &Context,
        cache: Option<&mut LayerCache>,
    ) -> Tensor {
        let (b, t) = (xs.size()[0], xs.size()[1]);
        let split = |ys: &Tensor, heads| ys.reshape([b, t, heads, self.head_dim]); // [b, t, heads, head_dim]
        let (query, key, value) = match &self.projections {
            Projections::Separate { query, key, value } => {
                (query.forward(xs), key.forward(xs), value.forward(xs))
            }
            Projections::Joined(joined) => {
                let parts = joined.forward(xs).chunk(3, -1);
                (
                    parts[0].shallow_clone(),
                    parts[1].shallow_clone(),
                    parts[2].shallow_clone(),
                )
            }
        };
        let (mut query, mut key) = (split(&query, self.heads), split(&key, self.kv_heads));
        if let Some((query_norm, key_norm)) = &self.norms {
            (query, key) = (query_norm.forward(&query), key_norm.forward(&key));
        }
        let (mut query, mut key) = (query.transpose(1, 2), key.transpose(1, 2)); // [b, heads, t, head_dim]
        let mut value = split(&value, self.kv_heads).transpose(1, 2);
        if let Some(rotation) = &context.rotation {
            (query, key) = (rotation.apply(&query), rotation.apply(&key));
        }
        if let Some(cache) = cache {
            (key, value) = cache.extend(context.past, &key, &value);
        }
        let mask = if self.windowed {
            context.windowed.as_ref()
        } else {
            context.visible.as_ref()
        };
        let grouped = self.kv_heads != self.heads;
        let spread = grouped && needs_all_heads(query.device(), query.kind(), mask.is_some());
        if spread {
            (key, value) = (self.for_all_heads(&key), self.for_all_heads(&value));
        }
        let ys = Tensor::scaled_dot_product_attention(
            &query,
            &key,
            &value,
            mask,
            0.0,
            mask.is_none() && t > 1,
            self.scale,
            grouped && !spread,
        ); // [b, heads, t, head_dim]
        self.output.forward(&ys.transpose(1, 2).reshape([b, t, -1]))
    }

    /// Keys or values `[b, kv_heads, t, head_dim]` repeated for the queries that share them, `[b, heads, t, head_dim]`.
    fn for_all_heads(&self, shared: &Tensor) -> Tensor {
        let (b, t) = (shared.size()[0], shared.size()[2]);
        let each = [
            b,
            self.kv_heads,
            self.heads / self.kv_heads,
            t,
            self.head_dim,
        ];
        let all = [b, self.heads, t, self.head_dim];
        shared.unsqueeze(2).expand(each, false).reshape(all)
    }
}
