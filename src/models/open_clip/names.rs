//! Names of tensors in OpenCLIP's files, and those of transformers' `CLIPModel` for the same tensors.

use crate::models::single_file::open_clip_names;
use crate::models::stored::Cut;

/// transformers' names of a tensor and the parts of it that they hold; none of what is not used. What has no name there keeps
/// its own.
pub(super) fn of_transformers(name: &str) -> Vec<(String, Cut)> {
    // Of a model that was trained on several devices.
    let name = name.strip_prefix("module.").unwrap_or(name);
    if let Some(name) = name.strip_prefix("visual.") {
        return of_vision(name);
    }
    match name {
        "logit_scale" | "logit_bias" => vec![(name.to_owned(), Cut::Whole)],
        // Some models keep the text encoder below a name.
        name => open_clip_names(name.strip_prefix("text.").unwrap_or(name)),
    }
}

fn of_vision(name: &str) -> Vec<(String, Cut)> {
    let one = |name: String, cut| vec![(name, cut)];
    let own = |name: &str| one(format!("vision_model.{name}"), Cut::Whole);
    match name {
        "class_embedding" => return own("embeddings.class_embedding"),
        "positional_embedding" => return own("embeddings.position_embedding.weight"),
        "conv1.weight" => return own("embeddings.patch_embedding.weight"),
        // It is multiplied from the other side there.
        "proj" => return one("visual_projection.weight".to_owned(), Cut::Transposed),
        _ => {}
    }
    if let Some(rest) = name.strip_prefix("ln_pre.") {
        return own(&format!("pre_layrnorm.{rest}"));
    }
    if let Some(rest) = name.strip_prefix("ln_post.") {
        return own(&format!("post_layernorm.{rest}"));
    }
    // Its blocks are those of the text encoder.
    let block = |(name, cut): (String, Cut)| match name.strip_prefix("text_model.encoder.") {
        Some(rest) => (format!("vision_model.encoder.{rest}"), cut),
        None => (format!("visual.{name}"), Cut::Whole),
    };
    open_clip_names(name).into_iter().map(block).collect()
}
