//! `preftune inspect` of a run on pairs of images: the pairs as they were read, every image decoded once, no model.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::output::print_json;
use crate::config::PairsConfig;
use crate::data::image_preferences::ImagePair;
use crate::data::pictures::decoded;
use crate::error::Result;
use crate::jobs;
use crate::jobs::pairs::data::{PairInputs, TOGETHER};

/// Figures over all images.
#[derive(Default)]
struct Pictures {
    /// How many have which width and height.
    sizes: BTreeMap<(u32, u32), usize>,
    /// Those whose shorter side is smaller than the training images.
    small: usize,
}

pub(crate) fn run(config: &PairsConfig, rows: usize, as_json: bool) -> Result<()> {
    let mut inputs = jobs::pairs::data::read(config)?;
    let side = config.train.resolution.unwrap_or(0);
    let mut pictures = Pictures::default();
    let mut broken = BTreeMap::new();
    let mut row = 0;
    for batch in decoded(&inputs.images.sources, TOGETHER) {
        for image in batch? {
            match image {
                Ok(photo) => {
                    let size = photo.image.dimensions();
                    *pictures.sizes.entry(size).or_default() += 1;
                    pictures.small += usize::from(size.0.min(size.1) < side);
                }
                Err(error) => {
                    broken.insert(row, inputs.images.sources[row].broken(&error));
                }
            }
            row += 1;
        }
    }
    let more = inputs.leave_out(&broken)?;
    inputs.lines.extend(more);
    let shown = inputs.train.iter().take(rows);
    if as_json {
        let sizes = pictures.sizes.iter();
        let report = json!({
            "objective": inputs.objective.name(),
            "train": inputs.train.len(),
            "held_out": inputs.held_out.len(),
            "images": inputs.images.sources.len(),
            "prompts": inputs.images.prompts.len(),
            "sizes": sizes.map(|((width, height), count)| json!({"width": width, "height": height, "images": count})).collect::<Vec<_>>(),
            "small": pictures.small,
            "notes": inputs.lines,
            "pairs": shown.map(|image| whole(&inputs, image)).collect::<Vec<_>>(),
        });
        print_json(&report);
        return Ok(());
    }
    for image in shown {
        let row = whole(&inputs, image);
        println!("{} (weight {})", image.place, image.pair.weight);
        for key in ["prompt", "chosen", "rejected"] {
            println!("  {key}: {}", row[key].as_str().unwrap_or_default());
        }
    }
    println!(
        "training: {} pairs; held out: {}; {} images under {} prompts",
        inputs.train.len(),
        inputs.held_out.len(),
        inputs.images.sources.len(),
        inputs.images.prompts.len()
    );
    for line in &inputs.lines {
        println!("  {line}");
    }
    let mut sizes: Vec<_> = pictures.sizes.iter().collect();
    sizes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for ((width, height), count) in sizes.iter().take(5) {
        println!("  {width} x {height}: {count} images");
    }
    if sizes.len() > 5 {
        println!("  and {} other sizes", sizes.len() - 5);
    }
    if pictures.small > 0 {
        println!(
            "  {} images are smaller than `train.resolution` = {side} and would be enlarged",
            pictures.small
        );
    }
    Ok(())
}

fn whole(inputs: &PairInputs, image: &ImagePair) -> Value {
    let source = |row: usize| inputs.images.sources[row].name().display().to_string();
    let prompt = image.pair.prompt.map(|row| &inputs.images.prompts[row]);
    json!({
        "place": image.place.to_string(), "prompt": prompt, "chosen": source(image.pair.chosen), "rejected": source(image.pair.rejected),
        "weight": image.pair.weight, "margin": image.margin, "wins": image.wins, "scores": image.scores,
    })
}
