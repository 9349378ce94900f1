//! `preftune generate`: images from prompts; texts where the model is one of language.

mod listing;
mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use image::RgbImage;
use image::imageops::replace;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::cli::device::DeviceArgs;
use crate::cli::export::stem;
use crate::cli::generate::listing::{LORAS, Listing, file_name};
use crate::cli::generate::text::TextArgs;
use crate::cli::model::named;
use crate::cli::output::print_json;
use crate::cli::progress::{Progress, tell};
use crate::config::SamplerName;
use crate::data::text::{Prompt, Reading, are_records, prompts as read_prompts};
use crate::data::{png, prompts};
use crate::error::{Error, Result};
use crate::hub::name_model;
use crate::jobs::Display as _;
use crate::jobs::open::image::{Beside, open, open_at};
use crate::jobs::open::text::is_text;
use crate::models::diffusion::Plan;
use crate::models::diffusion::pipeline::{Pipeline, Request, SampleSettings, to_rgb};
use crate::models::lora::Overlay;
use crate::models::recognize::{is_no_language_model, not_a};
use crate::models::weights::{Checkpoint, save};
use crate::run::manifest::{self, SubjectManifest, SubjectRecord};

/// Denoising steps where none are asked for.
const STEPS: u64 = 25;
/// Classifier-free guidance where none is asked for.
const GUIDANCE: f64 = 7.5;

#[derive(Args)]
pub(crate) struct GenerateArgs {
    /// A model folder in Hugging Face layout, a Stable Diffusion model in one file, or a run.
    #[arg(long)]
    #[arg(value_parser = named())]
    model: PathBuf,
    /// A LoRA file to lay over the model, U-Net and text encoders, as PEFT, diffusers, kohya or ComfyUI spell it; LoCon, LoHa,
    /// LoKr, DoRA and whole differences too. `FILE:0.8` lays it with that strength. May be repeated: they are laid one after
    /// the other, over that of a run if the model is one.
    #[arg(long = "lora", value_name = "FILE[:STRENGTH]")]
    loras: Vec<PathBuf>,
    /// Leave out the learned words that some LoRA files bring along (`bundle_emb` of kohya), which are not read.
    #[arg(long, requires = "loras")]
    without_words: bool,
    /// Of a run: its checkpoint of this step instead of its best weights.
    #[arg(long, value_name = "STEP", conflicts_with = "loras")]
    checkpoint: Option<u64>,
    /// An autoencoder (VAE) in the place of the model's or the run's: a folder of diffusers, a model's folder or file with one, or
    /// a file with nothing else.
    #[arg(long, value_name = "PATH", value_parser = named())]
    vae: Option<PathBuf>,
    /// A prompt; may be repeated.
    #[arg(long = "prompt", value_name = "TEXT")]
    prompts: Vec<String>,
    /// A file of prompts, one a line. For a run on a subject, `{token}` and `{class}` stand for its words. For a language model,
    /// records too (`.jsonl`, `.json`, `.parquet`) with the columns `prompt`, `system`, `tools` and `chat_template_kwargs`.
    #[arg(long = "prompts", value_name = "FILE", conflicts_with = "prompts")]
    prompts_file: Option<PathBuf>,
    /// The negative prompt. SDXL without one is guided away from zeros where its `model_index.json` says so
    /// (`force_zeros_for_empty_prompt`); `--negative ""` has the empty text encoded.
    #[arg(long)]
    negative: Option<String>,
    /// Images or answers for each prompt.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    count: u64,
    /// Seed of each prompt's first image or text; its next ones count up. The same seed is the same initial noise,
    /// whatever the prompt.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder for the images and their `metadata.jsonl`. For language models: a `.jsonl` file; without it answers go to standard
    /// output.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Also write all images into one PNG, a row for each prompt.
    #[arg(long, value_name = "FILE")]
    grid: Option<PathBuf>,
    /// The sampler.
    #[arg(long, value_enum, default_value = "dpm++")]
    sampler: SamplerName,
    /// Denoising steps.
    #[arg(long, default_value_t = STEPS, value_parser = clap::value_parser!(u64).range(1..=1000))]
    steps: u64,
    /// Classifier-free guidance; 1 is none.
    #[arg(long, default_value_t = GUIDANCE)]
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
    device: DeviceArgs,
    #[command(flatten)]
    text: TextArgs,
}

impl GenerateArgs {
    /// Refuses flags that do nothing for the kind of model. Those with their default value are not told from those not given.
    fn refuse_others(&self, is_text: bool) -> Result<()> {
        let of_images = [
            ("--lora", !self.loras.is_empty()),
            ("--vae", self.vae.is_some()),
            ("--negative", self.negative.is_some()),
            ("--grid", self.grid.is_some()),
            ("--sampler", self.sampler != SamplerName::DpmSolverPp),
            ("--steps", self.steps != STEPS),
            ("--guidance", self.guidance.to_bits() != GUIDANCE.to_bits()),
            ("--width", self.width.is_some()),
            ("--height", self.height.is_some()),
            ("--variant", self.variant.is_some()),
            ("--latents", self.latents.is_some()),
            ("--tensors", self.tensors.is_some()),
        ];
        let of_texts = self.text.given();
        let (flags, model): (&[(&str, bool)], _) = if is_text {
            (&of_images, "a language model")
        } else {
            (&of_texts, "a model of images")
        };
        match flags.iter().find(|(_, given)| *given) {
            Some(_) if !is_text && !is_of_images(&self.model) => {
                Err(not_a(&self.model, "a model or a run"))
            }
            Some((flag, _)) => Err(Error::config(format!(
                "`{flag}` does nothing for {model}, which `{}` is",
                self.model.display()
            ))),
            None => Ok(()),
        }
    }
}

pub(crate) fn run(args: &GenerateArgs) -> Result<()> {
    if args.prompts_file.is_none() && args.prompts.is_empty() {
        return Err(Error::config(
            "no prompt: give `--prompt TEXT` or `--prompts FILE`",
        ));
    }
    let is_text = is_text(&args.model);
    if is_text && is_no_language_model(&args.model) {
        return Err(not_a(&args.model, "a model or a run"));
    }
    args.refuse_others(is_text)?;
    if let (true, Some(file)) = (is_text, &args.prompts_file)
        && are_records(file)
    {
        let read = read_prompts(file, &Reading::default())?;
        tell(&read.notes, args.quiet);
        return texts(args, read.rows);
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
        if !is_of_images(&args.model) {
            return Err(not_a(&args.model, "a model or a run"));
        }
        return Err(Error::config(
            "`--out` is missing: the folder for the images",
        ));
    };
    let subject = subject_words(&args.model);
    let words = subject
        .as_ref()
        .map(|subject| (subject.token.as_str(), subject.class.as_str()));
    let filled = prompts::fill_all(&prompts, words).map_err(|prompt| {
        let model = args.model.display();
        Error::config(format!(
            "the prompt `{prompt}` has a placeholder, and `{model}` is no run on a subject that says what stands in its place"
        ))
        .with_hint("write the words instead of `{token}` and `{class}`, or give the folder of a run on photos")
    })?;
    images(args, out, &filled)
}

/// `true` of what may be opened as a model of images: a file, a pipeline's folder or a run.
fn is_of_images(model: &Path) -> bool {
    let holds = |name: &str| model.join(name).exists();
    model.is_file() || holds("model_index.json") || holds("manifest.json")
}

/// The words of the subject that a run was tuned to; `None` of any other model.
fn subject_words(model: &Path) -> Option<SubjectRecord> {
    let manifest = manifest::read::<SubjectManifest>(model).ok()?;
    Some(manifest.subject)
}

fn texts(args: &GenerateArgs, prompts: Vec<Prompt>) -> Result<()> {
    text::run(&text::Request {
        model: &args.model,
        checkpoint: args.checkpoint,
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
    let loras = args.loras.iter().map(|text| {
        let lora = Overlay::parse(text)?;
        Ok(Overlay {
            without_words: args.without_words,
            ..lora
        })
    });
    let loras: Vec<Overlay> = loras.collect::<Result<_>>()?;
    let beside = Beside {
        vae: args.vae.as_deref(),
        loras: &loras,
        variant: args.variant.as_deref(),
    };
    let loaded = match args.checkpoint {
        Some(step) => open_at(&args.model, step, beside.vae, device, kind)?,
        None => open(&args.model, &beside, device, kind)?,
    };
    if args.without_words && !loaded.leaves_out_words {
        return Err(Error::config(
            "`--without-words` does nothing: no LoRA file has learned words",
        ));
    }
    for note in loaded.notes.iter().filter(|_| !args.quiet) {
        eprintln!("warning: {note}");
    }
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
    Plan::new(&pipeline.schedule, settings.sampler, settings.steps)?;
    warn_of_prompts(pipeline, prompts, args.negative.as_ref())?;
    fs::create_dir_all(out).map_err(|source| Error::io("create", out, source))?;

    let requests: Vec<Request> = (0..prompts.len() as i64)
        .flat_map(|row| {
            (0..args.count).map(move |image| Request {
                row,
                seed: args.seed.wrapping_add(image),
            })
        })
        .collect();
    let mut listing = Listing::open(out, requests.len())?;
    let mut images: Vec<RgbImage> = Vec::new();
    let mut tensors: Vec<Tensor> = Vec::new();
    let mut files = Vec::new();
    let take = |index: usize, image: Tensor| {
        let request = requests[index];
        let prompt = &prompts[request.row as usize];
        let name = file_name(index);
        let path = out.join(&name);
        let rgb = to_rgb(&image);
        let made = (loaded.name.as_str(), loras.as_slice());
        let chunks = text_chunks(args, made, prompt, request.seed, &settings);
        png::write(&path, &rgb, &chunks)?;
        listing.add(&name, &chunks)?;
        files.push(json!({"file": path, "prompt": prompt, "seed": request.seed}));
        if args.grid.is_some() {
            images.push(rgb);
        }
        if args.tensors.is_some() {
            tensors.push((image / 2.0 + 0.5).clamp(0.0, 1.0));
        }
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
        print_json(&files);
    } else {
        for file in &files {
            println!("{}", file["file"].as_str().unwrap_or_default());
        }
    }
    Ok(())
}

/// Says what the text encoders do not read of the prompts and of the negative one.
fn warn_of_prompts(
    pipeline: &Pipeline,
    prompts: &[String],
    negative: Option<&String>,
) -> Result<()> {
    for warning in pipeline.prompt_notes(prompts)? {
        eprintln!("warning: {warning}");
    }
    if let Some(negative) = negative {
        for warning in pipeline.prompt_notes(std::slice::from_ref(negative))? {
            eprintln!("warning: of the negative prompt, {warning}");
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
    let (width, height) = (settings.width, settings.height);
    let negative = match &args.negative {
        Some(given) => pipeline.encode_prompts(std::slice::from_ref(given), width, height)?,
        None => pipeline.encode_negative(&[String::new()], width, height)?,
    };
    let mut progress = Progress::new(args.quiet);
    let mut advance = |done, total| {
        progress.advance("denoising steps of images", done, total);
        Ok(())
    };
    let Some(file) = &args.latents else {
        return pipeline.sample(&text, &negative, requests, settings, &mut advance, take);
    };
    let noise = given_latents(file, requests.len(), pipeline)?;
    let rows: Vec<i64> = requests.iter().map(|request| request.row).collect();
    for (number, rows) in rows.chunks(settings.batch).enumerate() {
        let begin = (number * settings.batch) as i64;
        let noise = noise.narrow(0, begin, rows.len() as i64);
        let text = text.select(&Tensor::from_slice(rows).to_device(pipeline.device()));
        let mut step = |step| {
            let done = begin as usize * settings.steps + step * rows.len();
            advance(done as u64, (requests.len() * settings.steps) as u64)
        };
        let images = pipeline.sample_from(&noise, &text, &negative, settings, &mut step)?;
        for (index, image) in images.unbind(0).into_iter().enumerate() {
            take(begin as usize + index, image)?;
        }
    }
    Ok(())
}

fn given_latents(file: &Path, images: usize, pipeline: &Pipeline) -> Result<Tensor> {
    let noise = Checkpoint::open_file(file)?
        .tensor("latents")?
        .to_kind(Kind::Float)
        .to_device(pipeline.device());
    let (channels, factor) = (pipeline.vae.latent_channels(), pipeline.vae.factor());
    match *noise.size() {
        [count, own, height, width] if count == images as i64 && own == channels => {
            pipeline.check_size(width * factor, height * factor)?;
            Ok(noise)
        }
        ref size => {
            let message = format!(
                "has shape {size:?}; {images} images need [{images}, {channels}, height / {factor}, width / {factor}]"
            );
            Err(Error::tensor(file, "latents", message))
        }
    }
}

/// The settings that made an image with a model and what was laid over it: our keys, and the one line that web interfaces
/// read back.
fn text_chunks(
    args: &GenerateArgs,
    (model, loras): (&str, &[Overlay]),
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
    let given = args.negative.as_deref().unwrap_or_default();
    let negative = if given.is_empty() {
        String::new()
    } else {
        format!("\nNegative prompt: {given}")
    };
    let tags = loras.iter().fold(String::new(), |tags, lora| {
        tags + &format!(" <lora:{}:{}>", stem(&lora.path), lora.strength)
    });
    let vae = args.vae.as_deref().map(name_model);
    let named_vae = vae
        .as_ref()
        .map_or_else(String::new, |vae| format!(", VAE: {vae}"));
    let parameters = format!(
        "{prompt}{tags}{negative}\nSteps: {steps}, Sampler: {sampler}, CFG scale: {guidance}, Seed: {seed}, \
         Size: {width}x{height}, Model: {model}{named_vae}"
    );
    let mut chunks = vec![
        ("prompt", prompt.to_owned()),
        ("negative_prompt", given.to_owned()),
        ("seed", seed.to_string()),
        ("sampler", sampler.to_owned()),
        ("steps", steps.to_string()),
        ("guidance", guidance.to_string()),
        ("model", model.to_owned()),
    ];
    if !loras.is_empty() {
        let named = loras.iter().map(|lora| {
            let mut named = json!({"file": name_model(&lora.path), "strength": lora.strength});
            if lora.without_words {
                named["without_words"] = true.into();
            }
            named
        });
        chunks.push((LORAS, named.collect::<Value>().to_string()));
    }
    chunks.extend(vae.map(|vae| ("vae", vae)));
    chunks.push(("parameters", parameters));
    chunks
}

/// All images in rows of `columns`, or near a square where there is one row.
pub(crate) fn grid(images: &[RgbImage], columns: usize) -> RgbImage {
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
