//! The kind of content of a file of weights, by the names and shapes of its tensors.

use std::path::Path;

use super::Recognized;
use crate::error::Error;
use crate::models::weights::Checkpoint;

const WITHOUT_VAE: &str = "take the version of it that has an autoencoder (VAE) baked in, or give one beside it: `model.vae` in a \
                           configuration, `--vae` of other commands";

/// How an autoencoder is used.
pub(super) const VAE_ADVICE: &str =
    "a VAE goes beside a model: `model.vae` in a configuration, `--vae` of other commands";

/// Files that go beside a model, by a part of a tensor's name.
const BESIDE: [(&str, &str); 10] = [
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("input_hint_block.", "a ControlNet"),
    ("ip_adapter.", "an IP-Adapter"),
    ("motion_modules.", "a motion module of AnimateDiff"),
    ("body.0.block1.", "a T2I-Adapter"),
    ("RDB1.conv1", "an upscaler (ESRGAN)"),
    ("rdb1.conv1", "an upscaler (ESRGAN)"),
    ("0.linear.0.weight", "a hypernetwork"),
    ("oft_blocks", "an OFT adapter"),
];

const BASE_OF_IT: &str = "take the model for text to image that it was made from";

const OTHER_FAMILY: &str = "of image models, Stable Diffusion 1, 2 and XL are read";

pub(super) fn of_file(path: &Path) -> Recognized {
    let file = match Checkpoint::open_file(path) {
        Ok(file) => file,
        Err(error) => return unreadable(path, &error),
    };
    if file.names().next().is_none() {
        return Recognized::new("a file of weights without tensors", "");
    }
    let any = |parts: &[&str]| {
        let mut names = file.names();
        names.any(|name| parts.iter().any(|part| name.contains(part)))
    };
    if any(&[".hada_w1", ".lokr_w1"]) {
        let advice = "give its base as the model and this as `--lora`";
        return Recognized::new("a LoHa or LoKr of LyCORIS", advice);
    }
    let flux = any(&[
        "double_blocks.0",
        "single_blocks.0",
        "single_transformer_blocks.0",
        "double_blocks_0",
    ]);
    let joint = any(&["joint_blocks.0", "joint_blocks_0"])
        || any(&["transformer.transformer_blocks.0"]) && !flux;
    if any(&[
        "lora_A",
        "lora_down",
        "lora.down",
        "_lora.up",
        "lora_linear_layer",
    ]) {
        let of = match (flux, joint) {
            (true, _) => " of Flux or a model of its kind",
            (_, true) => " of Stable Diffusion 3 or a model of its kind",
            _ => "",
        };
        let advice = if of.is_empty() {
            "give its base as the model and this as `--lora`"
        } else {
            OTHER_FAMILY
        };
        return Recognized::new(format!("a LoRA{of}, not a model"), advice);
    }
    if flux {
        return Recognized::new(
            "a Flux model, or one of its kind, in one file",
            OTHER_FAMILY,
        );
    }
    if joint {
        return Recognized::new("a Stable Diffusion 3 model in one file", OTHER_FAMILY);
    }
    if let Some((_, what)) = BESIDE.iter().find(|(part, _)| any(&[part])) {
        let advice = "it goes beside a model, and preftune does not read it: give the model alone";
        return Recognized::new(*what, advice);
    }
    let begins = |prefix: &str| file.names().any(|name| name.starts_with(prefix));
    if file.contains("model.diffusion_model.input_blocks.0.0.weight") {
        return checkpoint(&file);
    }
    if any(&["encoder.down.0.block", "encoder.down_blocks.0.resnets"]) {
        return autoencoder(&file);
    }
    if begins("down_blocks.0.resnets") {
        let advice = "give the model's folder, with the U-Net in its part `unet`";
        return Recognized::new("the weights of a U-Net alone", advice);
    }
    if begins("input_blocks.0.0.") {
        let advice = "take the whole checkpoint, with its text encoder and its autoencoder (VAE)";
        return Recognized::new("the weights of a U-Net alone", advice);
    }
    if any(&["emb_params", "string_to_param"])
        || file
            .names()
            .all(|name| ["clip_l", "clip_g"].contains(&name))
    {
        let advice = "learned words are not read: give the model alone";
        return Recognized::new("a textual inversion (a learned word), not a model", advice);
    }
    if begins("visual.") || begins("module.visual.") {
        let advice = "it is read as an encoder of images and texts: `--encoder`, `reward.encoder`";
        return Recognized::new("an OpenCLIP model in one file", advice);
    }
    let folder = path.parent().unwrap_or(path).display();
    let advice = format!("give the folder that it lies in, `{folder}`");
    if begins("vision_model.") || begins("text_model.") {
        return Recognized::new("the weights of an encoder", advice);
    }
    if begins("model.layers.") || begins("transformer.h.") || begins("h.0.") {
        return Recognized::new("the weights of a language model", advice);
    }
    let first = file.names().next().unwrap_or_default().to_owned();
    let what = format!("a file of weights of no known kind (its first tensor is `{first}`)");
    Recognized::new(what, "")
}

/// An autoencoder alone.
fn autoencoder(file: &Checkpoint) -> Recognized {
    let any = |part: &str| file.names().any(|name| name.contains(part));
    if !any("encoder.down.0.block") {
        let path = file.path();
        let folder = path.parent().unwrap_or(path).display();
        let advice =
            format!("a VAE in diffusers' names is given as its folder, `{folder}`; {VAE_ADVICE}");
        return Recognized::new("an autoencoder (VAE) without its settings", advice);
    }
    if !any("quant_conv.") {
        let what = "an autoencoder (VAE) of Flux, Stable Diffusion 3 or a model of their kind";
        return Recognized::new(what, OTHER_FAMILY);
    }
    Recognized::new("an autoencoder (VAE), not a model", VAE_ADVICE)
}

/// A file that is refused, in the words of its error.
fn unreadable(path: &Path, error: &Error) -> Recognized {
    let advice = error.hint().unwrap_or_default();
    let message = error.to_string();
    let named = format!("`{}`: ", path.display());
    let what = match message.strip_prefix(&named) {
        Some(message) => format!("a file of weights that cannot be read: {message}"),
        None => "a file of weights that cannot be read".to_owned(),
    };
    Recognized::new(what, advice)
}

/// A whole model in the names of its first authors.
fn checkpoint(file: &Checkpoint) -> Recognized {
    let begins = |prefix: &str| file.names().any(|name| name.starts_with(prefix));
    let size = |name: &str, dim: usize| {
        let name = format!("model.diffusion_model.{name}");
        file.shape(&name).and_then(|shape| shape.get(dim).copied())
    };
    let labelled = size("label_emb.0.0.weight", 0).is_some();
    let family = if begins("conditioner.embedders.1.") {
        "Stable Diffusion XL"
    } else if begins("conditioner.embedders.0.") && labelled {
        "Stable Diffusion XL (refiner)"
    } else if labelled {
        "Stable Diffusion unCLIP"
    } else {
        let width = size("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", 1)
            .or_else(|| size("input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", 1));
        match width {
            Some(768) => "Stable Diffusion 1",
            Some(1024) => "Stable Diffusion 2",
            Some(2048) => "Stable Diffusion XL",
            _ => "Stable Diffusion",
        }
    };
    let has_vae = begins("first_stage_model.") || begins("vae.");
    let (use_of, advice) = match size("input_blocks.0.0.weight", 1) {
        Some(9) => (" for inpainting", BASE_OF_IT),
        Some(8) => (" for editing by instructions", BASE_OF_IT),
        Some(4) | None if family.ends_with("(refiner)") => (
            "",
            "take the base model of Stable Diffusion XL, which goes before it",
        ),
        Some(4) | None if labelled && !begins("conditioner.embedders.1.") => ("", OTHER_FAMILY),
        Some(4) | None if !has_vae => ("", WITHOUT_VAE),
        Some(4) | None => ("", ""),
        Some(_) => (" with other inputs than text", BASE_OF_IT),
    };
    let half = if has_vae {
        ""
    } else {
        " without its autoencoder"
    };
    Recognized::new(
        format!("a {family} checkpoint{use_of} in one file{half}"),
        advice,
    )
}
