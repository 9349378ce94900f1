//! `preftune eval world`: does a model of the emoji world draw what its captions ask for?

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser as _};
use serde_json::{Value, json};

use super::common::JsonArgs;
use crate::cli::device::DeviceArgs;
use crate::cli::model::{named, named_or_installed};
use crate::cli::progress::Progress;
use crate::config::SamplerName;
use crate::error::Result;
use crate::installed::find;
use crate::jobs::eval::world::{NameLikeness, Recognition, WorldJudgement, WorldProtocol, judge};

#[derive(Args)]
pub(super) struct WorldArgs {
    /// A model folder in Hugging Face layout, or a run.
    #[arg(long, default_value = "assets/emoji-world", value_name = "FOLDER")]
    #[arg(value_parser = named_or_installed())]
    model: PathBuf,
    /// An image-text encoder that says what it sees; may be repeated.
    #[arg(long = "encoder", required = true, value_name = "FOLDER")]
    #[arg(value_parser = named())]
    encoders: Vec<PathBuf>,
    /// Captions to draw, with class, place and, for a fifth, colour at random.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: u64,
    /// Folder of the sprites.
    #[arg(long, default_value = "assets/sprites", value_name = "FOLDER")]
    #[arg(value_parser = PathBufValueParser::new().map(find))]
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

pub(super) fn run(args: &WorldArgs) -> Result<()> {
    let (device, kind) = args.device.resolve()?;
    let protocol = WorldProtocol {
        model: args.model.clone(),
        encoders: args.encoders.clone(),
        count: args.count,
        sprites: args.sprites.clone(),
        seed: args.seed,
        sampler: args.sampler,
        steps: args.steps as usize,
        guidance: args.guidance,
        batch: args.batch as usize,
        device,
        kind,
    };
    let judged = judge(&protocol, &mut Progress::new(args.quiet))?;
    show(args, &judged)
}

fn show(args: &WorldArgs, judged: &WorldJudgement) -> Result<()> {
    let rows = &judged.recognised;
    let report = |row: &Recognition| {
        json!({
            "encoder": row.encoder,
            "images": row.images,
            "count": args.count,
            "class_accuracy": row.class,
            "background_accuracy": row.background,
            "caption_accuracy": row.caption,
            "class_accuracy_by_class": row.by_class,
        })
    };
    let name = |row: &NameLikeness| {
        json!({
            "encoder": row.encoder,
            "names": row.names,
            "likeness_named": row.named,
            "likeness_unnamed": row.unnamed,
            "likeness_real": row.real,
        })
    };
    let report = json!({
        "recognised": rows.iter().map(report).collect::<Value>(),
        "names": judged.names.iter().map(name).collect::<Value>(),
    });
    if !args.json.write(&report)? {
        return Ok(());
    }
    println!(
        "{:<12} {:<34} {:>8} {:>11} {:>9}",
        "encoder", "images", "class", "background", "caption"
    );
    for Recognition {
        encoder,
        images,
        class,
        background,
        caption,
        ..
    } in rows
    {
        println!("{encoder:<12} {images:<34} {class:>8.3} {background:>11.3} {caption:>9.3}");
    }
    println!("shares recognised of {} images each", args.count);
    for row in &judged.names {
        println!(
            "{:<12} likeness to {} named drawings: {:.3} by name, {:.3} by the class alone, {:.3} of the drawings themselves",
            row.encoder, row.names, row.named, row.unnamed, row.real
        );
    }
    Ok(())
}
