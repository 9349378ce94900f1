//! How LoRA files spell module paths: those of PEFT, and for a U-Net the original (sgm) block names and both with
//! underscores. A table over the modules of the model at hand answers which module a file means.

use std::collections::HashMap;

use super::adapter;
use super::sites::Sites;

/// The role of a tensor in a LoRA file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A.
    Down,
    /// B.
    Up,
    /// The spatial core of a decomposed convolution (LyCORIS LoCon, "tucker").
    Mid,
    /// The strength, a scalar.
    Alpha,
    /// Something that changes the result and is not supported, by its name.
    Other(&'static str),
}

const PARTS: [(&str, Part); 23] = [
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
    (".dora_scale", Part::Other("DoRA")),
    (".lora_magnitude_vector", Part::Other("DoRA")),
    (".lora_magnitude_vector.weight", Part::Other("DoRA")),
    (".lora_B.bias", Part::Other("a LoRA bias")),
    (".lora_up.bias", Part::Other("a LoRA bias")),
    (".lokr_w1", Part::Other("LoKr")),
    (".lokr_w1_a", Part::Other("LoKr")),
    (".hada_w1_a", Part::Other("LoHa")),
    (".diff", Part::Other("a full-weight difference")),
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
