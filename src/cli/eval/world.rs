//! `preftune eval world`: does a model of the emoji world draw what its captions ask for?

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use image::RgbImage;
use serde_json::{Value, json};
use tch::{Device, Kind};

use super::common::{JsonArgs, check_guidance};
use crate::cli::device::DeviceArgs;
use crate::cli::progress::Progress;
use crate::config::SamplerName;
use crate::data::world::{Scene, Split, Variation, World};
use crate::error::Result;
use crate::jobs;
use crate::jobs::Display as _;
use crate::models::diffusion::pipeline::{Pipeline, Request, SampleSettings, to_rgb};
use crate::models::encoders::DualEncoder;
use crate::ops::random::derive_seed;
use crate::rewards::zero_shot::{Recognised, ZeroShot};

#[derive(Args)]
pub(super) struct WorldArgs {
    /// A model folder in Hugging Face layout, or a run.
    #[arg(long, default_value = "assets/emoji-world", value_name = "FOLDER")]
    model: PathBuf,
    /// An image-text encoder that says what it sees; may be repeated.
    #[arg(long = "encoder", required = true, value_name = "FOLDER")]
    encoders: Vec<PathBuf>,
    /// Captions to draw, with class, place and, for a fifth, colour at random.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: u64,
    /// Folder of the sprites.
    #[arg(long, default_value = "assets/sprites", value_name = "FOLDER")]
    sprites: PathBuf,
    /// Seed of captions and images.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The sampler.
    #[arg(long, value_enum, default_value = "dpm++")]
    sampler: SamplerName,
    /// Denoising steps.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    steps: u64,
    /// Classifier-free guidance; 1 is none.
    #[arg(long, default_value_t = 5.0)]
    guidance: f64,
    /// Images denoised together.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: u64,
    #[command(flatten)]
    json: JsonArgs,
    /// No progress.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Shares of images in which class, background and whole caption were recognised, and class by class.
struct Shares {
    all: [f64; 3],
    classes: BTreeMap<String, f64>,
}

impl Shares {
    fn new(world: &World, scenes: &[Scene], found: &Recognised) -> Self {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let mut classes: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (scene, known) in scenes.iter().zip(&found.class) {
            let name = world.classes()[scene.class].clone();
            classes.entry(name).or_default().push(*known);
        }
        Self {
            all: [&found.class, &found.background, &found.caption].map(|all| mean(all)),
            classes: classes.into_iter().map(|(k, v)| (k, mean(&v))).collect(),
        }
    }
}

pub(super) fn run(args: &WorldArgs) -> Result<()> {
    check_guidance(args.guidance)?;
    let (device, kind) = args.device.resolve()?;
    let world = World::open(&args.sprites)?;
    let encoders = args
        .encoders
        .iter()
        .map(|folder| DualEncoder::open(folder, device, Kind::Float))
        .collect::<Result<Vec<_>>>()?;
    let loaded = jobs::open::image::open(&args.model, None, None, device, kind)?;
    let seed = derive_seed(args.seed, "eval-world", &[]) as u64;
    let scenes = world.scenes(Split::Train, Variation::Scene, seed, 0..args.count);
    let held_out = world.scenes(Split::HeldOut, Variation::Scene, seed, 0..args.count);
    let drawn = draw(args, &world, &loaded.pipeline, &scenes)?;
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
            rows.push((encoder.name(), what, Shares::new(&world, scenes, &found)));
        }
    }
    show(args, &rows)
}

/// An image for each scene's caption.
fn draw(
    args: &WorldArgs,
    world: &World,
    pipeline: &Pipeline,
    scenes: &[Scene],
) -> Result<Vec<RgbImage>> {
    let prompts: Vec<String> = scenes
        .iter()
        .map(|scene| world.caption(scene.class, Some(scene.background), scene.colour))
        .collect();
    let [height, width] = pipeline.native_size();
    let settings = SampleSettings {
        sampler: args.sampler.into(),
        steps: args.steps as usize,
        guidance: args.guidance,
        width,
        height,
        batch: args.batch as usize,
    };
    let requests: Vec<Request> = (0..prompts.len() as u64)
        .map(|index| Request {
            row: index as i64,
            seed: derive_seed(args.seed, "eval-world", &[index]) as u64,
        })
        .collect();
    let mut progress = Progress::new(args.quiet);
    let mut images = Vec::with_capacity(prompts.len());
    let mut advance = |done, total| {
        progress.advance("generate", done, total);
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

fn show(args: &WorldArgs, rows: &[(String, &str, Shares)]) -> Result<()> {
    let report: Vec<Value> = rows
        .iter()
        .map(|(encoder, what, Shares { all, classes })| {
            let [class, background, caption] = all;
            json!({
                "encoder": encoder,
                "images": what,
                "count": args.count,
                "class_accuracy": class,
                "background_accuracy": background,
                "caption_accuracy": caption,
                "class_accuracy_by_class": classes,
            })
        })
        .collect();
    let report = Value::Array(report);
    if !args.json.write(&report)? {
        return Ok(());
    }
    println!(
        "{:<12} {:<34} {:>8} {:>11} {:>9}",
        "encoder", "images", "class", "background", "caption"
    );
    for (encoder, what, Shares { all, .. }) in rows {
        let [class, background, caption] = all;
        println!("{encoder:<12} {what:<34} {class:>8.3} {background:>11.3} {caption:>9.3}");
    }
    println!("shares recognised of {} images each", args.count);
    Ok(())
}
