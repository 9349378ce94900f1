//! The encoders, and the features of a run's images under them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use image::RgbImage;
use serde::Serialize;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::plan::EvalPlan;
use super::sample::{Model, Sampling};
use crate::data::photo;
use crate::error::{Error, Result};
use crate::eval::dreambench::{DualFeatures, ImageFeatures};
use crate::jobs::Display;
use crate::jobs::open::encode::check_finite;
use crate::models::encoders::{DualEncoder, ImageEncoder};

/// Images decoded at a time, so that many do not fill memory.
const CHUNK: usize = 64;

/// The encoders. A folder that serves twice is opened once, and its images are encoded once.
pub(super) struct Judges {
    dino: Option<(PathBuf, ImageEncoder)>,
    duals: BTreeMap<PathBuf, DualEncoder>,
    /// Base models' images: subjects of one class have the same prompts, so the same images.
    base: HashMap<BaseKey, Rc<Encoded>>,
}

/// The key of a run's base images and their features.
#[derive(PartialEq, Eq, Hash)]
struct BaseKey {
    origin: String,
    prompts: Vec<String>,
    encoders: Vec<PathBuf>,
}

/// Images under all encoders that judge a run.
pub(super) struct Encoded {
    /// Under the encoders of images and texts, `[n, d]` each.
    duals: Vec<Tensor>,
    dino: Option<Tensor>,
    /// Width and height of the images.
    pub(super) size: (u32, u32),
    pub(super) folder: PathBuf,
}

/// Which of a plan's prompts images show.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// Those that are drawn, with the token.
    Subject,
    /// The same with the class word alone.
    Class,
}

impl Shown {
    /// The images' folder, below the model's own, and their prompts.
    fn of<'a>(self, plan: &'a EvalPlan, folder: &Path) -> (PathBuf, &'a [String]) {
        match self {
            Self::Subject => (folder.to_owned(), &plan.prompts),
            Self::Class => (folder.join("class"), &plan.texts),
        }
    }
}

impl Judges {
    /// Opens the encoders of images and texts, each named with the hint for where it is missing, and DINO.
    pub(super) fn open(
        duals: &[(&Path, &str)],
        dino: Option<&Path>,
        device: Device,
    ) -> Result<Self> {
        if let Some(dino) = dino {
            check_folder(
                dino,
                "`--dino` takes the folder of a ViTModel, such as facebook/dino-vits16, of a DINOv2 or of a DINOv3",
            )?;
        }
        let mut opened = BTreeMap::new();
        for (folder, hint) in duals {
            check_folder(folder, hint)?;
            if let Entry::Vacant(entry) = opened.entry(place(folder)) {
                entry.insert(DualEncoder::open(folder, device, Kind::Float)?);
            }
        }
        let dino = match dino {
            Some(folder) => Some((
                folder.to_owned(),
                ImageEncoder::open(folder, device, Kind::Float)?,
            )),
            None => None,
        };
        Ok(Self {
            dino,
            duals: opened,
            base: HashMap::new(),
        })
    }

    /// Says what the encoders assume of themselves.
    pub(super) fn say_assumed(&self, display: &mut dyn Display) {
        for note in self.duals.values().flat_map(DualEncoder::assumed) {
            display.say(note);
        }
    }

    fn dual(&self, folder: &Path) -> &DualEncoder {
        &self.duals[&place(folder)]
    }

    /// The run's photos.
    pub(super) fn photos(&self, plan: &EvalPlan, encoders: &[&Path]) -> Result<Encoded> {
        let photos = &plan.manifest.subject.photos;
        self.encode(photos, encoders, Path::new(""), None)
    }

    /// The tuned model's images; what is missing is sampled.
    pub(super) fn tuned(
        &self,
        plan: &EvalPlan,
        shown: Shown,
        encoders: &[&Path],
        sampling: &mut Sampling,
        display: &mut dyn Display,
    ) -> Result<Encoded> {
        let (folder, prompts) = shown.of(plan, &plan.folder);
        let files = sampling.images(plan, Model::Tuned, (&folder, prompts), display)?;
        self.encode(&files, encoders, &folder, Some(display))
    }

    /// The base model's images, from the same noise.
    pub(super) fn base(
        &mut self,
        plan: &EvalPlan,
        shown: Shown,
        encoders: &[&Path],
        sampling: &mut Sampling,
        display: &mut dyn Display,
    ) -> Result<Rc<Encoded>> {
        let (folder, prompts) = shown.of(plan, &plan.base_folder);
        let key = BaseKey {
            origin: sampling.origin(plan, Model::Base),
            prompts: prompts.to_vec(),
            encoders: encoders.iter().map(|folder| place(folder)).collect(),
        };
        if let Some(known) = self.base.get(&key) {
            return Ok(Rc::clone(known));
        }
        let files = sampling.images(plan, Model::Base, (&folder, prompts), display)?;
        let encoded = Rc::new(self.encode(&files, encoders, &folder, Some(display))?);
        self.base.insert(key, Rc::clone(&encoded));
        Ok(encoded)
    }

    /// Decodes every file once for all encoders.
    fn encode(
        &self,
        files: &[PathBuf],
        encoders: &[&Path],
        folder: &Path,
        mut display: Option<&mut dyn Display>,
    ) -> Result<Encoded> {
        // An encoder that serves in two roles encodes once.
        let mut features: BTreeMap<PathBuf, Vec<Tensor>> = encoders
            .iter()
            .map(|folder| (place(folder), Vec::new()))
            .collect();
        let mut by_dino = Vec::new();
        let (mut size, mut done) = ((0, 0), 0);
        for chunk in files.chunks(CHUNK) {
            let images: Vec<RgbImage> = photo::load_all(chunk)?
                .into_iter()
                .map(|photo| photo.image)
                .collect();
            size = images.first().map_or(size, RgbImage::dimensions);
            let check = |features: &Tensor, encoder: &Path| {
                check_finite(features, encoder, |row| {
                    format!("image `{}`", chunk[row].display())
                })
            };
            for (folder, parts) in &mut features {
                let encoded = self.duals[folder].encode_images(&images)?;
                check(&encoded, folder)?;
                parts.push(encoded);
            }
            if let Some((folder, encoder)) = &self.dino {
                let encoded = encoder.encode_images(&images)?;
                check(&encoded, folder)?;
                by_dino.push(encoded);
            }
            done += chunk.len() as u64;
            if let Some(display) = display.as_deref_mut() {
                display.advance("scores", done, files.len() as u64);
            }
        }
        let joined = |folder: &&Path| Tensor::cat(&features[&place(folder)], 0); // [n, d]
        Ok(Encoded {
            duals: encoders.iter().map(joined).collect(),
            dino: self.dino.as_ref().map(|_| Tensor::cat(&by_dino, 0)),
            size,
            folder: folder.to_owned(),
        })
    }

    /// Features of prompts, `[p, d]`.
    pub(super) fn texts(&self, encoder: &Path, texts: &[String]) -> Result<Tensor> {
        let features = self.dual(encoder).encode_texts(texts)?; // [p, d]
        check_finite(&features, encoder, |row| format!("prompt `{}`", texts[row]))?;
        Ok(features)
    }

    /// An encoder of images and texts, for the record.
    pub(super) fn report(&self, folder: &Path) -> EncoderReport {
        let encoder = self.dual(folder);
        EncoderReport::new(folder, encoder.name(), encoder.weights_sha256())
    }

    /// DINO, for the record.
    pub(super) fn dino_report(&self) -> Option<EncoderReport> {
        let (folder, encoder) = self.dino.as_ref()?;
        Some(EncoderReport::new(
            folder,
            encoder.name(),
            encoder.weights_sha256(),
        ))
    }

    /// The work so far, of all encoders and of `sampling`.
    pub(super) fn counts(&self, sampling: &Sampling) -> Counts {
        let images: u64 = self.duals.values().map(DualEncoder::image_encodes).sum();
        let dino = self
            .dino
            .as_ref()
            .map_or(0, |(_, encoder)| encoder.image_encodes());
        Counts {
            images_sampled: sampling.sampled,
            images_reused: sampling.reused,
            unet_sample_forwards: sampling.sample_forwards,
            images_encoded: images + dino,
            texts_encoded: self.duals.values().map(DualEncoder::text_encodes).sum(),
        }
    }
}

/// The work of a judgement.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Counts {
    /// Images that were sampled.
    pub images_sampled: u64,
    /// Images that were there already.
    pub images_reused: u64,
    /// Forward passes of the U-Net, image by image.
    pub unet_sample_forwards: u64,
    /// Images that were encoded, encoder by encoder.
    pub images_encoded: u64,
    /// Texts that were encoded, encoder by encoder.
    pub texts_encoded: u64,
}

impl Encoded {
    /// These images beside `photos` and prompts, by the encoder number `encoder`.
    pub(super) fn dual(&self, encoder: usize, photos: &Self, texts: &Tensor) -> DualFeatures {
        DualFeatures {
            images: ImageFeatures {
                references: photos.duals[encoder].shallow_clone(),
                images: self.duals[encoder].shallow_clone(),
            },
            texts: texts.shallow_clone(),
        }
    }

    /// These images beside `photos` by DINO.
    pub(super) fn by_dino(&self, photos: &Self) -> Option<ImageFeatures> {
        let (images, references) = (self.dino.as_ref()?, photos.dino.as_ref()?);
        Some(ImageFeatures {
            references: references.shallow_clone(),
            images: images.shallow_clone(),
        })
    }
}

/// Which encoder it was, and how it saw images: published scores differ in the resizing too.
#[derive(Clone, Debug, Serialize)]
pub struct EncoderReport {
    /// The encoder's name.
    pub name: String,
    /// SHA-256 of its weights.
    pub weights_sha256: String,
    /// The settings of its folder for images, as they stand there.
    pub preprocessing: Option<Value>,
}

impl EncoderReport {
    fn new(folder: &Path, name: String, weights_sha256: &str) -> Self {
        let read = |file: &str| fs::read(folder.join(file)).ok();
        let text = read("preprocessor_config.json")
            .or_else(|| read("processor_config.json"))
            .or_else(|| read("open_clip_config.json"));
        Self {
            name,
            weights_sha256: weights_sha256.to_owned(),
            preprocessing: text.and_then(|text| serde_json::from_slice(&text).ok()),
        }
    }
}

/// Refuses a folder that is not there, before its loader asks for one file of it.
fn check_folder(folder: &Path, hint: &str) -> Result<()> {
    // A model of OpenCLIP may be a file.
    if folder.exists() {
        return Ok(());
    }
    Err(Error::weights(folder, "no such encoder folder").with_hint(hint))
}

/// A folder's own name, by whatever path it is reached.
fn place(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}
