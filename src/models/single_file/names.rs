//! Names of tensors in single files, and those of diffusers and transformers for the same tensors. A file names a U-Net and an
//! autoencoder as the first authors' code did (`ldm`, `sgm`), CLIP's text encoder as transformers does, and OpenCLIP's as
//! OpenCLIP does, with queries, keys and values in one matrix.

use crate::models::stored::Cut;

/// Shifts and scales of a residual block, by the layer that they belong to.
const RESIDUAL: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// Layers of a U-Net outside of its blocks.
const TOP: [(&str, &str); 7] = [
    ("input_blocks.0.0", "conv_in"),
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];

/// Layers of an autoencoder's attention.
const VAE_ATTENTION: [(&str, &str); 5] = [
    ("norm", "group_norm"),
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("proj_out", "to_out.0"),
];

/// The same as diffusers named them at first.
const OLD_ATTENTION: [(&str, &str); 4] = [
    ("q", "query"),
    ("k", "key"),
    ("v", "value"),
    ("proj_out", "proj_attn"),
];

/// Layers of a block of OpenCLIP's text encoder.
const OPEN_CLIP: [(&str, &str); 5] = [
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("attn.out_proj", "self_attn.out_proj"),
];

/// The other name of `layer`, which may be followed by `.weight` or `.bias`.
fn other(table: &[(&str, &str)], layer: &str, forth: bool) -> Option<String> {
    table.iter().find_map(|&(old, new)| {
        let (from, to) = if forth { (old, new) } else { (new, old) };
        let rest = layer.strip_prefix(from)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{to}{rest}"))
    })
}

/// A number and what follows the dot after it.
fn numbered(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// diffusers' name of a U-Net's tensor; `stride` is the number of input blocks of a level.
pub(super) fn unet(name: &str, stride: usize) -> Option<String> {
    if let Some(top) = other(&TOP, name, true) {
        return Some(top);
    }
    let residual = |rest: &str| other(&RESIDUAL, rest, true);
    if let Some(rest) = name.strip_prefix("input_blocks.") {
        let (block, rest) = numbered(rest)?;
        let (level, layer) = (block.checked_sub(1)? / stride, (block - 1) % stride);
        return match numbered(rest)? {
            (0, rest) if rest.starts_with("op.") => {
                let rest = &rest["op.".len()..];
                Some(format!("down_blocks.{level}.downsamplers.0.conv.{rest}"))
            }
            (0, rest) => Some(format!(
                "down_blocks.{level}.resnets.{layer}.{}",
                residual(rest)?
            )),
            (1, rest) => Some(format!("down_blocks.{level}.attentions.{layer}.{rest}")),
            _ => None,
        };
    }
    if let Some(rest) = name.strip_prefix("output_blocks.") {
        let (block, rest) = numbered(rest)?;
        let (level, layer) = (block / stride, block % stride);
        return match numbered(rest)? {
            (0, rest) => Some(format!(
                "up_blocks.{level}.resnets.{layer}.{}",
                residual(rest)?
            )),
            (1 | 2, rest) if rest.starts_with("conv.") => {
                Some(format!("up_blocks.{level}.upsamplers.0.{rest}"))
            }
            (1, rest) => Some(format!("up_blocks.{level}.attentions.{layer}.{rest}")),
            _ => None,
        };
    }
    match numbered(name.strip_prefix("middle_block.")?)? {
        (1, rest) => Some(format!("mid_block.attentions.0.{rest}")),
        (place @ (0 | 2), rest) => Some(format!(
            "mid_block.resnets.{}.{}",
            place / 2,
            residual(rest)?
        )),
        _ => None,
    }
}

/// diffusers' name of an autoencoder's tensor and the form that it has there; `levels` is the number of its levels.
pub(super) fn vae(name: &str, levels: usize) -> Option<(String, Cut)> {
    let (half, rest) = match name.split_once('.')? {
        ("quant_conv" | "post_quant_conv", _) => return Some((name.to_owned(), Cut::Whole)),
        (half @ ("encoder" | "decoder"), rest) => (half, rest),
        _ => return None,
    };
    let shortcut = |rest: &str| rest.replace("nin_shortcut", "conv_shortcut");
    let whole = |name: String| Some((format!("{half}.{name}"), Cut::Whole));
    if let Some(rest) = rest.strip_prefix("norm_out.") {
        return whole(format!("conv_norm_out.{rest}"));
    }
    if let Some(rest) = rest.strip_prefix("mid.attn_1.") {
        let layer = other(&VAE_ATTENTION, rest, true)?;
        let name = format!("{half}.mid_block.attentions.0.{layer}");
        // 1x1 convolutions there, matrices here.
        return Some((name, Cut::Matrix));
    }
    if let Some(rest) = rest.strip_prefix("mid.block_") {
        let (block, rest) = numbered(rest)?;
        return whole(format!(
            "mid_block.resnets.{}.{}",
            block.checked_sub(1)?,
            shortcut(rest)
        ));
    }
    let (side, sampler) = if half == "encoder" {
        ("down", "downsample")
    } else {
        ("up", "upsample")
    };
    if let Some(rest) = rest.strip_prefix(&format!("{side}.")) {
        let (level, rest) = numbered(rest)?;
        // The decoder's levels are counted from the finest there, in the order of use here.
        let level = if side == "up" {
            levels.checked_sub(1 + level)?
        } else {
            level
        };
        if let Some(rest) = rest.strip_prefix(&format!("{sampler}.")) {
            return whole(format!("{side}_blocks.{level}.{sampler}rs.0.{rest}"));
        }
        let (block, rest) = numbered(rest.strip_prefix("block.")?)?;
        return whole(format!(
            "{side}_blocks.{level}.resnets.{block}.{}",
            shortcut(rest)
        ));
    }
    whole(rest.to_owned())
}

/// transformers' name of a tensor of CLIP's text encoder.
pub(super) fn clip(name: &str) -> Option<String> {
    if name.ends_with("position_ids") {
        return None;
    }
    // Some older files leave out the first part.
    let bare = ["embeddings.", "encoder.", "final_layer_norm."];
    Some(if bare.iter().any(|part| name.starts_with(part)) {
        format!("text_model.{name}")
    } else {
        name.to_owned()
    })
}

/// transformers' names of a tensor of OpenCLIP's text encoder and the parts of it that they hold; none of what is not used.
pub(in crate::models) fn open_clip(name: &str) -> Vec<(String, Cut)> {
    let one = |name: &str, cut| vec![(name.to_owned(), cut)];
    match name {
        "positional_embedding" => {
            return one(
                "text_model.embeddings.position_embedding.weight",
                Cut::Whole,
            );
        }
        "token_embedding.weight" => {
            return one("text_model.embeddings.token_embedding.weight", Cut::Whole);
        }
        // It is multiplied from the other side there.
        "text_projection" => return one("text_projection.weight", Cut::Transposed),
        "logit_scale" | "attn_mask" => return Vec::new(),
        _ => {}
    }
    if let Some(rest) = name.strip_prefix("ln_final.") {
        return one(&format!("text_model.final_layer_norm.{rest}"), Cut::Whole);
    }
    let block = name.strip_prefix("transformer.resblocks.");
    let Some((layer, rest)) = block.and_then(numbered) else {
        return one(name, Cut::Whole);
    };
    let prefix = format!("text_model.encoder.layers.{layer}");
    if let Some(kind) = rest.strip_prefix("attn.in_proj_") {
        let third = |(part, letter)| {
            let name = format!("{prefix}.self_attn.{letter}_proj.{kind}");
            (name, Cut::Third(part))
        };
        return [(0, 'q'), (1, 'k'), (2, 'v')].map(third).into();
    }
    match other(&OPEN_CLIP, rest, true) {
        Some(rest) => one(&format!("{prefix}.{rest}"), Cut::Whole),
        None => one(name, Cut::Whole),
    }
}

/// The block of OpenCLIP's text encoder that a tensor belongs to.
pub(super) fn block(name: &str) -> Option<usize> {
    let rest = name.strip_prefix("transformer.resblocks.")?;
    numbered(rest).map(|(block, _)| block)
}

/// The name in a single file of an autoencoder's tensor; the reverse of [`vae`].
pub(super) fn vae_back(name: &str, levels: usize) -> Option<String> {
    let (half, rest) = name.split_once('.')?;
    if half != "encoder" && half != "decoder" {
        return Some(name.to_owned());
    }
    let shortcut = |rest: &str| rest.replace("conv_shortcut", "nin_shortcut");
    let part = if let Some(rest) = rest.strip_prefix("conv_norm_out.") {
        format!("norm_out.{rest}")
    } else if let Some(rest) = rest.strip_prefix("mid_block.attentions.0.") {
        let known = other(&VAE_ATTENTION, rest, false);
        format!(
            "mid.attn_1.{}",
            known.or_else(|| other(&OLD_ATTENTION, rest, false))?
        )
    } else if let Some(rest) = rest.strip_prefix("mid_block.resnets.") {
        let (block, rest) = numbered(rest)?;
        format!("mid.block_{}.{}", block + 1, shortcut(rest))
    } else if let Some(rest) = rest.strip_prefix("down_blocks.") {
        level_back("down", rest, Some)?
    } else if let Some(rest) = rest.strip_prefix("up_blocks.") {
        level_back("up", rest, |level| levels.checked_sub(1 + level))?
    } else {
        rest.to_owned()
    };
    Some(format!("{half}.{part}"))
}

fn level_back(side: &str, rest: &str, number: impl Fn(usize) -> Option<usize>) -> Option<String> {
    let (level, rest) = numbered(rest)?;
    let level = number(level)?;
    let sampler = format!("{side}sample");
    if let Some(rest) = rest.strip_prefix(&format!("{sampler}rs.0.")) {
        return Some(format!("{side}.{level}.{sampler}.{rest}"));
    }
    let (block, rest) = numbered(rest.strip_prefix("resnets.")?)?;
    let rest = rest.replace("conv_shortcut", "nin_shortcut");
    Some(format!("{side}.{level}.block.{block}.{rest}"))
}

/// The name in a single file of a tensor of OpenCLIP's text encoder, without those that are put together there.
pub(super) fn open_clip_back(name: &str) -> Option<String> {
    let rest = match name {
        "text_projection.weight" => return Some("text_projection".to_owned()),
        name => name.strip_prefix("text_model.")?,
    };
    match rest {
        "embeddings.position_embedding.weight" => return Some("positional_embedding".to_owned()),
        "embeddings.token_embedding.weight" => return Some("token_embedding.weight".to_owned()),
        _ => {}
    }
    if let Some(rest) = rest.strip_prefix("final_layer_norm.") {
        return Some(format!("ln_final.{rest}"));
    }
    let (layer, rest) = numbered(rest.strip_prefix("encoder.layers.")?)?;
    let rest = other(&OPEN_CLIP, rest, false)?;
    Some(format!("transformer.resblocks.{layer}.{rest}"))
}
