//! Does a model of the emoji world draw what its captions ask for?

use std::collections::BTreeMap;
use std::path::PathBuf;

use image::RgbImage;
use tch::{Device, Kind};

use super::sample::check_guidance;
use crate::config::SamplerName;
use crate::data::world::{Scene, Split, Variation, World};
use crate::error::{Error, Result};
use crate::jobs::Display;
use crate::jobs::open::image::{Beside, open};
use crate::models::diffusion::pipeline::{Pipeline, Request, SampleSettings, to_rgb};
use crate::models::encoders::DualEncoder;
use crate::ops::random::derive_seed;
use crate::rewards::zero_shot::{Recognised, ZeroShot};

/// A model, the captions that it draws, and who looks at the images.
#[derive(Clone, Debug)]
pub struct WorldProtocol {
    /// A model folder in Hugging Face layout, or a run.
    pub model: PathBuf,
    /// Folders of image-text encoders that say what they see.
    pub encoders: Vec<PathBuf>,
    /// Captions to draw, at least 1, with class, place and, for a fifth, colour at random.
    pub count: u64,
    /// Folder of the sprites.
    pub sprites: PathBuf,
    /// Seed of captions and images.
    pub seed: u64,
    /// The sampler.
    pub sampler: SamplerName,
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance; 1 is none.
    pub guidance: f64,
    /// Images denoised together, at least 1.
    pub batch: usize,
    /// Where models compute.
    pub device: Device,
    /// Type of the passes of the sampled model; encoders compute in f32.
    pub kind: Kind,
}

/// Shares of images in which an encoder recognised what is in them.
#[derive(Clone, Debug)]
pub struct Recognition {
    /// Name of the encoder.
    pub encoder: String,
    /// The images, in words.
    pub images: &'static str,
    /// Share with the class recognised.
    pub class: f64,
    /// Share with the background recognised.
    pub background: f64,
    /// Share with the whole caption recognised.
    pub caption: f64,
    /// Share with the class recognised, class by class.
    pub by_class: BTreeMap<String, f64>,
}

/// How much images are like a drawing that has a name, by an encoder: mean cosines with scenes of it.
#[derive(Clone, Debug)]
pub struct NameLikeness {
    /// Name of the encoder.
    pub encoder: String,
    /// Drawings with names.
    pub names: usize,
    /// Of images of the model whose caption says the name.
    pub named: f64,
    /// Of images of the same noise whose caption says the class alone.
    pub unnamed: f64,
    /// Of other scenes of the drawing itself.
    pub real: f64,
}

/// What a model of the world draws.
pub struct WorldJudgement {
    /// What encoders recognise.
    pub recognised: Vec<Recognition>,
    /// Whether a name draws its drawing; empty where no drawing has a name.
    pub names: Vec<NameLikeness>,
}

/// Scenes of a drawing that images are compared with, and as many that stand for the drawing itself.
const NAMED_SCENES: u64 = 4;

impl Recognition {
    fn new(
        encoder: String,
        images: &'static str,
        world: &World,
        scenes: &[Scene],
        found: &Recognised,
    ) -> Self {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let mut classes: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (scene, known) in scenes.iter().zip(&found.class) {
            let name = world.classes()[scene.class].clone();
            classes.entry(name).or_default().push(*known);
        }
        Self {
            encoder,
            images,
            class: mean(&found.class),
            background: mean(&found.background),
            caption: mean(&found.caption),
            by_class: classes.into_iter().map(|(k, v)| (k, mean(&v))).collect(),
        }
    }
}

/// Draws captions, and has every encoder recognise images of the model, real scenes, and real scenes of drawings that the
/// model was not trained on. Then draws every drawing by its name, and without.
///
/// # Errors
/// A guidance below 1, a model, an encoder or sprites that cannot be read.
pub fn judge(protocol: &WorldProtocol, display: &mut dyn Display) -> Result<WorldJudgement> {
    check_guidance(protocol.guidance)?;
    if protocol.count == 0 {
        return Err(Error::config("`--count` must be 1 or more"));
    }
    let (device, kind) = (protocol.device, protocol.kind);
    let world = World::open(&protocol.sprites)?;
    let encoders = protocol
        .encoders
        .iter()
        .map(|folder| DualEncoder::open(folder, device, Kind::Float))
        .collect::<Result<Vec<_>>>()?;
    for note in encoders.iter().flat_map(DualEncoder::assumed) {
        display.say(note);
    }
    let loaded = open(&protocol.model, &Beside::default(), device, kind)?;
    let seed = derive_seed(protocol.seed, "eval-world", &[]) as u64;
    let scenes = world.scenes(Split::Train, Variation::Scene, seed, 0..protocol.count);
    let held_out = world.scenes(Split::HeldOut, Variation::Scene, seed, 0..protocol.count);
    let captions: Vec<String> = scenes
        .iter()
        .map(|scene| world.caption(scene.class, Some(scene.background), scene.colour))
        .collect();
    let drawn = draw(protocol, &loaded.pipeline, &captions, display)?;
    let pictures =
        |scenes: &[Scene]| -> Vec<RgbImage> { scenes.iter().map(|s| s.image.clone()).collect() };
    let (real, unseen) = (pictures(&scenes), pictures(&held_out));

    let mut rows = Vec::new();
    for encoder in &encoders {
        let texts = ZeroShot::new(&world, encoder)?;
        for (what, images, scenes) in [
            ("drawn by the model", &drawn, &scenes),
            ("real scenes", &real, &scenes),
            ("real scenes of held-out drawings", &unseen, &held_out),
        ] {
            let found = texts.recognise(&encoder.encode_images(images)?, scenes);
            rows.push(Recognition::new(
                encoder.name(),
                what,
                &world,
                scenes,
                &found,
            ));
        }
    }
    Ok(WorldJudgement {
        recognised: rows,
        names: judge_names(protocol, &world, &loaded.pipeline, &encoders, display)?,
    })
}

/// Draws every drawing that has a name with it and without, each in a place of its own, and compares with scenes of it.
fn judge_names(
    protocol: &WorldProtocol,
    world: &World,
    pipeline: &Pipeline,
    encoders: &[DualEncoder],
    display: &mut dyn Display,
) -> Result<Vec<NameLikeness>> {
    let (mut sprites, mut named, mut unnamed) = (Vec::new(), Vec::new(), Vec::new());
    for (sprite, drawing) in world.sprites().iter().enumerate() {
        let place = sprite % world.backgrounds().len();
        if let Some(caption) = world.named_caption(sprite, place) {
            sprites.push(sprite);
            named.push(caption);
            unnamed.push(world.caption(drawing.class, Some(place), None));
        }
    }
    if sprites.is_empty() {
        return Ok(Vec::new());
    }
    let named = draw(protocol, pipeline, &named, display)?;
    let unnamed = draw(protocol, pipeline, &unnamed, display)?;
    let seed = derive_seed(protocol.seed, "eval-names", &[]) as u64;
    let scenes = |first: u64| -> Vec<RgbImage> {
        let each = sprites
            .iter()
            .flat_map(|&sprite| (first..first + NAMED_SCENES).map(move |index| (sprite, index)));
        each.map(|(sprite, index)| {
            let scene = world.scene_of(sprite, Variation::Scene, seed, index);
            scene.image
        })
        .collect()
    };
    let (compared, others) = (scenes(0), scenes(NAMED_SCENES));
    let likeness = |encoder: &DualEncoder| -> Result<NameLikeness> {
        let count = sprites.len() as i64;
        let compared = encoder
            .encode_images(&compared)?
            .view([count, NAMED_SCENES as i64, -1]);
        let compared = compared.mean_dim(1, false, Kind::Float); // [n, d]
        let mean = |images: &[RgbImage]| -> Result<f64> {
            let each = images.len() as i64 / count;
            let features = encoder.encode_images(images)?;
            let own = compared.repeat_interleave_self_int(each, 0, None);
            let cosines = (features * own).sum_dim_intlist(-1, false, Kind::Float);
            Ok(cosines.mean(Kind::Double).double_value(&[]))
        };
        Ok(NameLikeness {
            encoder: encoder.name(),
            names: sprites.len(),
            named: mean(&named)?,
            unnamed: mean(&unnamed)?,
            real: mean(&others)?,
        })
    };
    encoders.iter().map(likeness).collect()
}

/// An image for each caption.
fn draw(
    protocol: &WorldProtocol,
    pipeline: &Pipeline,
    prompts: &[String],
    display: &mut dyn Display,
) -> Result<Vec<RgbImage>> {
    let [height, width] = pipeline.native_size();
    let settings = SampleSettings {
        sampler: protocol.sampler.into(),
        steps: protocol.steps,
        guidance: protocol.guidance,
        width,
        height,
        batch: protocol.batch,
    };
    let requests: Vec<Request> = (0..prompts.len() as u64)
        .map(|index| Request {
            row: index as i64,
            seed: derive_seed(protocol.seed, "eval-world", &[index]) as u64,
        })
        .collect();
    let mut images = Vec::with_capacity(prompts.len());
    let mut advance = |done, total| {
        display.advance("denoising steps of images", done, total);
        Ok(())
    };
    pipeline.sample(
        &pipeline.encode_prompts(prompts, width, height)?,
        &pipeline.encode_negative(&[String::new()], width, height)?,
        &requests,
        &settings,
        &mut advance,
        |_, image| {
            images.push(to_rgb(&image.to_device(Device::Cpu)));
            Ok(())
        },
    )?;
    Ok(images)
}
