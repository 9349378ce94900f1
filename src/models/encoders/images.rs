//! Encoders of images alone, by which likeness to photos is measured: DINO and its successors.

use std::path::Path;

use image::RgbImage;
use tch::{Device, Kind, Tensor};

use super::source::{Origin, Sides, Source, model_type};
use crate::error::Result;
use crate::models::dino::{Dino2, Dino2Config, Dino3, Dino3Config, Vit, VitConfig};
use crate::models::preprocess::{Preprocessor, Processor};
use crate::models::recognize::not_a;

enum Model {
    Dino(Vit),
    Dino2(Dino2),
    Dino3(Dino3),
}

/// Encodes images alone: the vision transformers of DINO, DINOv2 and DINOv3.
pub struct ImageEncoder {
    model: Model,
    source: Source,
    width: i64,
    sides: Sides,
}

impl ImageEncoder {
    /// Opens a folder of a `ViTModel`, `Dinov2Model`, `Dinov2WithRegistersModel` or `DINOv3ViTModel`: `config.json`, weights
    /// and `preprocessor_config.json`. The model runs in `kind` on `device`.
    ///
    /// # Errors
    /// A file is missing or broken, or the folder holds another kind of model.
    pub fn open(folder: &Path, device: Device, kind: Kind) -> Result<Self> {
        let path = folder.join("config.json");
        let wanted = "an encoder of images alone (DINO of the type `vit`, such as facebook/dino-vits16, DINOv2 or DINOv3)";
        let open = |processor| {
            let preprocessor = Preprocessor::open(folder, processor)?;
            Source::open(folder, preprocessor, (device, kind), Origin::Stored)
        };
        match model_type(folder, wanted)?.as_str() {
            "vit" => {
                let config = VitConfig::open(&path)?;
                let source = open(Processor::Vit)?;
                Ok(Self {
                    model: Model::Dino(Vit::load(&source.loader, &config)?),
                    source,
                    width: config.hidden_size,
                    sides: Sides::Exactly(config.image_size),
                })
            }
            "dinov2" | "dinov2_with_registers" => {
                let config = Dino2Config::open(&path)?;
                let source = open(Processor::Clip)?;
                Ok(Self {
                    model: Model::Dino2(Dino2::load(&source.loader, &config)?),
                    source,
                    width: config.hidden_size,
                    sides: Sides::AtLeast(config.patch_size),
                })
            }
            "dinov3_vit" => {
                let config = Dino3Config::open(&path)?;
                let source = open(Processor::Dino3)?;
                Ok(Self {
                    model: Model::Dino3(Dino3::load(&source.loader, &config)?),
                    source,
                    width: config.hidden_size,
                    sides: Sides::AtLeast(config.patch_size),
                })
            }
            _ => Err(not_a(folder, wanted)),
        }
    }

    /// Images to `[n, d]`, f32, rows of length 1.
    ///
    /// # Errors
    /// An image has no pixels, or the preprocessing settings do not fit the model.
    pub fn encode_images(&self, images: &[RgbImage]) -> Result<Tensor> {
        self.source
            .encode_images(images, self.width, self.sides, |pixels| match &self.model {
                Model::Dino(model) => model.forward(pixels),
                Model::Dino2(model) => model.forward(pixels),
                Model::Dino3(model) => model.forward(pixels),
            })
    }

    /// Size of the vectors.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Images encoded so far.
    pub fn image_encodes(&self) -> u64 {
        self.source.images.get()
    }

    /// SHA-256 of the weight files, computed on first use.
    pub fn weights_sha256(&self) -> &str {
        self.source.weights_sha256()
    }

    /// Name of the folder, or of the repository where the folder is a snapshot in Hugging Face's cache.
    pub fn name(&self) -> String {
        self.source.name()
    }
}
