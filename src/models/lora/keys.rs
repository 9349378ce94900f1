//! How LoRA files spell module paths: those of PEFT, and for a U-Net the original (sgm) block names and both with
//! underscores. A table over the modules of the model at hand answers which module a file means.

use std::collections::HashMap;

use super::adapter;
use super::sites::Sites;

/// The role of a tensor in a LoRA file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// A.
    Down,
    /// B.
    Up,
    /// The spatial core of a decomposed convolution (LyCORIS LoCon, "tucker").
    Mid,
    /// The strength, a scalar.
    Alpha,
    /// Norms of the merged weight, as PEFT stores them: one for each output (DoRA).
    Magnitude,
    /// Norms of the merged weight, as LyCORIS stores them: one for each output or each input (DoRA).
    DoraScale,
    /// LoHa: the factors of the first product and of the second, and their spatial cores.
    Hada1A,
    Hada1B,
    HadaCore1,
    Hada2A,
    Hada2B,
    HadaCore2,
    /// LoKr: the factors of the Kronecker product, each whole or itself a product, the second with a spatial core.
    Lokr1,
    Lokr1A,
    Lokr1B,
    Lokr2,
    Lokr2A,
    Lokr2B,
    LokrCore,
    /// The difference of the whole weight.
    Diff,
    /// A change of a bias, which no layer takes.
    Bias,
}

impl Part {
    /// The kind of adapter that is no plain LoRA and has such a tensor; `None` of a LoRA's own.
    pub(super) fn other_kind(self) -> Option<&'static str> {
        Some(match self {
            Self::Down | Self::Up | Self::Mid | Self::Alpha => return None,
            Self::Magnitude | Self::DoraScale => "DoRA",
            Self::Hada1A
            | Self::Hada1B
            | Self::HadaCore1
            | Self::Hada2A
            | Self::Hada2B
            | Self::HadaCore2 => "LoHa",
            Self::Lokr1
            | Self::Lokr1A
            | Self::Lokr1B
            | Self::Lokr2
            | Self::Lokr2A
            | Self::Lokr2B
            | Self::LokrCore => "LoKr",
            Self::Diff => "a full-weight difference",
            Self::Bias => "a change of a bias",
        })
    }
}

const PARTS: [(&str, Part); 37] = [
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora_A.default.weight", Part::Down),
    (".lora_B.default.weight", Part::Up),
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    ("_lora.down.weight", Part::Down),
    ("_lora.up.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    (".lora_mid.weight", Part::Mid),
    (".alpha", Part::Alpha),
    (".dora_scale", Part::DoraScale),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_magnitude_vector.weight", Part::Magnitude),
    (".lora_magnitude_vector.default.weight", Part::Magnitude),
    (".lora_B.bias", Part::Bias),
    (".lora_B.default.bias", Part::Bias),
    (".lora_up.bias", Part::Bias),
    (".diff_b", Part::Bias),
    (".hada_w1_a", Part::Hada1A),
    (".hada_w1_b", Part::Hada1B),
    (".hada_t1", Part::HadaCore1),
    (".hada_w2_a", Part::Hada2A),
    (".hada_w2_b", Part::Hada2B),
    (".hada_t2", Part::HadaCore2),
    (".lokr_w1", Part::Lokr1),
    (".lokr_w1_a", Part::Lokr1A),
    (".lokr_w1_b", Part::Lokr1B),
    (".lokr_w2", Part::Lokr2),
    (".lokr_w2_a", Part::Lokr2A),
    (".lokr_w2_b", Part::Lokr2B),
    (".lokr_t2", Part::LokrCore),
    (".diff", Part::Diff),
    (".diff.weight", Part::Diff),
];

/// Splits a tensor's name into the module, as the file spells it, and what the tensor is of it.
pub(super) fn split(key: &str) -> Option<(&str, Part)> {
    PARTS
        .iter()
        .find_map(|(suffix, part)| Some((key.strip_suffix(suffix)?, *part)))
}

/// `true` if a file's module belongs to a text encoder.
pub(super) fn is_text(module: &str) -> bool {
    [
        "lora_te_",
        "lora_te1_",
        "lora_te2_",
        "text_encoder.",
        "text_encoder_2.",
        "text_encoders.",
    ]
    .iter()
    .any(|prefix| module.starts_with(prefix))
}

/// Folders of a pipeline's text encoders; with a dot behind them they begin the names of those encoders' modules.
pub(in crate::models) const TEXT_ENCODERS: [&str; 2] = ["text_encoder", "text_encoder_2"];

/// The text encoder, counted from 0, to which a module of a pipeline belongs, and the module's path in it; `None` of a
/// module of the U-Net.
pub(in crate::models) fn in_text_encoder(module: &str) -> Option<(usize, &str)> {
    TEXT_ENCODERS
        .iter()
        .enumerate()
        .find_map(|(number, folder)| {
            let path = module.strip_prefix(folder)?.strip_prefix('.')?;
            Some((number, path))
        })
}

/// The name that a text encoder's module has among those of its pipeline: always with the part `text_model.`, which files
/// that transformers has written since version 5.6 lack.
pub(in crate::models) fn text_module(folder: &str, path: &str) -> String {
    if path.starts_with(TEXT_MODEL) || path.starts_with("text_projection") {
        format!("{folder}.{path}")
    } else {
        format!("{folder}.{TEXT_MODEL}{path}")
    }
}

/// The first part of a CLIP text encoder's names.
pub(in crate::models) const TEXT_MODEL: &str = "text_model.";

/// Every spelling of every module of a model.
pub(super) struct Spellings {
    modules: HashMap<String, String>,
}

impl Spellings {
    pub(in crate::models) fn collect(sites: &Sites) -> Self {
        let blocks = Blocks::collect(sites);
        let mut modules = HashMap::new();
        for name in sites.keys() {
            let mut add = |spelling: String| modules.insert(spelling, name.clone());
            if let Some((number, path)) = in_text_encoder(name) {
                for spelling in text_spellings(number, path) {
                    add(spelling);
                }
                continue;
            }
            add(name.clone());
            add(format!("{}{name}", adapter::PREFIX));
            add(format!("unet.{name}"));
            add(underscored("lora_unet_", name));
            add(underscored("lycoris_", name));
            if let Some(old) = processor_spelling(name) {
                add(format!("unet.{old}"));
                add(old);
            }
            if let Some(sgm) = blocks.sgm(name) {
                add(underscored("lora_unet_", &sgm));
                add(format!("diffusion_model.{sgm}"));
            }
        }
        Self { modules }
    }

    /// The model's module path for a file's spelling of it.
    pub(super) fn module(&self, spelling: &str) -> Option<&str> {
        self.modules.get(spelling).map(String::as_str)
    }
}

/// `a.b.0` as `PREFIXa_b_0`.
pub(super) fn underscored(prefix: &str, module: &str) -> String {
    format!("{prefix}{}", module.replace('.', "_"))
}

/// Every spelling of a module of a pipeline's text encoder: those of PEFT and diffusers, kohya and ComfyUI.
fn text_spellings(number: usize, path: &str) -> Vec<String> {
    let folder = TEXT_ENCODERS[number];
    // The names that ComfyUI has for the encoders of SD 1.x and of SDXL, of SD 2.x, and for the second one of SDXL.
    let (kohya, comfy): (&[&str], &[&str]) = if number == 0 {
        (&["lora_te_", "lora_te1_"], &["clip_l", "clip_h"])
    } else {
        (&["lora_te2_"], &["clip_g"])
    };
    let mut spellings = Vec::new();
    let bare = path.strip_prefix(TEXT_MODEL);
    for path in [Some(path), bare].into_iter().flatten() {
        spellings.push(format!("{folder}.{path}"));
        spellings.extend(kohya.iter().map(|prefix| underscored(prefix, path)));
        spellings.extend(
            comfy
                .iter()
                .map(|name| format!("text_encoders.{name}.transformer.{path}")),
        );
        // diffusers before it used PEFT called the projections by the U-Net's names.
        for (projection, old) in OLD_TEXT_PROJECTIONS {
            if let Some(attention) = path.strip_suffix(projection) {
                spellings.push(format!("{folder}.{attention}{old}"));
            }
        }
    }
    spellings
}

const OLD_TEXT_PROJECTIONS: [(&str, &str); 4] = [
    ("self_attn.q_proj", "self_attn.to_q"),
    ("self_attn.k_proj", "self_attn.to_k"),
    ("self_attn.v_proj", "self_attn.to_v"),
    ("self_attn.out_proj", "self_attn.to_out"),
];

/// Spelling of the attention projections in diffusers before it used PEFT; the `_lora` that follows counts as a part
/// of the tensor's name.
fn processor_spelling(module: &str) -> Option<String> {
    let module = module.strip_suffix(".0").unwrap_or(module);
    let (attention, projection) = module.rsplit_once('.')?;
    ["to_q", "to_k", "to_v", "to_out"]
        .contains(&projection)
        .then(|| format!("{attention}.processor.{projection}"))
}

/// The block structure of a U-Net, from which the original (sgm) numbering follows.
pub(in crate::models) struct Blocks {
    /// Residual layers of a down block; an up block has one more.
    layers: usize,
    /// Up blocks with attention: their upsampler comes third, not second.
    attending_up_blocks: Vec<usize>,
}

impl Blocks {
    pub(in crate::models) fn collect(sites: &Sites) -> Self {
        let mut layers = 0;
        let mut attending_up_blocks = Vec::new();
        for name in sites.keys() {
            let parts: Vec<&str> = name.split('.').collect();
            match parts.as_slice() {
                ["down_blocks", _, "resnets" | "attentions", layer, ..] => {
                    layers = layers.max(layer.parse().map_or(0, |layer: usize| layer + 1));
                }
                ["up_blocks", block, "attentions", ..] => {
                    attending_up_blocks.extend(block.parse::<usize>());
                }
                _ => {}
            }
        }
        Self {
            layers,
            attending_up_blocks,
        }
    }

    /// The original name of a diffusers module path; `None` where there is none.
    pub(in crate::models) fn sgm(&self, module: &str) -> Option<String> {
        let parts: Vec<&str> = module.split('.').collect();
        let stride = self.layers + 1;
        let number = |text: &str| text.parse::<usize>().ok();
        let inner = |rest: &[&str]| rest.join(".");
        Some(match parts.as_slice() {
            ["conv_in"] => "input_blocks.0.0".to_owned(),
            ["conv_norm_out"] => "out.0".to_owned(),
            ["conv_out"] => "out.2".to_owned(),
            ["time_embedding", "linear_1"] => "time_embed.0".to_owned(),
            ["time_embedding", "linear_2"] => "time_embed.2".to_owned(),
            ["add_embedding", "linear_1"] => "label_emb.0.0".to_owned(),
            ["add_embedding", "linear_2"] => "label_emb.0.2".to_owned(),
            ["down_blocks", block, "resnets", layer, rest @ ..] => format!(
                "input_blocks.{}.0.{}",
                stride * number(block)? + number(layer)? + 1,
                residual(&inner(rest))?
            ),
            ["down_blocks", block, "attentions", layer, rest @ ..] => format!(
                "input_blocks.{}.1.{}",
                stride * number(block)? + number(layer)? + 1,
                inner(rest)
            ),
            ["down_blocks", block, "downsamplers", "0", "conv"] => {
                format!("input_blocks.{}.0.op", stride * (number(block)? + 1))
            }
            ["mid_block", "resnets", layer, rest @ ..] => format!(
                "middle_block.{}.{}",
                2 * number(layer)?,
                residual(&inner(rest))?
            ),
            ["mid_block", "attentions", "0", rest @ ..] => {
                format!("middle_block.1.{}", inner(rest))
            }
            ["up_blocks", block, "resnets", layer, rest @ ..] => format!(
                "output_blocks.{}.0.{}",
                stride * number(block)? + number(layer)?,
                residual(&inner(rest))?
            ),
            ["up_blocks", block, "attentions", layer, rest @ ..] => format!(
                "output_blocks.{}.1.{}",
                stride * number(block)? + number(layer)?,
                inner(rest)
            ),
            ["up_blocks", block, "upsamplers", "0", "conv"] => {
                let block = number(block)?;
                let place = if self.attending_up_blocks.contains(&block) {
                    2
                } else {
                    1
                };
                format!(
                    "output_blocks.{}.{place}.conv",
                    stride * block + self.layers
                )
            }
            _ => return None,
        })
    }
}

/// The layers of a residual block.
fn residual(layer: &str) -> Option<&'static str> {
    Some(match layer {
        "norm1" => "in_layers.0",
        "norm2" => "out_layers.0",
        "conv1" => "in_layers.2",
        "conv2" => "out_layers.3",
        "time_emb_proj" => "emb_layers.1",
        "conv_shortcut" => "skip_connection",
        _ => return None,
    })
}
