//! Photos to what an image encoder reads, as `preprocessor_config.json` says: resize, centre crop, rescale,
//! normalise.
//!
//! The reference is transformers' PIL image processors (`CLIPImageProcessorPil`, `ViTImageProcessorPil`,
//! `SiglipImageProcessorPil`, `BitImageProcessorPil`, `EfficientNetImageProcessorPil`; before transformers 5 the plain,
//! "slow" ones), for which published scores were made. transformers 5 takes torchvision's resizing where torchvision is
//! installed; its samples differ from Pillow's by up to 1 of 255. `DINOv3ViTImageProcessor` has no such form: it resizes
//! numbers, not samples, and so does [`Preprocessor`]. OpenCLIP's transform is torchvision's on images of Pillow.

mod settings;

use std::path::{Path, PathBuf};

use image::RgbImage;
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};
use tch::Tensor;

pub(super) use settings::has_settings;
use settings::{
    OpenClipTransform, Settings, find_settings, known_processor, parse_size, parse_target,
};

use super::json;
use crate::error::{Error, Result};
use crate::ops::resample::{Filter, Window, resize_window};

/// Mean and deviation of OpenAI's CLIP, which most encoders of images and texts took over.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Mean and deviation of ImageNet.
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Largest side that settings may ask for: encoders read a few hundred pixels, and a damaged number would ask for more memory
/// than there is.
const LARGEST_SIDE: u64 = 4096;

/// Which of transformers' image processors a folder's settings are for; it decides the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// Shortest edge to 224, bicubic, centre crop; DINOv2's `BitImageProcessor` has the same defaults.
    Clip,
    /// Both edges to 224, bilinear.
    Vit,
    /// Both edges to 224, bicubic.
    Siglip,
    /// Both edges to 224, bilinear with antialiasing, on numbers that are not rounded to samples.
    Dino3,
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
    /// The rest of the square is filled up.
    LongestEdge(usize),
    Both(Size),
}

/// A crop from the middle.
#[derive(Clone, Copy, Debug)]
struct Crop {
    size: Size,
    /// How halves of a pixel are rounded.
    rounding: Rounding,
    /// The sample that fills up what is not of the image.
    fill: u8,
}

/// Whose rounding places a crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rounding {
    Transformers,
    Torchvision,
}

/// Turns photos into pixel tensors.
pub struct Preprocessor {
    path: PathBuf,
    resize: Option<(Target, Filter)>,
    crop: Option<Crop>,
    /// The value that each sample of a channel becomes.
    tables: [[f32; 256]; 3],
    /// Mean and deviation where numbers are resized instead of samples; the tables then leave them out.
    unrounded: Option<[[f32; 3]; 2]>,
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
                .with_hint(
                    "supported are CLIPImageProcessor, SiglipImageProcessor, BitImageProcessor, ViTImageProcessor, \
                     DINOv3ViTImageProcessor and EfficientNetImageProcessor",
                )
            })?,
        };
        Self::new(path.clone(), processor, &json::parse(&path, object)?)
    }

    /// The processor of CLIP for images of `side` pixels, as `folder` has no settings of its own.
    ///
    /// # Errors
    /// The side is none that images can have.
    pub fn clip(folder: &Path, side: i64) -> Result<Self> {
        let side = Value::from(side);
        let settings = Settings {
            size: Some(side.clone()),
            crop_size: Some(side),
            ..Settings::default()
        };
        Self::new(folder.to_owned(), Processor::Clip, &settings)
    }

    /// OpenCLIP's transform for images of `side` pixels; `settings` are the `preprocess_cfg` of `path`, which may be empty.
    ///
    /// # Errors
    /// A setting has a value that does not exist, or the side is none that images can have.
    pub fn open_clip(path: &Path, side: i64, settings: Map<String, Value>) -> Result<Self> {
        let transform: OpenClipTransform = json::parse(path, settings)?;
        let size = parse_size(path, "image_size", &Value::from(side))?;
        let refuse = |key: &str, value: &str, known: &str| {
            let message = format!("`preprocess_cfg.{key}` \"{value}\" is none of {known}");
            Err(Error::weights(path, message))
        };
        let target = match transform.resize_mode.as_str() {
            "shortest" => Target::ShortestEdge(size.width),
            "longest" => Target::LongestEdge(size.width),
            "squash" => Target::Both(size),
            other => return refuse("resize_mode", other, "shortest, longest and squash"),
        };
        let filter = match transform.interpolation.as_str() {
            // In inference `random` is bicubic too.
            "bicubic" | "random" => Filter::Bicubic,
            "bilinear" => Filter::Bilinear,
            other => return refuse("interpolation", other, "bicubic, bilinear and random"),
        };
        let crop = Crop {
            size,
            rounding: Rounding::Torchvision,
            fill: transform.fill_color,
        };
        let (mean, std) = (transform.mean, transform.std);
        let value =
            |sample: usize, channel: usize| (sample as f32 / 255.0 - mean[channel]) / std[channel];
        Ok(Self {
            path: path.to_owned(),
            resize: Some((target, filter)),
            crop: Some(crop),
            tables: [0, 1, 2].map(|channel| std::array::from_fn(|sample| value(sample, channel))),
            unrounded: None,
        })
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
                CLIP_MEAN,
                CLIP_STD,
            ),
            Processor::Siglip => (
                Target::Both(square(224)),
                Filter::Bicubic,
                square(224),
                [0.5; 3],
                [0.5; 3],
            ),
            Processor::Dino3 => (
                Target::Both(square(224)),
                Filter::Bilinear,
                square(224),
                IMAGENET_MEAN,
                IMAGENET_STD,
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
        let is_dino3 = processor == Processor::Dino3;
        let is_square_alone = matches!(target, Target::Both(_));
        if is_dino3 && (do_crop || filter == Filter::Lanczos || !is_square_alone) {
            let message = "asks a DINOv3ViTImageProcessor for a crop, for Lanczos's filter or for a `shortest_edge`, \
                           which are not supported of it";
            return Err(Error::weights(&path, message));
        }
        let is_efficient_net = processor == Processor::EfficientNet;
        let steps = SampleSteps {
            factor: settings
                .do_rescale
                .unwrap_or(true)
                .then(|| settings.rescale_factor.unwrap_or(1.0 / 255.0)),
            offset: is_efficient_net && settings.rescale_offset.unwrap_or(false),
            normalize: settings.do_normalize.unwrap_or(true) && !is_dino3,
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
            crop: do_crop.then_some(Crop {
                size: crop,
                rounding: Rounding::Transformers,
                fill: 0,
            }),
            tables: [0, 1, 2].map(|channel| steps.table(mean[channel], std[channel])),
            unrounded: is_dino3.then_some(match settings.do_normalize {
                Some(false) => [[0.0; 3], [1.0; 3]],
                _ => [mean, std],
            }),
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
            Some((Target::LongestEdge(edge), filter)) => {
                let scale = width.max(height) as f64 / edge as f64;
                let side = |side: usize| ((side as f64 / scale).round_ties_even() as usize).max(1);
                let size = Size {
                    height: side(height),
                    width: side(width),
                };
                (size, filter)
            }
        };
        let (crop, rounding, fill) = match self.crop {
            Some(crop) => (crop.size, crop.rounding, crop.fill),
            None => (size, Rounding::Transformers, 0),
        };
        let rows = Overlap::new(size.height, crop.height, rounding);
        let columns = Overlap::new(size.width, crop.width, rounding);
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
        // A crop larger than the image is filled up, with black as a rule.
        let mut samples = vec![fill; crop.height * crop.width * 3];
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
        if let Some([mean, std]) = &self.unrounded
            && !images.is_empty()
        {
            let column = |values: &[f32; 3]| Tensor::from_slice(values).view([1, 3, 1, 1]);
            let resized = images.iter().map(|image| self.resize_numbers(image));
            let resized = resized.collect::<Result<Vec<_>>>()?;
            if let Some(other) = resized.iter().find(|one| one.size() != resized[0].size()) {
                return Err(self.of_two_sizes(&resized[0].size()[2..], &other.size()[2..]));
            }
            return Ok((Tensor::cat(&resized, 0) - column(mean)) / column(std)); // [n, 3, h, w]
        }
        let cropped: Vec<_> = images
            .par_iter()
            .map(|image| self.crop(image))
            .collect::<Result<_>>()?;
        let (height, width) = cropped.first().map_or((0, 0), |first| (first.0, first.1));
        if let Some(other) = cropped
            .iter()
            .find(|crop| (crop.0, crop.1) != (height, width))
        {
            let side = |size: usize| size as i64;
            let (one, other) = ((height, width), (other.0, other.1));
            return Err(self.of_two_sizes(&[one.0, one.1].map(side), &[other.0, other.1].map(side)));
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

    /// The refusal of images that have two sizes, height and width, after the resizing.
    fn of_two_sizes(&self, one: &[i64], other: &[i64]) -> Error {
        let message = format!(
            "does not bring all images to one size: {}x{} and {}x{}",
            one[1], one[0], other[1], other[0]
        );
        Error::weights(&self.path, message)
            .with_hint("set `do_center_crop` or a `size` with both height and width")
    }

    /// The numbers of one image in its new size, f32 `[1, 3, h, w]`, by libtorch's resizing with antialiasing.
    fn resize_numbers(&self, image: &RgbImage) -> Result<Tensor> {
        let (width, height) = (i64::from(image.width()), i64::from(image.height()));
        if width == 0 || height == 0 {
            return Err(Error::config("an image without pixels cannot be encoded"));
        }
        let numbers = image
            .as_raw()
            .iter()
            .enumerate()
            .map(|(place, &sample)| self.tables[place % 3][usize::from(sample)]);
        let numbers: Vec<f32> = numbers.collect();
        let numbers = Tensor::from_slice(&numbers)
            .view([1, height, width, 3])
            .permute([0, 3, 1, 2])
            .contiguous(); // [1, 3, height, width]
        let Some((target, filter)) = self.resize else {
            return Ok(numbers);
        };
        let size = match target {
            Target::Both(size) => size,
            // Refused where the settings are read.
            Target::ShortestEdge(edge) | Target::LongestEdge(edge) => Size {
                height: edge,
                width: edge,
            },
        };
        let size = [size.height as i64, size.width as i64];
        Ok(if size == [height, width] {
            numbers
        } else if filter == Filter::Bicubic {
            numbers.internal_upsample_bicubic2d_aa(size, false, None, None)
        } else {
            numbers.internal_upsample_bilinear2d_aa(size, false, None, None)
        })
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
    fn new(size: usize, crop: usize, rounding: Rounding) -> Self {
        let torchvision = rounding == Rounding::Torchvision;
        if crop <= size {
            let spare = size - crop;
            Self {
                source: if torchvision {
                    (spare as f64 / 2.0).round_ties_even() as usize
                } else {
                    spare / 2
                },
                target: 0,
                count: crop,
            }
        } else {
            let spare = crop - size;
            Self {
                source: 0,
                target: if torchvision {
                    spare / 2
                } else {
                    spare.div_ceil(2)
                },
                count: size,
            }
        }
    }
}
