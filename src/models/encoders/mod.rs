//! The encoders that judge images, behind one interface: a [`DualEncoder`] puts images and texts into one space
//! (CLIP, OpenCLIP, SigLIP or ALIGN), an [`ImageEncoder`] compares images alone (DINO and its successors). All vectors are
//! f32 of length 1, so that a dot product is a cosine. Encoders count what they encode, and know the hash of their weights.

mod images;
mod source;

use std::cell::Cell;
use std::path::Path;

use image::RgbImage;
use tch::{Device, Kind, Tensor};

pub use images::ImageEncoder;
use source::{Origin, SLICE, Sides, Source, model_type, unit};

use super::align::{Align, AlignConfig};
use super::clip::{Clip, ClipConfig};
use super::open_clip::{self, OpenClip};
use super::preprocess::{Preprocessor, Processor, has_settings};
use super::prompt_notes::notes;
use super::recognize::not_a;
use super::siglip::{Siglip, SiglipConfig};
use super::tokenizer::{self, Tokenizer};
use super::weights::Checkpoint;
use crate::error::{Error, Result};

enum Dual {
    Clip(Box<Clip>),
    Align(Box<Align>),
    Siglip(Box<Siglip>),
}

/// Tokens that ALIGN reads of a text: the length it was trained with, though its table has more positions.
const ALIGN_TOKENS: i64 = 64;

/// Tokens of the vocabulary that all of CLIP's models share.
const CLIP_TOKENS: i64 = 49408;

/// CLIP's image processor: that of the folder, or the one that all of CLIP's models share.
fn clip_preprocessor(
    folder: &Path,
    config: &ClipConfig,
    assumed: &mut Vec<String>,
) -> Result<Preprocessor> {
    if has_settings(folder) {
        return Preprocessor::open(folder, Processor::Clip);
    }
    let side = config.vision.image_size;
    assumed.push(format!(
        "`{}` has no `preprocessor_config.json`: images are resized and normalised as CLIP's are, the middle {side}x{side} pixels at a \
         shorter side of {side}",
        folder.display()
    ));
    Preprocessor::clip(folder, side)
}

/// CLIP's tokenizer: that of the folder, or the one that all of CLIP's models share.
fn clip_tokenizer(
    folder: &Path,
    config: &ClipConfig,
    assumed: &mut Vec<String>,
) -> Result<Tokenizer> {
    let (positions, vocab) = (config.text.max_position_embeddings, config.text.vocab_size);
    if tokenizer::is_in(folder) || vocab != CLIP_TOKENS {
        return Tokenizer::open(folder, positions, vocab);
    }
    assumed.push(format!(
        "`{}` has no tokenizer: CLIP's vocabulary is taken, which comes with preftune",
        folder.display()
    ));
    Tokenizer::clip(folder, positions, vocab)
}

/// SigLIP's tokenizer, which needs `tokenizer.json`: the pieces in `spiece.model` are not read.
fn siglip_tokenizer(folder: &Path, positions: i64, vocab: i64) -> Result<Tokenizer> {
    if !folder.join("tokenizer.json").exists() {
        return Err(Error::weights(folder, "no `tokenizer.json` in it").with_hint(
            "SigLIP's tokenizer is read from it, not from `spiece.model`; fetch it from the model's repository",
        ));
    }
    Tokenizer::open(folder, positions, vocab)?.of_siglip()
}

/// The weights of an encoder of images and texts, unread.
///
/// # Errors
/// A file is missing or broken, or holds another kind of model.
pub fn weights(path: &Path) -> Result<Checkpoint> {
    if open_clip::is_there(path) {
        open_clip::weights(path)
    } else {
        Checkpoint::open_component(path, "model", None)
    }
}

/// Encodes images and texts into one space.
pub struct DualEncoder {
    model: Dual,
    tokenizer: Tokenizer,
    source: Source,
    width: i64,
    sides: Sides,
    texts: Cell<u64>,
    assumed: Vec<String>,
}

impl DualEncoder {
    /// Opens a folder of a `CLIPModel`, `SiglipModel` or `AlignModel`: `config.json`, weights, tokenizer files and
    /// `preprocessor_config.json`; the last two of CLIP may be missing, see [`Self::assumed`]. Or a model of OpenCLIP, a folder
    /// or a file. The model runs in `kind` on `device`.
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
            Dual::Siglip(_) => {
                drop(loader.tensor("logit_scale", &[1])?);
                drop(loader.tensor("logit_bias", &[1])?);
            }
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
        if open_clip::is_there(folder) {
            return Self::of_open_clip(folder, (device, kind), origin);
        }
        let path = folder.join("config.json");
        let texts = Cell::new(0);
        let wanted = "a model that encodes images and texts";
        let open = |preprocessor| Source::open(folder, preprocessor, (device, kind), origin);
        match model_type(folder, wanted)?.as_str() {
            "clip" => {
                let config = ClipConfig::open(&path)?;
                let mut assumed = Vec::new();
                let source = open(clip_preprocessor(folder, &config, &mut assumed)?)?;
                let model = Clip::load(&source.loader, &config)?;
                let tokenizer = clip_tokenizer(folder, &config, &mut assumed)?;
                Ok(Self::of_clip(model, &config, tokenizer, source, assumed))
            }
            "siglip" => {
                let config = SiglipConfig::open(&path)?;
                let source = open(Preprocessor::open(folder, Processor::Siglip)?)?;
                let (positions, vocab) =
                    (config.text.max_position_embeddings, config.text.vocab_size);
                Ok(Self {
                    model: Dual::Siglip(Box::new(Siglip::load(&source.loader, &config)?)),
                    tokenizer: siglip_tokenizer(folder, positions, vocab)?,
                    source,
                    width: config.projection(),
                    sides: Sides::Exactly(config.vision.image_size),
                    texts,
                    assumed: Vec::new(),
                })
            }
            "align" => {
                let config = AlignConfig::open(&path)?;
                let source = open(Preprocessor::open(folder, Processor::EfficientNet)?)?;
                let (positions, vocab) =
                    (config.text.max_position_embeddings, config.text.vocab_size);
                Ok(Self {
                    model: Dual::Align(Box::new(Align::load(&source.loader, &config)?)),
                    tokenizer: Tokenizer::open(folder, positions.min(ALIGN_TOKENS), vocab)?,
                    source,
                    width: config.projection_dim,
                    sides: Sides::AtLeast(config.vision.smallest_side()),
                    texts,
                    assumed: Vec::new(),
                })
            }
            _ => Err(not_a(
                folder,
                "an encoder of images and texts (CLIP, OpenCLIP, SigLIP or ALIGN)",
            )),
        }
    }

    /// A model of OpenCLIP at `path`, a folder or a file.
    fn of_open_clip(path: &Path, (device, kind): (Device, Kind), origin: Origin) -> Result<Self> {
        let OpenClip {
            config,
            preprocessing,
            settings,
            assumed,
        } = OpenClip::open(path)?;
        let side = config.vision.image_size;
        let preprocessor = Preprocessor::open_clip(&settings, side, preprocessing)?;
        let stored = || open_clip::weights(path);
        let source = Source::with(path, preprocessor, (device, kind), origin, stored)?;
        let model = Clip::load(&source.loader, &config)?;
        let (positions, vocab) = (config.text.max_position_embeddings, config.text.vocab_size);
        // OpenCLIP reads CLIP's vocabulary from no file of the model.
        let tokenizer = if vocab == CLIP_TOKENS {
            Tokenizer::clip(path, positions, vocab)?
        } else {
            Tokenizer::open(path, positions, vocab)?
        };
        let tokenizer = tokenizer.of_open_clip()?;
        Ok(Self::of_clip(model, &config, tokenizer, source, assumed))
    }

    fn of_clip(
        model: Clip,
        config: &ClipConfig,
        tokenizer: Tokenizer,
        source: Source,
        assumed: Vec<String>,
    ) -> Self {
        Self {
            model: Dual::Clip(Box::new(model)),
            tokenizer,
            source,
            width: config.projection_dim,
            sides: Sides::Exactly(config.vision.image_size),
            texts: Cell::new(0),
            assumed,
        }
    }

    /// Assumptions on the model that no file of it confirms, a sentence each.
    pub fn assumed(&self) -> &[String] {
        &self.assumed
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
                Dual::Siglip(model) => model.image_features(pixels),
            })
    }

    /// Training: preprocessed pixels `[n, 3, h, w]` to `[n, d]`, f32, rows of length 1, with gradient.
    pub fn image_features(&self, pixels: &Tensor) -> Tensor {
        unit(&match &self.model {
            Dual::Clip(model) => model.image_features(pixels),
            Dual::Align(model) => model.image_features(pixels, true),
            Dual::Siglip(model) => model.image_features(pixels),
        })
    }

    /// Training: texts to `[n, d]`, f32, rows of length 1, with gradient.
    ///
    /// # Errors
    /// The tokenizer is not this model's.
    pub fn text_features(&self, texts: &[String]) -> Result<Tensor> {
        let encoded = self.tokenizer.encode(texts)?;
        let device = self.source.device;
        // Padding after the longest text changes nothing but the time it takes, except where it is read as text.
        let length = match &self.model {
            Dual::Siglip(_) => encoded.ids.size()[1],
            Dual::Clip(_) | Dual::Align(_) => encoded.longest,
        };
        let ids = encoded.ids.narrow(1, 0, length).to_device(device); // [n, t]
        let features = match &self.model {
            Dual::Clip(model) => model.text_features(&ids),
            Dual::Siglip(model) => model.text_features(&ids),
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
    /// or `1 / temperature`, plus `logit_bias` of SigLIP. PickScore (Kirstain et al. 2023, arXiv 2305.01569, section 4) is such
    /// a logit.
    ///
    /// # Errors
    /// The weights have no such scale.
    pub fn logits(&self, cosines: &[f64]) -> Result<Vec<f64>> {
        let stored = |name: &str| {
            let tensor = self.source.loader.checkpoint().tensor(name)?;
            Ok::<_, Error>(tensor.to_kind(Kind::Double).view(-1).double_value(&[0]))
        };
        let (scale, bias) = match &self.model {
            Dual::Clip(_) => (stored("logit_scale")?.exp(), 0.0),
            Dual::Align(_) => (1.0 / stored("temperature")?, 0.0),
            Dual::Siglip(_) => (stored("logit_scale")?.exp(), stored("logit_bias")?),
        };
        Ok(cosines.iter().map(|cosine| scale * cosine + bias).collect())
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
