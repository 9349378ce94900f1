//! The files that say how images are resized and normalised.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{CLIP_MEAN, CLIP_STD, LARGEST_SIDE, Processor, Size, Target};
use crate::error::{Error, Result};
use crate::models::json;

/// The file as it is written; `None` where a key is missing.
#[derive(Default, Deserialize)]
pub(super) struct Settings {
    pub(super) do_resize: Option<bool>,
    pub(super) size: Option<Value>,
    pub(super) resample: Option<u8>,
    pub(super) do_center_crop: Option<bool>,
    pub(super) crop_size: Option<Value>,
    pub(super) do_rescale: Option<bool>,
    pub(super) rescale_factor: Option<f64>,
    pub(super) rescale_offset: Option<bool>,
    pub(super) do_normalize: Option<bool>,
    pub(super) image_mean: Option<[f32; 3]>,
    pub(super) image_std: Option<[f32; 3]>,
    pub(super) include_top: Option<bool>,
}

/// OpenCLIP's `preprocess_cfg` with its defaults.
#[derive(Deserialize)]
#[serde(default)]
pub(super) struct OpenClipTransform {
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
    pub(super) interpolation: String,
    pub(super) resize_mode: String,
    pub(super) fill_color: u8,
}

impl Default for OpenClipTransform {
    fn default() -> Self {
        Self {
            mean: CLIP_MEAN,
            std: CLIP_STD,
            interpolation: "bicubic".to_owned(),
            resize_mode: "shortest".to_owned(),
            fill_color: 0,
        }
    }
}

/// `true` if a folder has settings for images of its own.
pub(in crate::models) fn has_settings(folder: &Path) -> bool {
    folder.join("preprocessor_config.json").exists()
        || folder.join("processor_config.json").exists()
}

pub(super) fn find_settings(folder: &Path) -> Result<(PathBuf, Map<String, Value>)> {
    let plain = folder.join("preprocessor_config.json");
    if plain.exists() {
        let object = json::read_object(&plain)?;
        return Ok((plain, object));
    }
    // transformers 5 saves the settings of a whole processor in one file.
    let joint = folder.join("processor_config.json");
    if joint.exists() {
        let object = json::read_object(&joint)?;
        if let Some(section) = json::section(&object, "image_processor") {
            return Ok((joint, section));
        }
    }
    Err(
        Error::weights(folder, "no `preprocessor_config.json` in it").with_hint(
            "it says how photos are resized and normalised; copy it from the model's repository",
        ),
    )
}

pub(super) fn known_processor(class: &str) -> Option<Processor> {
    let name = ["Fast", "Pil"]
        .iter()
        .find_map(|suffix| class.strip_suffix(suffix))
        .unwrap_or(class);
    match name {
        "CLIPImageProcessor" | "CLIPFeatureExtractor" | "BitImageProcessor" => {
            Some(Processor::Clip)
        }
        "SiglipImageProcessor" => Some(Processor::Siglip),
        "DINOv3ViTImageProcessor" => Some(Processor::Dino3),
        "ViTImageProcessor" | "ViTFeatureExtractor" => Some(Processor::Vit),
        "EfficientNetImageProcessor" => Some(Processor::EfficientNet),
        _ => None,
    }
}

pub(super) fn parse_target(path: &Path, value: &Value, edge_alone: bool) -> Result<Target> {
    let edge = value.get("shortest_edge").and_then(Value::as_u64);
    let edge = edge.or_else(|| value.as_u64().filter(|_| edge_alone));
    match edge {
        Some(0) => Err(Error::weights(path, "`size` must be at least 1")),
        Some(edge) if edge > LARGEST_SIDE => Err(too_large(path, "size", edge)),
        Some(_) if value.get("longest_edge").is_some() => Err(Error::weights(
            path,
            "`size` with `longest_edge` is not supported",
        )),
        Some(edge) => Ok(Target::ShortestEdge(edge as usize)),
        None => Ok(Target::Both(parse_size(path, "size", value)?)),
    }
}

fn too_large(path: &Path, key: &str, side: u64) -> Error {
    let message =
        format!("`{key}` asks for {side} pixels, but at most {LARGEST_SIDE} a side are made");
    Error::weights(path, message)
}

pub(super) fn parse_size(path: &Path, key: &str, value: &Value) -> Result<Size> {
    let size = match value.as_u64() {
        Some(side) => Some(Size {
            height: side as usize,
            width: side as usize,
        }),
        None => Size::deserialize(value).ok(),
    };
    if let Some(Size { height, width }) = size
        && height.max(width) as u64 > LARGEST_SIDE
    {
        return Err(too_large(path, key, height.max(width) as u64));
    }
    size.filter(|size| size.height > 0 && size.width > 0)
        .ok_or_else(|| {
            let message = format!("`{key}` must be a size above 0 or have `height` and `width`");
            Error::weights(path, message)
        })
}
