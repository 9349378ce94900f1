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
/// model was not trained on.
///
/// # Errors
/// A guidance below 1, a model, an encoder or sprites that cannot be read.
pub fn judge(protocol: &WorldProtocol, display: &mut dyn Display) -> Result<Vec<Recognition>> {
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
    let drawn = draw(protocol, &world, &loaded.pipeline, &scenes, display)?;
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
    Ok(rows)
}

/// An image for each scene's caption.
fn draw(
    protocol: &WorldProtocol,
    world: &World,
    pipeline: &Pipeline,
    scenes: &[Scene],
    display: &mut dyn Display,
) -> Result<Vec<RgbImage>> {
    let prompts: Vec<String> = scenes
        .iter()
        .map(|scene| world.caption(scene.class, Some(scene.background), scene.colour))
        .collect();
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
        display.advance("generate", done, total);
        Ok(())
    };
    pipeline.sample(
        &pipeline.encode_prompts(&prompts, width, height)?,
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
