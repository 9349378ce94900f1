//! `preftune generate`: images from prompts; texts where the model is one of language.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use image::RgbImage;
use image::imageops::replace;
use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::device::DeviceArgs;
use super::generate_text::{self, TextArgs};
use super::model;
use super::progress::Progress;
use crate::config::SamplerName;
use crate::data::text::{self, Prompt};
use crate::data::{png, prompts};
use crate::error::{Error, Result};
use crate::models::diffusion::SamplerKind;
use crate::models::diffusion::pipeline::{Pipeline, Request, SampleSettings, to_rgb};
use crate::models::weights::{Checkpoint, save};

#[derive(Args)]
pub(super) struct GenerateArgs {
    /// A model folder in Hugging Face layout, or a run.
    #[arg(long)]
    model: PathBuf,
    /// A LoRA file to lay over the model (PEFT, diffusers or kohya spelling).
    #[arg(long)]
    lora: Option<PathBuf>,
    /// What to draw; may be repeated.
    #[arg(long = "prompt", value_name = "TEXT")]
    prompts: Vec<String>,
    /// A file of prompts, one a line; of language models also records (`.jsonl`, `.json`, `.parquet`) with the columns
    /// `prompt`, `system`, `tools` and `chat_template_kwargs`.
    #[arg(long = "prompts", value_name = "FILE", conflicts_with = "prompts")]
    prompts_file: Option<PathBuf>,
    /// What not to draw.
    #[arg(long, default_value = "")]
    negative: String,
    /// Images for each prompt.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    count: u64,
    /// Seed of the first image; the next ones count up.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder for the images, or of language models a `.jsonl` file for the answers, which else go to standard output.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Also write all images into one PNG, a row for each prompt.
    #[arg(long, value_name = "FILE")]
    grid: Option<PathBuf>,
    /// The sampler.
    #[arg(long, value_enum, default_value = "dpm++")]
    sampler: SamplerArg,
    /// Denoising steps.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=1000))]
    steps: u64,
    /// Classifier-free guidance; 1 is none.
    #[arg(long, default_value_t = 7.5)]
    guidance: f64,
    /// Pixels across; the model's own size where it is not given.
    #[arg(long)]
    width: Option<i64>,
    /// Pixels down; the model's own size where it is not given.
    #[arg(long)]
    height: Option<i64>,
    /// Images denoised together.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: u64,
    /// Preferred weight files, for example `fp16`.
    #[arg(long)]
    variant: Option<String>,
    /// Take the initial noise from the tensor `latents` [n, c, h, w] of a safetensors file instead of the seeds.
    #[arg(long, value_name = "FILE")]
    latents: Option<PathBuf>,
    /// Also write the unrounded images as the tensor `images` [n, 3, h, w] in [0, 1].
    #[arg(long, value_name = "FILE")]
    tensors: Option<PathBuf>,
    /// Print the files with prompts and seeds as JSON.
    #[arg(long)]
    json: bool,
    /// No progress.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum SamplerArg {
    Ddim,
    #[value(name = "dpm++")]
    DpmSolverPp,
    Euler,
}

impl SamplerArg {
    /// As the user spells it.
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl From<SamplerName> for SamplerArg {
    fn from(name: SamplerName) -> Self {
        match name {
            SamplerName::Ddim => Self::Ddim,
            SamplerName::DpmSolverPp => Self::DpmSolverPp,
            SamplerName::Euler => Self::Euler,
        }
    }
}

impl From<SamplerArg> for SamplerKind {
    fn from(sampler: SamplerArg) -> Self {
        match sampler {
            SamplerArg::Ddim => Self::Ddim,
            SamplerArg::DpmSolverPp => Self::DpmSolverPp,
            SamplerArg::Euler => Self::Euler,
        }
    }
}

pub(super) fn run(args: &GenerateArgs) -> Result<()> {
    if args.prompts_file.is_none() && args.prompts.is_empty() {
        return Err(Error::config(
            "no prompt: give `--prompt TEXT` or `--prompts FILE`",
        ));
    }
    let is_text = generate_text::is_text(&args.model);
    if let (true, Some(file)) = (is_text, &args.prompts_file)
        && text::are_records(file)
    {
        return texts(args, text::prompts(file)?);
    }
    let prompts = match &args.prompts_file {
        Some(file) => prompts::read(file)?,
        None => args.prompts.clone(),
    };
    if is_text {
        let prompts = prompts.iter().enumerate();
        let prompts = prompts.map(|(place, words)| Prompt::in_words(place + 1, words));
        return texts(args, prompts.collect());
    }
    let Some(out) = &args.out else {
        return Err(Error::config(
            "`--out` is missing: the folder for the images",
        ));
    };
    images(args, out, &prompts)
}

fn texts(args: &GenerateArgs, prompts: Vec<Prompt>) -> Result<()> {
    generate_text::run(&generate_text::Request {
        model: &args.model,
        prompts,
        count: args.count,
        seed: args.seed,
        batch: args.batch as usize,
        json: args.json,
        out: args.out.as_deref(),
        quiet: args.quiet,
        text: &args.text,
        device: args.device.resolve()?,
    })
}

fn images(args: &GenerateArgs, out: &Path, prompts: &[String]) -> Result<()> {
    if !args.guidance.is_finite() || args.guidance < 1.0 {
        return Err(Error::config("`--guidance` must be 1 or more"));
    }
    let (device, kind) = args.device.resolve()?;
    let loaded = model::open(
        &args.model,
        args.lora.as_deref(),
        args.variant.as_deref(),
        device,
        kind,
    )?;
    let pipeline = &loaded.pipeline;
    let [native_height, native_width] = pipeline.native_size();
    let settings = SampleSettings {
        sampler: args.sampler.into(),
        steps: args.steps as usize,
        guidance: args.guidance,
        width: args.width.unwrap_or(native_width),
        height: args.height.unwrap_or(native_height),
        batch: args.batch as usize,
    };
    pipeline.check_size(settings.width, settings.height)?;
    for warning in model::truncation_warnings(pipeline, prompts)? {
        eprintln!("warning: {warning}");
    }
    fs::create_dir_all(out).map_err(|source| Error::io("create", out, source))?;

    let requests: Vec<Request> = (0..prompts.len() as i64)
        .flat_map(|row| {
            (0..args.count).map(move |image| Request {
                row,
                seed: args.seed.wrapping_add(image),
            })
        })
        .collect();
    let mut progress = Progress::new(args.quiet);
    let total = requests.len() as u64;
    let mut images: Vec<RgbImage> = Vec::new();
    let mut tensors: Vec<Tensor> = Vec::new();
    let mut files = Vec::new();
    let take = |index: usize, image: Tensor| {
        let request = requests[index];
        let prompt = &prompts[request.row as usize];
        let path = out.join(format!("{index:05}.png"));
        let rgb = to_rgb(&image);
        png::write(
            &path,
            &rgb,
            &text_chunks(args, &loaded.name, prompt, request.seed, &settings),
        )?;
        files.push(json!({"file": path, "prompt": prompt, "seed": request.seed}));
        if args.grid.is_some() {
            images.push(rgb);
        }
        if args.tensors.is_some() {
            tensors.push((image / 2.0 + 0.5).clamp(0.0, 1.0));
        }
        progress.advance("generate", index as u64 + 1, total);
        Ok(())
    };
    sample(pipeline, args, prompts, &requests, &settings, take)?;

    if let Some(path) = &args.grid {
        png::write(
            path,
            &grid(&images, args.count as usize),
            &[("prompt", prompts.join("\n"))],
        )?;
    }
    if let Some(path) = &args.tensors {
        save(
            path,
            &[("images".to_owned(), Tensor::stack(&tensors, 0))],
            &BTreeMap::new(),
        )?;
    }
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&files).unwrap_or_default()
        );
    } else {
        for file in &files {
            println!("{}", file["file"].as_str().unwrap_or_default());
        }
    }
    Ok(())
}

fn sample(
    pipeline: &Pipeline,
    args: &GenerateArgs,
    prompts: &[String],
    requests: &[Request],
    settings: &SampleSettings,
    mut take: impl FnMut(usize, Tensor) -> Result<()>,
) -> Result<()> {
    let text = pipeline.encode_prompts(prompts, settings.width, settings.height)?;
    let negative = pipeline.encode_negative(
        std::slice::from_ref(&args.negative),
        settings.width,
        settings.height,
    )?;
    let go_on = || Ok(());
    let Some(file) = &args.latents else {
        return pipeline.sample(&text, &negative, requests, settings, &go_on, take);
    };
    let noise = given_latents(file, requests.len(), pipeline.device())?;
    let rows: Vec<i64> = requests.iter().map(|request| request.row).collect();
    for (number, rows) in rows.chunks(settings.batch).enumerate() {
        let begin = (number * settings.batch) as i64;
        let noise = noise.narrow(0, begin, rows.len() as i64);
        let text = text.select(&Tensor::from_slice(rows).to_device(pipeline.device()));
        let images = pipeline.sample_from(&noise, &text, &negative, settings, &go_on)?;
        for (index, image) in images.unbind(0).into_iter().enumerate() {
            take(begin as usize + index, image)?;
        }
    }
    Ok(())
}

fn given_latents(file: &Path, images: usize, device: Device) -> Result<Tensor> {
    let noise = Checkpoint::open_file(file)?
        .tensor("latents")?
        .to_kind(Kind::Float)
        .to_device(device);
    let size = noise.size();
    if size.len() != 4 || size[0] != images as i64 {
        let message = format!(
            "has shape {size:?}; {images} images need [{images}, channels, height / 8, width / 8]"
        );
        return Err(Error::tensor(file, "latents", message));
    }
    Ok(noise)
}

/// What made an image: our keys, and the one line that web interfaces read back.
fn text_chunks(
    args: &GenerateArgs,
    model: &str,
    prompt: &str,
    seed: u64,
    settings: &SampleSettings,
) -> Vec<(&'static str, String)> {
    let sampler = args.sampler.name();
    let SampleSettings {
        steps,
        guidance,
        width,
        height,
        ..
    } = settings;
    let negative = if args.negative.is_empty() {
        String::new()
    } else {
        format!("\nNegative prompt: {}", args.negative)
    };
    let parameters = format!(
        "{prompt}{negative}\nSteps: {steps}, Sampler: {sampler}, CFG scale: {guidance}, Seed: {seed}, \
         Size: {width}x{height}, Model: {model}"
    );
    vec![
        ("prompt", prompt.to_owned()),
        ("negative_prompt", args.negative.clone()),
        ("seed", seed.to_string()),
        ("sampler", sampler),
        ("steps", steps.to_string()),
        ("guidance", guidance.to_string()),
        ("model", model.to_owned()),
        (
            "software",
            concat!("preftune ", env!("CARGO_PKG_VERSION")).to_owned(),
        ),
        ("parameters", parameters),
    ]
}

/// All images in rows of `columns`, or near a square where there is one row.
pub(super) fn grid(images: &[RgbImage], columns: usize) -> RgbImage {
    let Some(first) = images.first() else {
        return RgbImage::new(1, 1);
    };
    let single_row = columns >= images.len() || columns == 1;
    let columns = if single_row {
        (images.len() as f64).sqrt().ceil() as usize
    } else {
        columns
    };
    let rows = images.len().div_ceil(columns);
    let (width, height) = first.dimensions();
    let mut sheet = RgbImage::from_pixel(
        width * columns as u32,
        height * rows as u32,
        image::Rgb([255; 3]),
    );
    for (index, image) in images.iter().enumerate() {
        let (x, y) = (index % columns, index / columns);
        replace(
            &mut sheet,
            image,
            i64::from(width) * x as i64,
            i64::from(height) * y as i64,
        );
    }
    sheet
}
