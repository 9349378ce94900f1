//! Where a LoRA can sit: the linear and convolution layers of a model by module path, from the model itself or from
//! a weights file, and the choice among them.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::models::layers::{Adaptable, Adapters};
use crate::models::weights::Checkpoint;

/// A layer that can carry a LoRA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Input features or channels.
    pub input: i64,
    /// Output features or channels.
    pub output: i64,
    /// Kernel size of a convolution, `None` for a linear layer.
    pub kernel: Option<i64>,
}

/// All such layers of a model by module path (`mid_block.attentions.0.transformer_blocks.0.attn1.to_q`).
pub type Sites = BTreeMap<String, Site>;

impl Site {
    /// Shape of the weight: `[out, in]`, or `[out, in, k, k]` for a convolution.
    pub fn weight_shape(&self) -> Vec<i64> {
        self.down_shape(self.output)
    }

    /// Shape of A: `[rank, in]`, or `[rank, in, k, k]` for a convolution.
    pub fn down_shape(&self, rank: i64) -> Vec<i64> {
        match self.kernel {
            Some(kernel) => vec![rank, self.input, kernel, kernel],
            None => vec![rank, self.input],
        }
    }

    /// Shape of B: `[out, rank]`, or `[out, rank, 1, 1]` for a convolution.
    pub fn up_shape(&self, rank: i64) -> Vec<i64> {
        match self.kernel {
            Some(_) => vec![self.output, rank, 1, 1],
            None => vec![self.output, rank],
        }
    }

    /// Numbers in A and B.
    pub fn adapter_size(&self, rank: i64) -> u64 {
        let count = |shape: Vec<i64>| shape.iter().product::<i64>() as u64;
        count(self.down_shape(rank)) + count(self.up_shape(rank))
    }
}

/// The sites of a loaded model.
pub fn of_layers(adapters: &Adapters) -> Sites {
    let site = |layer: &Adaptable| Site {
        input: layer.input,
        output: layer.output,
        kernel: layer.kernel,
    };
    adapters
        .iter()
        .map(|(name, layer)| (name.clone(), site(layer)))
        .collect()
}

/// The sites of a U-Net whose weights are in `checkpoint`, without loading them: every matrix and every convolution
/// kernel (a U-Net has no embedding table).
pub fn of_checkpoint(checkpoint: &Checkpoint) -> Sites {
    let site = |name: &str| {
        let (input, output, kernel) = match *checkpoint.shape(name)? {
            [output, input] => (input, output, None),
            [output, input, kernel, _] => (input, output, Some(kernel)),
            _ => return None,
        };
        Some(Site {
            input,
            output,
            kernel,
        })
    };
    checkpoint
        .names()
        .filter_map(|name| Some((name.strip_suffix(".weight")?.to_owned(), site(name)?)))
        .collect()
}

/// Which layers get a LoRA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// The four projections of every attention: what diffusers' scripts adapt.
    Attention,
    /// Every linear layer and 1x1 convolution inside the attention blocks of a U-Net, kohya's default set, or inside
    /// the blocks of a language model: all but its output layer, as PEFT's `all-linear`.
    AllLinear,
    /// The layers whose module path is, or ends with a dot and, one of these.
    Suffixes(Vec<String>),
}

/// Of U-Nets, of Llama and its kin, of GPT-2.
const ATTENTION: [&str; 10] = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "attn.c_attn",
    "attn.c_proj",
];

/// Names of the modules that enclose transformer layers in the same models.
const BLOCKS: [&str; 3] = ["attentions", "layers", "h"];

impl Targets {
    /// Paths of the chosen sites, sorted.
    ///
    /// # Errors
    /// A suffix that matches nothing, or nothing chosen at all.
    pub fn choose(&self, sites: &Sites) -> Result<Vec<String>> {
        let chosen: Vec<String> = match self {
            Self::Attention => all_with_suffix(sites, &ATTENTION),
            Self::AllLinear => sites
                .iter()
                .filter(|(name, site)| {
                    site.kernel.is_none_or(|kernel| kernel == 1)
                        && name.split('.').any(|part| BLOCKS.contains(&part))
                })
                .map(|(name, _)| name.clone())
                .collect(),
            Self::Suffixes(suffixes) => {
                let unknown = suffixes
                    .iter()
                    .find(|suffix| !sites.keys().any(|name| has_suffix(name, suffix)));
                if let Some(unknown) = unknown {
                    return Err(unknown_target(unknown, sites));
                }
                let suffixes: Vec<&str> = suffixes.iter().map(String::as_str).collect();
                all_with_suffix(sites, &suffixes)
            }
        };
        if chosen.is_empty() {
            return Err(Error::config(
                "the LoRA targets match no layer of the model",
            ));
        }
        Ok(chosen)
    }
}

/// `true` if a module path is `suffix` or ends with `.suffix`, which is how PEFT matches `target_modules`.
pub(super) fn has_suffix(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn all_with_suffix(sites: &Sites, suffixes: &[&str]) -> Vec<String> {
    sites
        .keys()
        .filter(|name| suffixes.iter().any(|suffix| has_suffix(name, suffix)))
        .cloned()
        .collect()
}

/// The part of a module path that says what the layer does: the last name, with the numbers after it.
pub(super) fn role(name: &str) -> &str {
    let mut begin = name.len();
    for part in name.rsplit('.') {
        begin -= part.len();
        if !part.bytes().all(|byte| byte.is_ascii_digit()) {
            break;
        }
        begin -= 1;
    }
    &name[begin..]
}

fn unknown_target(target: &str, sites: &Sites) -> Error {
    let roles: BTreeSet<&str> = sites.keys().map(|name| role(name)).collect();
    let mut near: Vec<(f64, &str)> = roles
        .into_iter()
        .map(|role| (strsim::jaro_winkler(target, role), role))
        .collect();
    near.sort_by(|left, right| right.0.total_cmp(&left.0));
    let near: Vec<String> = near
        .iter()
        .take(4)
        .map(|(_, role)| format!("`{role}`"))
        .collect();
    Error::config(format!(
        "the LoRA target `{target}` matches no layer of the model"
    ))
    .with_hint(format!("near names are {}", near.join(", ")))
}
