//! `preftune export`: tuned weights in the forms that diffusers, ComfyUI and A1111 load.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;
use tch::Kind;

use super::export_text;
use super::generate_text::is_text;
use super::model::base_of;
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::models::export::{
    Exported, LoraFormat, Target, export_full, export_lora, export_merged, name_of,
};
use crate::models::lora::{KohyaMetadata, peft};
use crate::run::checkpoint::best_of;
use crate::run::manifest::{self, Manifest, SubjectManifest, Tuned};

#[derive(Args)]
pub(super) struct ExportArgs {
    /// Run, LoRA file, folder with one, or folder of a tuned U-Net; or a language model: run, adapter folder, GGUF file.
    source: PathBuf,
    /// Folder to create.
    #[arg(long)]
    out: PathBuf,
    /// What to write; may be repeated for the two LoRA formats. The default is `peft,kohya` for a LoRA and
    /// `diffusers` for a whole U-Net.
    #[arg(long, value_enum, value_delimiter = ',')]
    format: Vec<Format>,
    /// Folder of the base model that was tuned; a run knows its own.
    #[arg(long)]
    base: Option<PathBuf>,
    /// Number type of the weights; by default f16 in kohya files, else as stored.
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Name of the LoRA in other tools; by default that of the run or file.
    #[arg(long)]
    name: Option<String>,
    /// Replace an earlier export in the folder.
    #[arg(long)]
    force: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// LoRA for diffusers: `pytorch_lora_weights.safetensors`.
    Peft,
    /// LoRA for ComfyUI and A1111: `NAME.safetensors`.
    Kohya,
    /// Diffusers folder with the tuned U-Net.
    Diffusers,
    /// Diffusers folder with the LoRA added to the base model's U-Net.
    Merged,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    F16,
    Bf16,
}

/// What there is to export.
enum Weights {
    Lora(PathBuf),
    UNet(PathBuf),
}

struct Source {
    weights: Weights,
    base: PathBuf,
    metadata: KohyaMetadata,
}

pub(super) fn run(args: &ExportArgs) -> Result<()> {
    let kind = args.dtype.map(|dtype| match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::Bf16 => Kind::BFloat16,
    });
    if args.base.is_none() && is_text(&args.source) {
        if !matches!(args.format.as_slice(), [] | [Format::Merged]) {
            return Err(Error::config(
                "a language model is exported as one folder: leave out `--format`",
            ));
        }
        let exported = export_text::run(&args.source, &args.out, kind, args.force)?;
        print(&exported, "tensors", args.json);
        return Ok(());
    }
    let source = find_source(args)?;
    let base = &source.base;
    let target = Target {
        folder: args.out.clone(),
        kind,
        force: args.force,
    };
    let (exported, what) = match (&source.weights, args.format.as_slice()) {
        (Weights::UNet(unet), [] | [Format::Diffusers]) => {
            (export_full(unet, base, &target)?, "tensors")
        }
        (Weights::Lora(lora), [Format::Merged]) => (export_merged(lora, base, &target)?, "tensors"),
        (Weights::Lora(lora), formats) => {
            let formats = lora_formats(formats)?;
            let exported = export_lora(lora, base, &target, &formats, &source.metadata)?;
            (exported, "modules")
        }
        (Weights::UNet(_), _) => {
            return Err(Error::config(
                "a whole U-Net is exported as `--format diffusers`; the other formats are for a LoRA",
            ));
        }
    };
    print(&exported, what, args.json);
    Ok(())
}

fn lora_formats(formats: &[Format]) -> Result<Vec<LoraFormat>> {
    if formats.is_empty() {
        return Ok(vec![LoraFormat::Peft, LoraFormat::Kohya]);
    }
    let mut chosen = Vec::new();
    for format in formats {
        let format = match format {
            Format::Peft => LoraFormat::Peft,
            Format::Kohya => LoraFormat::Kohya,
            Format::Diffusers => {
                return Err(Error::config("a LoRA has no U-Net of its own to export")
                    .with_hint("`--format merged` adds it to the base model's U-Net"));
            }
            Format::Merged => {
                return Err(Error::config(
                    "`--format merged` writes a whole model and stands alone",
                ));
            }
        };
        if !chosen.contains(&format) {
            chosen.push(format);
        }
    }
    Ok(chosen)
}

fn find_source(args: &ExportArgs) -> Result<Source> {
    let path = &args.source;
    if !path.exists() {
        return Err(Error::data(path, "no such file or folder"));
    }
    let name = args.name.clone().unwrap_or_else(|| stem(path));
    if path.join("manifest.json").exists() {
        return source_of_run(path, args.base.clone(), name);
    }
    let base = args.base.clone().ok_or_else(|| {
        Error::config("`--base` is missing: only a run knows the model that was tuned")
    })?;
    let metadata = KohyaMetadata {
        name,
        ..KohyaMetadata::default()
    };
    Ok(Source {
        weights: find_weights(path)?,
        base,
        metadata,
    })
}

/// The best weights of a run, with what its record says of them.
fn source_of_run(run: &Path, base: Option<PathBuf>, name: String) -> Result<Source> {
    let file = run.join("config.toml");
    let config = config::load_any(&file, &[])?;
    let text = toml::to_string_pretty(&config).map_err(|error| Error::config(error.to_string()))?;
    let Tuned { record, base_model } = manifest::read(run)?;
    let (train, seed, images, trigger_phrase) = match &config {
        Config::Image(config) => {
            let SubjectManifest {
                token,
                class,
                photos,
                ..
            } = Manifest::read(run)?.subject;
            let phrase = format!("{token} {class}");
            (
                &config.train,
                config.run.seed,
                Some(photos.len()),
                Some(phrase),
            )
        }
        Config::Pairs(config) => (&config.train, config.run.seed, None, None),
        _ => {
            return Err(Error::data(&file, "of a run that tunes no diffusion model"));
        }
    };
    let metadata = KohyaMetadata {
        name,
        resolution: train.resolution.map_or(0, i64::from),
        images,
        steps: record.best.map(|(step, _)| step),
        learning_rate: Some(train.learning_rate),
        seed: Some(seed),
        trigger_phrase,
        extra: BTreeMap::from([("preftune_config".to_owned(), text)]),
        ..KohyaMetadata::default()
    };
    let base = match base {
        Some(base) => base,
        None => base_of(&base_model, run)?,
    };
    Ok(Source {
        weights: find_weights(&best_of(run)?)?,
        base,
        metadata,
    })
}

fn find_weights(path: &Path) -> Result<Weights> {
    let unet = path.join("unet");
    if path.is_file() || path.join(peft::FILE_NAME).exists() {
        Ok(Weights::Lora(path.to_owned()))
    } else if unet.is_dir() {
        Ok(Weights::UNet(unet))
    } else if path.join("config.json").exists() {
        Ok(Weights::UNet(path.to_owned()))
    } else {
        Err(Error::data(
            path,
            format!("holds neither `{}` nor a U-Net", peft::FILE_NAME),
        ))
    }
}

/// A name for the LoRA: that of its folder where the file has the name that all have.
fn stem(source: &Path) -> String {
    let name = name_of(source);
    let stem = name.strip_suffix(".safetensors").unwrap_or(&name);
    match source.parent() {
        Some(parent) if name == peft::FILE_NAME => name_of(parent),
        _ => stem.to_owned(),
    }
}

fn print(exported: &Exported, what: &str, as_json: bool) {
    let Exported { files, checked } = exported;
    if as_json {
        println!(
            "{}",
            json!({ "files": files, "checked": checked, "of": checked, "unit": what })
        );
        return;
    }
    // A file of which not everything reads back is an error, so that 100 % is the only figure that can be shown.
    for file in files {
        println!(
            "{}  {checked} of {checked} {what} read back and found in the model (100 %)",
            file.display()
        );
    }
}
