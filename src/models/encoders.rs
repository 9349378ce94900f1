//! The encoders that judge images, behind one interface: a [`DualEncoder`] puts images and texts into one space
//! (CLIP or ALIGN), an [`ImageEncoder`] compares images alone (DINO). All vectors are f32 of length 1, so that a
//! dot product is a cosine. Encoders count what they encode, and know the hash of their weights.

use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};

use image::RgbImage;
use tch::{Device, Kind, Tensor};

use super::align::{Align, AlignConfig};
use super::clip::{Clip, ClipConfig};
use super::dino::{Vit, VitConfig};
use super::json;
use super::preprocess::{Preprocessor, Processor};
use super::prompt_notes::notes;
use super::recognize::not_a;
use super::tokenizer::Tokenizer;
use super::weights::{Checkpoint, Loader};
use crate::error::{Error, Result};

/// Images or texts that go through a model at once; bounds memory, not results.
const SLICE: usize = 32;

/// The image sizes that a model takes.
#[derive(Clone, Copy)]
enum Sides {
    Exactly(i64),
    AtLeast(i64),
}

/// Where weights come from.
#[derive(Clone, Copy)]
enum Origin {
    Stored,
    /// Drawn from a seed.
    Fresh(u64),
}

/// The fields that both kinds of encoder keep beside their model.
struct Source {
    folder: PathBuf,
    preprocessor: Preprocessor,
    loader: Loader,
    device: Device,
    kind: Kind,
    images: Cell<u64>,
    sha256: OnceCell<String>,
}

impl Source {
    fn open(
        folder: &Path,
        processor: Processor,
        device: Device,
        kind: Kind,
        origin: Origin,
    ) -> Result<Self> {
        let loader = match origin {
            Origin::Stored => {
                let checkpoint = Checkpoint::open_component(folder, "model", None)?;
                Loader::new(checkpoint, device, kind)
            }
            Origin::Fresh(seed) => Loader::fresh(&folder.join("config.json"), &[], seed, device),
        };
        Ok(Self {
            folder: folder.to_owned(),
            preprocessor: Preprocessor::open(folder, processor)?,
            loader,
            device,
            kind,
            images: Cell::new(0),
            sha256: OnceCell::new(),
        })
    }

    /// `[n, width]` by a model that takes images of `sides`.
    fn encode_images(
        &self,
        images: &[RgbImage],
        width: i64,
        sides: Sides,
        features: impl Fn(&Tensor) -> Tensor,
    ) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let mut rows = vec![Tensor::zeros([0, width], (Kind::Float, self.device))];
        for slice in images.chunks(SLICE) {
            let pixels = self.preprocessor.pixels(slice)?; // [n, 3, h, w]
            let shape = pixels.size();
            let (height, width) = (shape[2], shape[3]);
            let wanted = match sides {
                Sides::Exactly(side) if (height, width) != (side, side) => {
                    Some(format!("{side}x{side}"))
                }
                Sides::AtLeast(side) if height.min(width) < side => {
                    Some(format!("{side}x{side} or more"))
                }
                _ => None,
            };
            if let Some(wanted) = wanted {
                let message = format!(
                    "makes images of {width}x{height} pixels, but the model takes {wanted}"
                );
                return Err(Error::weights(self.preprocessor.path(), message));
            }
            let pixels = pixels.to_device(self.device).to_kind(self.kind);
            rows.push(unit(&features(&pixels))); // [n, d]
            self.images.set(self.images.get() + slice.len() as u64);
        }
        Ok(Tensor::cat(&rows, 0))
    }

    fn weights_sha256(&self) -> &str {
        self.sha256
            // Weights that cannot be read any more have no hash, which equals that of no others.
            .get_or_init(|| self.loader.checkpoint().sha256().unwrap_or_default())
    }

    /// The folder's name; for a snapshot in Hugging Face's cache the repository's.
    fn name(&self) -> String {
        let part = |path: Option<&Path>| {
            let name = path.and_then(Path::file_name).unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let repository = part(self.folder.ancestors().nth(2));
        match repository.strip_prefix("models--") {
            Some(repository) => repository.replace("--", "/"),
            None => part(Some(&self.folder)),
        }
    }
}

/// Rows of length 1 in f32, `[n, d]`.
fn unit(features: &Tensor) -> Tensor {
    let features = features.to_kind(Kind::Float);
    let lengths = features.norm_scalaropt_dim(2, [-1], true); // [n, 1]
    features / lengths.clamp_min(f64::from(f32::MIN_POSITIVE))
}

/// The folder's `model_type`; `wanted` is what is needed there, in words.
fn model_type(folder: &Path, wanted: &str) -> Result<String> {
    let path = folder.join("config.json");
    if !path.exists() {
        return Err(not_a(folder, wanted));
    }
    let object = json::read_object(&path)?;
    let name = object.get("model_type").and_then(serde_json::Value::as_str);
    name.map(str::to_owned).ok_or_else(|| not_a(folder, wanted))
}

enum Dual {
    Clip(Box<Clip>),
    Align(Box<Align>),
}

/// Tokens that ALIGN reads of a text: the length it was trained with, though its table has more positions.
const ALIGN_TOKENS: i64 = 64;

/// Encodes images and texts into one space.
pub struct DualEncoder {
    model: Dual,
    tokenizer: Tokenizer,
    source: Source,
    width: i64,
    sides: Sides,
    texts: Cell<u64>,
}

impl DualEncoder {
    /// Opens a `CLIPModel` or `AlignModel` folder: `config.json`, weights, tokenizer files and
    /// `preprocessor_config.json`. The model runs in `kind` on `device`.
    ///
    /// # Errors
    /// A file is missing or broken, or the folder holds another kind of model.
    pub fn open(folder: &Path, device: Device, kind: Kind) -> Result<Self> {
        Self::from_origin(folder, device, kind, Origin::Stored)
    }

    /// The model that the files in `folder` describe, with f32 weights as training from scratch begins with them.
    ///
    /// # Errors
    /// As [`DualEncoder::open`], but weights are not needed.
    pub fn fresh(folder: &Path, seed: u64, device: Device) -> Result<Self> {
        let encoder = Self::from_origin(folder, device, Kind::Float, Origin::Fresh(seed))?;
        let loader = &encoder.source.loader;
        match &encoder.model {
            Dual::Clip(_) => drop(loader.tensor("logit_scale", &[])?),
            Dual::Align(_) => {
                drop(loader.tensor("temperature", &[])?);
                // Nothing reads the pooler, but transformers misses it.
                let width = AlignConfig::open(&folder.join("config.json"))?
                    .text
                    .hidden_size;
                let pooler = loader.pp("text_model.pooler.dense");
                drop(pooler.tensor("weight", &[width, width])?);
                drop(pooler.tensor("bias", &[width])?);
            }
        }
        Ok(encoder)
    }

    fn from_origin(folder: &Path, device: Device, kind: Kind, origin: Origin) -> Result<Self> {
        let path = folder.join("config.json");
        let texts = Cell::new(0);
        let wanted = "a model that encodes images and texts";
        match model_type(folder, wanted)?.as_str() {
            "clip" => {
                let config = ClipConfig::open(&path)?;
                let source = Source::open(folder, Processor::Clip, device, kind, origin)?;
                let (positions, vocab) =
                    (config.text.max_position_embeddings, config.text.vocab_size);
                Ok(Self {
                    model: Dual::Clip(Box::new(Clip::load(&source.loader, &config)?)),
                    tokenizer: Tokenizer::open(folder, positions, vocab)?,
                    source,
                    width: config.projection_dim,
                    sides: Sides::Exactly(config.vision.image_size),
                    texts,
                })
            }
            "align" => {
                let config = AlignConfig::open(&path)?;
                let source = Source::open(folder, Processor::EfficientNet, device, kind, origin)?;
                let (positions, vocab) =
                    (config.text.max_position_embeddings, config.text.vocab_size);
                Ok(Self {
                    model: Dual::Align(Box::new(Align::load(&source.loader, &config)?)),
                    tokenizer: Tokenizer::open(folder, positions.min(ALIGN_TOKENS), vocab)?,
                    source,
                    width: config.projection_dim,
                    sides: Sides::AtLeast(config.vision.smallest_side()),
                    texts,
                })
            }
            _ => Err(not_a(folder, "a CLIP or ALIGN folder")),
        }
    }

    /// Images to `[n, d]`, f32, rows of length 1.
    ///
    /// # Errors
    /// An image has no pixels, or the preprocessing settings do not fit the model.
    pub fn encode_images(&self, images: &[RgbImage]) -> Result<Tensor> {
        self.source
            .encode_images(images, self.width, self.sides, |pixels| match &self.model {
                Dual::Clip(model) => model.image_features(pixels),
                Dual::Align(model) => model.image_features(pixels, false),
            })
    }

    /// Training: preprocessed pixels `[n, 3, h, w]` to `[n, d]`, f32, rows of length 1, with gradient.
    pub fn image_features(&self, pixels: &Tensor) -> Tensor {
        unit(&match &self.model {
            Dual::Clip(model) => model.image_features(pixels),
            Dual::Align(model) => model.image_features(pixels, true),
        })
    }

    /// Training: texts to `[n, d]`, f32, rows of length 1, with gradient.
    ///
    /// # Errors
    /// The tokenizer is not this model's.
    pub fn text_features(&self, texts: &[String]) -> Result<Tensor> {
        let encoded = self.tokenizer.encode(texts)?;
        let device = self.source.device;
        // Padding after the longest text changes nothing but the time it takes.
        let ids = encoded.ids.narrow(1, 0, encoded.longest).to_device(device); // [n, t]
        let features = match &self.model {
            Dual::Clip(model) => model.text_features(&ids),
            Dual::Align(model) => {
                let mask = encoded.mask.narrow(1, 0, encoded.longest);
                model.text_features(&ids, &mask.to_device(device))
            }
        };
        Ok(unit(&features))
    }

    /// The tensors that were loaded or made, under their checkpoint names.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        self.source.loader.parameters()
    }

    /// Preprocessed pixels of images, f32 `[n, 3, h, w]` on the CPU.
    ///
    /// # Errors
    /// An image has no pixels.
    pub fn pixels(&self, images: &[RgbImage]) -> Result<Tensor> {
        self.source.preprocessor.pixels(images)
    }

    /// Texts to `[n, d]`, f32, rows of length 1. A text that is too long is judged by its beginning.
    ///
    /// # Errors
    /// The tokenizer is not this model's.
    pub fn encode_texts(&self, texts: &[String]) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let device = self.source.device;
        let mut rows = vec![Tensor::zeros([0, self.width], (Kind::Float, device))];
        for slice in texts.chunks(SLICE) {
            rows.push(self.text_features(slice)?); // [n, d]
            self.texts.set(self.texts.get() + slice.len() as u64);
        }
        Ok(Tensor::cat(&rows, 0))
    }

    /// Notes on the parts of these texts that the encoder does not read, a sentence each; `name` is what they call it.
    ///
    /// # Errors
    /// The tokenizer is not this model's.
    pub fn prompt_notes(&self, name: &str, texts: &[String]) -> Result<Vec<String>> {
        notes(name, &self.tokenizer, texts)
    }

    /// The model's own logits of images and texts from their cosines: times the scale that it has learnt, `exp(logit_scale)`
    /// or `1 / temperature`. PickScore (Kirstain et al. 2023, arXiv 2305.01569, section 4) is such a logit.
    ///
    /// # Errors
    /// The weights have no such scale.
    pub fn logits(&self, cosines: &[f64]) -> Result<Vec<f64>> {
        let stored = |name: &str| {
            let tensor = self.source.loader.checkpoint().tensor(name)?;
            Ok::<_, Error>(tensor.to_kind(Kind::Double).view(-1).double_value(&[0]))
        };
        let scale = match &self.model {
            Dual::Clip(_) => stored("logit_scale")?.exp(),
            Dual::Align(_) => 1.0 / stored("temperature")?,
        };
        Ok(cosines.iter().map(|cosine| scale * cosine).collect())
    }

    /// Size of the vectors.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Images encoded so far.
    pub fn image_encodes(&self) -> u64 {
        self.source.images.get()
    }

    /// Texts encoded so far.
    pub fn text_encodes(&self) -> u64 {
        self.texts.get()
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

/// Encodes images alone: DINO's vision transformer.
pub struct ImageEncoder {
    model: Vit,
    source: Source,
    width: i64,
    side: i64,
}

impl ImageEncoder {
    /// Opens a `ViTModel` folder: `config.json`, weights and `preprocessor_config.json`. The model runs in `kind` on
    /// `device`.
    ///
    /// # Errors
    /// A file is missing or broken, or the folder holds another kind of model.
    pub fn open(folder: &Path, device: Device, kind: Kind) -> Result<Self> {
        let path = folder.join("config.json");
        let wanted = "a vision transformer of the type `vit`, such as facebook/dino-vits16,";
        if model_type(folder, wanted)? != "vit" {
            return Err(not_a(folder, wanted));
        }
        let config = VitConfig::open(&path)?;
        let source = Source::open(folder, Processor::Vit, device, kind, Origin::Stored)?;
        Ok(Self {
            model: Vit::load(&source.loader, &config)?,
            source,
            width: config.hidden_size,
            side: config.image_size,
        })
    }

    /// Images to `[n, d]`, f32, rows of length 1.
    ///
    /// # Errors
    /// An image has no pixels, or the preprocessing settings do not fit the model.
    pub fn encode_images(&self, images: &[RgbImage]) -> Result<Tensor> {
        self.source
            .encode_images(images, self.width, Sides::Exactly(self.side), |pixels| {
                self.model.forward(pixels)
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
