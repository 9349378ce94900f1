//! `preftune world`: captioned scenes, the subjects' photos, the vocabulary.

use std::fs;
use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser as _};
use clap::{ArgGroup, Args};
use rayon::prelude::*;
use serde_json::json;

use crate::cli::generate::grid;
use crate::data::png;
use crate::data::world::{Split, Variation, World};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::installed::find;

/// Photos that are written of each subject.
const PHOTOS: usize = 5;

#[derive(Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["out", "subjects", "prompts", "words"]))]
pub(super) struct WorldArgs {
    /// Write scenes and `metadata.jsonl` (a Hugging Face image folder) into this folder.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Number of scenes.
    #[arg(long, default_value_t = 64, requires = "out", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: u64,
    /// Seed of the scenes.
    #[arg(long, default_value_t = 0, requires = "out")]
    seed: u64,
    /// Scenes of the held-out sprites instead of the training ones.
    #[arg(long, requires = "out")]
    held_out: bool,
    /// Also write all scenes into one PNG.
    #[arg(long, value_name = "FILE", requires = "out")]
    grid: Option<PathBuf>,
    /// Write five photos of every held-out subject and `subjects.json` into this folder.
    #[arg(long, value_name = "FOLDER")]
    subjects: Option<PathBuf>,
    /// Write the prompts for tuning to a subject into this folder: `train.txt`, `validation.txt` and `test.txt`.
    #[arg(long, value_name = "FOLDER")]
    prompts: Option<PathBuf>,
    /// Print every word that a caption may hold, one a line.
    #[arg(long)]
    words: bool,
    /// Folder of the sprites.
    #[arg(long, value_name = "FOLDER", default_value = "assets/sprites")]
    #[arg(value_parser = PathBufValueParser::new().map(find))]
    sprites: PathBuf,
}

pub(super) fn run(args: &WorldArgs) -> Result<()> {
    let world = World::open(&args.sprites)?;
    if let Some(folder) = &args.out {
        write_scenes(&world, folder, args)?;
    }
    if let Some(folder) = &args.subjects {
        write_subjects(&world, folder)?;
    }
    if let Some(folder) = &args.prompts {
        create(folder)?;
        for (name, prompts) in [
            ("train.txt", world.training_prompts()),
            ("validation.txt", world.validation_prompts()),
            ("test.txt", world.test_prompts()),
        ] {
            let text = prompts.join("\n") + "\n";
            write_atomically(&folder.join(name), text.as_bytes())?;
        }
    }
    if args.words {
        for word in world.words() {
            println!("{word}");
        }
    }
    Ok(())
}

fn write_scenes(world: &World, folder: &Path, args: &WorldArgs) -> Result<()> {
    create(folder)?;
    let split = if args.held_out {
        Split::HeldOut
    } else {
        Split::Train
    };
    let written = (0..args.count)
        .into_par_iter()
        .map(|index| {
            let scene = world.scene(split, Variation::Scene, args.seed, index);
            let name = format!("{index:06}.png");
            png::write(&folder.join(&name), &scene.image, &[])?;
            let line = json!({ "file_name": name, "text": scene.caption });
            // Only a grid needs all images at once.
            Ok((
                args.grid.is_some().then_some(scene.image),
                format!("{line}\n"),
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let (images, lines): (Vec<_>, Vec<String>) = written.into_iter().unzip();
    write_atomically(&folder.join("metadata.jsonl"), lines.concat().as_bytes())?;
    if let Some(path) = &args.grid {
        let images: Vec<_> = images.into_iter().flatten().collect();
        png::write(path, &grid(&images, images.len()), &[])?;
    }
    eprintln!("{} scenes in {}", args.count, folder.display());
    Ok(())
}

fn write_subjects(world: &World, folder: &Path) -> Result<()> {
    create(folder)?;
    let mut records = Vec::new();
    for subject in world.subjects() {
        let photos = folder.join(&subject.name);
        create(&photos)?;
        for (index, image) in world.references(subject, PHOTOS).iter().enumerate() {
            png::write(&photos.join(format!("{index:02}.png")), image, &[])?;
        }
        let sprite = &world.sprites()[subject.sprite];
        records.push(json!({
            "name": subject.name,
            "class": world.classes()[subject.class],
            "set": sprite.set,
            "drawing": sprite.drawing,
        }));
    }
    let count = records.len();
    let text = format!("{:#}\n", serde_json::Value::from(records));
    write_atomically(&folder.join("subjects.json"), text.as_bytes())?;
    eprintln!("{count} subjects in {}", folder.display());
    Ok(())
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| Error::io("create", folder, source))
}
