//! Photos to what an image encoder reads, as `preprocessor_config.json` says: resize, centre crop, rescale,
//! normalise.
//!
//! The reference is transformers' PIL image processors (`CLIPImageProcessorPil`, `ViTImageProcessorPil`,
//! `EfficientNetImageProcessorPil`; before transformers 5 the plain, "slow" ones), for which published scores were
//! made. transformers 5 takes torchvision's resizing where torchvision is installed; its samples differ from
//! Pillow's by up to 1 of 255.

use std::path::{Path, PathBuf};

use image::RgbImage;
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};
use tch::Tensor;

use super::json;
use crate::error::{Error, Result};
use crate::ops::resample::{Filter, Window, resize_window};

/// Largest side that settings may ask for: encoders read a few hundred pixels, and a damaged number would ask for more memory
/// than there is.
const LARGEST_SIDE: u64 = 4096;

/// Which of transformers' image processors a folder's settings are for; it decides the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// Shortest edge to 224, bicubic, centre crop.
    Clip,
    /// Both edges to 224, bilinear.
    Vit,
    /// Both edges to 346, bicubic; ALIGN's settings add a centre crop of 289 and a range of -1 to 1.
    EfficientNet,
}

/// Size of an image, pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct Size {
    height: usize,
    width: usize,
}

/// The size that an image is resized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    ShortestEdge(usize),
    Both(Size),
}

/// Turns photos into pixel tensors.
pub struct Preprocessor {
    path: PathBuf,
    resize: Option<(Target, Filter)>,
    crop: Option<Size>,
    /// The value that each sample of a channel becomes.
    tables: [[f32; 256]; 3],
}

/// The file as it is written; `None` where a key is missing.
#[derive(Deserialize)]
struct Settings {
    do_resize: Option<bool>,
    size: Option<Value>,
    resample: Option<u8>,
    do_center_crop: Option<bool>,
    crop_size: Option<Value>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    rescale_offset: Option<bool>,
    do_normalize: Option<bool>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
    include_top: Option<bool>,
}

impl Preprocessor {
    /// Reads `preprocessor_config.json`, or the section `image_processor` of `processor_config.json`, in `folder`;
    /// `fallback` is the processor where the file does not name one.
    ///
    /// # Errors
    /// Neither file is there, it names an image processor that is not one of [`Processor`], or asks for an
    /// interpolation other than bilinear, bicubic and Lanczos.
    pub fn open(folder: &Path, fallback: Processor) -> Result<Self> {
        let (path, object) = find_settings(folder)?;
        let class = object
            .get("image_processor_type")
            .or_else(|| object.get("feature_extractor_type"))
            .and_then(Value::as_str);
        let processor = match class {
            None => fallback,
            Some(class) => known_processor(class).ok_or_else(|| {
                Error::weights(
                    &path,
                    format!("image processor `{class}` is not supported"),
                )
                .with_hint("supported are CLIPImageProcessor, ViTImageProcessor and EfficientNetImageProcessor")
            })?,
        };
        Self::new(path.clone(), processor, &json::parse(&path, object)?)
    }

    fn new(path: PathBuf, processor: Processor, settings: &Settings) -> Result<Self> {
        let is_clip = processor == Processor::Clip;
        let square = |side| Size {
            height: side,
            width: side,
        };
        let (target, filter, crop, mean, std) = match processor {
            Processor::Clip => (
                Target::ShortestEdge(224),
                Filter::Bicubic,
                square(224),
                [0.481_454_66, 0.457_827_5, 0.408_210_73],
                [0.268_629_54, 0.261_302_6, 0.275_777_1],
            ),
            Processor::Vit => (
                Target::Both(square(224)),
                Filter::Bilinear,
                square(224),
                [0.5; 3],
                [0.5; 3],
            ),
            Processor::EfficientNet => (
                Target::Both(square(346)),
                Filter::Bicubic,
                square(289),
                [0.5; 3],
                [0.5; 3],
            ),
        };
        let target = match &settings.size {
            None => target,
            Some(size) => parse_target(&path, size, is_clip)?,
        };
        let crop = match &settings.crop_size {
            None => crop,
            Some(size) => parse_size(&path, "crop_size", size)?,
        };
        let filter = match settings.resample {
            None => filter,
            Some(1) => Filter::Lanczos,
            Some(2) => Filter::Bilinear,
            Some(3) => Filter::Bicubic,
            Some(other) => {
                let message =
                    format!("`resample` {other} is none of 1 (Lanczos), 2 (bilinear), 3 (bicubic)");
                return Err(Error::weights(&path, message));
            }
        };
        let do_crop = settings.do_center_crop.unwrap_or(is_clip);
        let is_efficient_net = processor == Processor::EfficientNet;
        let steps = SampleSteps {
            factor: settings
                .do_rescale
                .unwrap_or(true)
                .then(|| settings.rescale_factor.unwrap_or(1.0 / 255.0)),
            offset: is_efficient_net && settings.rescale_offset.unwrap_or(false),
            normalize: settings.do_normalize.unwrap_or(true),
            // The image classifier of EfficientNet was trained with the deviation divided out twice.
            twice: is_efficient_net && settings.include_top.unwrap_or(true),
        };
        let mean = settings.image_mean.unwrap_or(mean);
        let std = settings.image_std.unwrap_or(std);
        Ok(Self {
            path,
            resize: settings
                .do_resize
                .unwrap_or(true)
                .then_some((target, filter)),
            crop: do_crop.then_some(crop),
            tables: [0, 1, 2].map(|channel| steps.table(mean[channel], std[channel])),
        })
    }

    /// The settings file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Resized and cropped 8-bit samples of one image: height, width, rows of RGB.
    ///
    /// # Errors
    /// The image has no pixels.
    pub fn crop(&self, image: &RgbImage) -> Result<(usize, usize, Vec<u8>)> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        if width == 0 || height == 0 {
            return Err(Error::config("an image without pixels cannot be encoded"));
        }
        let (size, filter) = match self.resize {
            None => (Size { height, width }, Filter::Bilinear),
            Some((Target::Both(size), filter)) => (size, filter),
            Some((Target::ShortestEdge(edge), filter)) => {
                let (short, long) = (width.min(height), width.max(height));
                let long = ((edge * long) as f64 / short as f64) as usize;
                let size = if width <= height {
                    Size {
                        height: long,
                        width: edge,
                    }
                } else {
                    Size {
                        height: edge,
                        width: long,
                    }
                };
                (size, filter)
            }
        };
        let crop = self.crop.unwrap_or(size);
        let rows = Overlap::new(size.height, crop.height);
        let columns = Overlap::new(size.width, crop.width);
        let window = Window {
            left: columns.source as u32,
            top: rows.source as u32,
            width: columns.count as u32,
            height: rows.count as u32,
        };
        let pixels = (rows.count * columns.count).max(crop.height * crop.width);
        if pixels as u64 > LARGEST_SIDE * LARGEST_SIDE {
            let message = format!(
                "makes an image of {} x {} pixels one of {} x {}",
                image.width(),
                image.height(),
                size.width,
                size.height
            );
            return Err(Error::weights(&self.path, message)
                .with_hint("set `do_center_crop`, or crop the image"));
        }
        let (width, height) = (size.width as u32, size.height as u32);
        let shown = resize_window(image, width, height, filter, window).into_raw();
        if rows.count == crop.height && columns.count == crop.width {
            return Ok((crop.height, crop.width, shown));
        }
        // A crop larger than the image is filled up with black.
        let mut samples = vec![0; crop.height * crop.width * 3];
        let targets = samples.chunks_exact_mut(crop.width * 3).skip(rows.target);
        for (target, source) in targets.zip(shown.chunks_exact(columns.count * 3)) {
            let begin = columns.target * 3;
            target[begin..begin + source.len()].copy_from_slice(source);
        }
        Ok((crop.height, crop.width, samples))
    }

    /// `n` images to f32 `[n, 3, h, w]` on the CPU, in parallel.
    ///
    /// # Errors
    /// An image has no pixels, or the settings do not bring all images to one size.
    pub fn pixels(&self, images: &[RgbImage]) -> Result<Tensor> {
        let cropped: Vec<_> = images
            .par_iter()
            .map(|image| self.crop(image))
            .collect::<Result<_>>()?;
        let (height, width) = cropped.first().map_or((0, 0), |first| (first.0, first.1));
        if let Some(other) = cropped
            .iter()
            .find(|crop| (crop.0, crop.1) != (height, width))
        {
            let message = format!(
                "does not bring all images to one size: {width}x{height} and {}x{}",
                other.1, other.0
            );
            return Err(Error::weights(&self.path, message)
                .with_hint("set `do_center_crop` or a `size` with both height and width"));
        }
        let plane = height * width;
        let mut values = vec![0f32; images.len() * 3 * plane];
        values
            .par_chunks_exact_mut((3 * plane).max(1))
            .zip(&cropped)
            .for_each(|(values, (_, _, samples))| {
                for (channel, values) in values.chunks_exact_mut(plane).enumerate() {
                    let table = &self.tables[channel];
                    let samples = samples.iter().skip(channel).step_by(3);
                    for (value, &sample) in values.iter_mut().zip(samples) {
                        *value = table[usize::from(sample)];
                    }
                }
            });
        let shape = [images.len() as i64, 3, height as i64, width as i64];
        Ok(Tensor::from_slice(&values).view(shape)) // [n, 3, h, w]
    }
}

/// The steps that a sample goes through after the crop.
struct SampleSteps {
    factor: Option<f64>,
    offset: bool,
    normalize: bool,
    twice: bool,
}

impl SampleSteps {
    /// The value of each of the 256 samples, with the roundings of NumPy's f32 arithmetic.
    fn table(&self, mean: f32, std: f32) -> [f32; 256] {
        std::array::from_fn(|sample| {
            let mut value = match self.factor {
                Some(factor) => (sample as f64 * factor) as f32,
                None => sample as f32,
            };
            if self.offset {
                value -= 1.0;
            }
            if self.normalize {
                value = (value - mean) / std;
            }
            if self.twice {
                value /= std;
            }
            value
        })
    }
}

/// How a centred crop lies over one axis.
struct Overlap {
    /// First position of the image that is shown.
    source: usize,
    /// Where in the crop it comes to lie.
    target: usize,
    /// How many positions are shown.
    count: usize,
}

impl Overlap {
    fn new(size: usize, crop: usize) -> Self {
        if crop <= size {
            Self {
                source: (size - crop) / 2,
                target: 0,
                count: crop,
            }
        } else {
            Self {
                source: 0,
                target: (crop - size).div_ceil(2),
                count: size,
            }
        }
    }
}

fn find_settings(folder: &Path) -> Result<(PathBuf, Map<String, Value>)> {
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

fn known_processor(class: &str) -> Option<Processor> {
    let name = ["Fast", "Pil"]
        .iter()
        .find_map(|suffix| class.strip_suffix(suffix))
        .unwrap_or(class);
    match name {
        "CLIPImageProcessor" | "CLIPFeatureExtractor" => Some(Processor::Clip),
        "ViTImageProcessor" | "ViTFeatureExtractor" => Some(Processor::Vit),
        "EfficientNetImageProcessor" => Some(Processor::EfficientNet),
        _ => None,
    }
}

fn parse_target(path: &Path, value: &Value, edge_alone: bool) -> Result<Target> {
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

fn parse_size(path: &Path, key: &str, value: &Value) -> Result<Size> {
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
