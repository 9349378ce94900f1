//! The encoders, and what they say of a run's images.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use image::RgbImage;
use serde::Serialize;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::super::candidates::check_finite;
use super::super::progress::Progress;
use super::DreambenchArgs;
use super::plan::Plan;
use super::sample::{Model, Sampling};
use crate::data::photo;
use crate::error::{Error, Result};
use crate::eval::dreambench::{
    DualFeatures, Features, ImageFeatures, Oracle, SubjectScores, oracle, score,
};
use crate::models::encoders::{DualEncoder, ImageEncoder};

/// Images decoded at a time, so that many do not fill memory.
const CHUNK: usize = 64;

/// The encoders of the protocol. A folder that serves twice is opened once, and its images are encoded once.
pub(super) struct Judges {
    clip: PathBuf,
    dino: Option<(PathBuf, ImageEncoder)>,
    duals: BTreeMap<PathBuf, DualEncoder>,
    /// Base models' images: subjects of one class have the same prompts, so the same images.
    base: HashMap<BaseKey, Rc<Encoded>>,
}

/// What decides the base model's images of a run, and their features.
#[derive(PartialEq, Eq, Hash)]
struct BaseKey {
    origin: String,
    prompts: Vec<String>,
    reward: PathBuf,
}

/// What was found out about one run.
pub(super) struct Judged {
    pub(super) oracle: Oracle,
    pub(super) scores: SubjectScores,
    pub(super) base: Option<SubjectScores>,
    /// Where the base model's images are.
    pub(super) base_folder: Option<PathBuf>,
    /// Width and height of the images.
    pub(super) size: (u32, u32),
}

/// Images under all encoders that judge a run: `[n, d]` each.
struct Encoded {
    clip: Tensor,
    dino: Option<Tensor>,
    /// `None` where CLIP gives the reward too.
    reward: Option<Tensor>,
    size: (u32, u32),
    folder: PathBuf,
}

impl Judges {
    pub(super) fn open(args: &DreambenchArgs, plans: &[Plan], device: Device) -> Result<Self> {
        check_folder(
            &args.clip,
            "`--clip` takes the folder of a CLIPModel, such as openai/clip-vit-base-patch16",
        )?;
        if let Some(dino) = &args.dino {
            check_folder(
                dino,
                "`--dino` takes the folder of a ViTModel, such as facebook/dino-vits16",
            )?;
        }
        let mut duals = BTreeMap::new();
        for folder in plans.iter().map(|plan| &plan.reward).chain([&args.clip]) {
            check_folder(folder, "give the reward encoder's folder with `--reward`")?;
            if let Entry::Vacant(entry) = duals.entry(place(folder)) {
                entry.insert(DualEncoder::open(folder, device, Kind::Float)?);
            }
        }
        let dino = match &args.dino {
            Some(folder) => Some((
                folder.clone(),
                ImageEncoder::open(folder, device, Kind::Float)?,
            )),
            None => None,
        };
        Ok(Self {
            clip: place(&args.clip),
            dino,
            duals,
            base: HashMap::new(),
        })
    }

    /// Judges a run's images, and its base model's where that is asked for.
    pub(super) fn judge(
        &mut self,
        plan: &Plan,
        with_base: bool,
        sampling: &mut Sampling,
        progress: &mut Progress,
    ) -> Result<Judged> {
        let reward = place(&plan.reward);
        let photos = self.encode(&plan.manifest.subject.photos, &reward, Path::new(""), None)?;
        let texts = Texts {
            clip: self.texts(&self.clip, &plan.texts)?,
            with_token: self.texts(&self.clip, &plan.prompts)?,
            reward: self.texts(&reward, &plan.texts)?,
        };
        let files = sampling.images(plan, Model::Tuned, &plan.folder, progress)?;
        let images = self.encode(&files, &reward, &plan.folder, Some(progress))?;
        let (scores, oracle) = scored(&plan.prompts, &photos, &images, &texts);
        let base = if with_base {
            Some(self.base_images(plan, &reward, sampling, progress)?)
        } else {
            None
        };
        Ok(Judged {
            oracle,
            scores,
            base: base
                .as_ref()
                .map(|images| scored(&plan.prompts, &photos, images, &texts).0),
            base_folder: base.map(|images| images.folder.clone()),
            size: images.size,
        })
    }

    fn base_images(
        &mut self,
        plan: &Plan,
        reward: &Path,
        sampling: &mut Sampling,
        progress: &mut Progress,
    ) -> Result<Rc<Encoded>> {
        let key = BaseKey {
            origin: sampling.origin(plan, Model::Base),
            prompts: plan.prompts.clone(),
            reward: reward.to_owned(),
        };
        if let Some(known) = self.base.get(&key) {
            return Ok(Rc::clone(known));
        }
        let folder = plan.folder.join("base");
        let files = sampling.images(plan, Model::Base, &folder, progress)?;
        let encoded = Rc::new(self.encode(&files, reward, &folder, Some(progress))?);
        self.base.insert(key, Rc::clone(&encoded));
        Ok(encoded)
    }

    /// Decodes every file once for all encoders.
    fn encode(
        &self,
        files: &[PathBuf],
        reward: &Path,
        folder: &Path,
        mut progress: Option<&mut Progress>,
    ) -> Result<Encoded> {
        let (mut clip, mut dino, mut rewards) = (Vec::new(), Vec::new(), Vec::new());
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
            clip.push(self.duals[&self.clip].encode_images(&images)?);
            check(&clip[clip.len() - 1], &self.clip)?;
            if let Some((folder, encoder)) = &self.dino {
                dino.push(encoder.encode_images(&images)?);
                check(&dino[dino.len() - 1], folder)?;
            }
            if reward != self.clip {
                rewards.push(self.duals[reward].encode_images(&images)?);
                check(&rewards[rewards.len() - 1], reward)?;
            }
            done += chunk.len() as u64;
            if let Some(progress) = progress.as_deref_mut() {
                progress.advance("scores", done, files.len() as u64);
            }
        }
        let join = |parts: &[Tensor]| (!parts.is_empty()).then(|| Tensor::cat(parts, 0)); // [n, d]
        Ok(Encoded {
            clip: Tensor::cat(&clip, 0),
            dino: join(&dino),
            reward: join(&rewards),
            size,
            folder: folder.to_owned(),
        })
    }

    fn texts(&self, encoder: &Path, texts: &[String]) -> Result<Tensor> {
        let features = self.duals[encoder].encode_texts(texts)?; // [p, d]
        check_finite(&features, encoder, |row| format!("prompt `{}`", texts[row]))?;
        Ok(features)
    }

    /// The encoders that judge a run.
    pub(super) fn encoders(&self, plan: &Plan) -> Vec<(&'static str, EncoderReport)> {
        let dual = |folder: &Path| {
            let encoder = &self.duals[folder];
            EncoderReport::new(folder, encoder.name(), encoder.weights_sha256())
        };
        let mut reports = vec![("clip", dual(&self.clip))];
        if let Some((folder, encoder)) = &self.dino {
            let report = EncoderReport::new(folder, encoder.name(), encoder.weights_sha256());
            reports.push(("dino", report));
        }
        reports.push(("reward", dual(&place(&plan.reward))));
        reports
    }

    /// Images and texts encoded so far, by all encoders.
    pub(super) fn encodes(&self) -> (u64, u64) {
        let images: u64 = self.duals.values().map(DualEncoder::image_encodes).sum();
        let dino = self
            .dino
            .as_ref()
            .map_or(0, |(_, encoder)| encoder.image_encodes());
        (
            images + dino,
            self.duals.values().map(DualEncoder::text_encodes).sum(),
        )
    }
}

/// Which encoder it was, and how it saw images: published scores differ in the resizing too.
#[derive(Serialize)]
pub(super) struct EncoderReport {
    pub(super) name: String,
    pub(super) weights_sha256: String,
    preprocessing: Option<Value>,
}

impl EncoderReport {
    fn new(folder: &Path, name: String, weights_sha256: &str) -> Self {
        let read = |file: &str| fs::read(folder.join(file)).ok();
        let text = read("preprocessor_config.json").or_else(|| read("processor_config.json"));
        Self {
            name,
            weights_sha256: weights_sha256.to_owned(),
            preprocessing: text.and_then(|text| serde_json::from_slice(&text).ok()),
        }
    }
}

/// Refuses a folder that is not there, before its loader asks for one file of it.
fn check_folder(folder: &Path, hint: &str) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    Err(Error::weights(folder, "no such encoder folder").with_hint(hint))
}

/// A folder's own name, by whatever path it is reached.
fn place(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}

/// Features of prompts, `[p, d]` each.
struct Texts {
    clip: Tensor,
    with_token: Tensor,
    reward: Tensor,
}

fn scored(
    prompts: &[String],
    photos: &Encoded,
    images: &Encoded,
    texts: &Texts,
) -> (SubjectScores, Oracle) {
    let pair = |references: &Tensor, images: &Tensor| ImageFeatures {
        references: references.shallow_clone(),
        images: images.shallow_clone(),
    };
    let clip = DualFeatures {
        images: pair(&photos.clip, &images.clip),
        texts: texts.clip.shallow_clone(),
    };
    let reward = DualFeatures {
        images: match (&photos.reward, &images.reward) {
            (Some(photos), Some(images)) => pair(photos, images),
            _ => pair(&photos.clip, &images.clip),
        },
        texts: texts.reward.shallow_clone(),
    };
    let dino = match (&photos.dino, &images.dino) {
        (Some(photos), Some(images)) => Some(pair(photos, images)),
        _ => None,
    };
    let features = Features {
        clip: &clip,
        clip_texts_with_token: &texts.with_token,
        dino: dino.as_ref(),
        reward: &reward,
    };
    (score(prompts, &features), oracle(&features))
}
