//! `preftune export`: tuned weights in the forms that diffusers, ComfyUI and A1111 load.

mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;
use tch::Kind;

use crate::cli::model::named;
use crate::config::{self, AdapterKind, Config};
use crate::error::{Error, Result};
use crate::jobs::open::image::{base_of, vae_of, weights_of};
use crate::jobs::open::text::{diffusion_base, is_text};
use crate::models::diffusion::VaeSource;
use crate::models::export::{
    Exported, LoraFormat, LoraSource, Strengths, Target, Tuned as TunedPart, export_full,
    export_lora, export_merged, export_single_file, name_of,
};
use crate::models::lora::{KohyaMetadata, adapter, peft};
use crate::run::checkpoint::{best_of, weights_at};
use crate::run::manifest::{self, SubjectManifest, SubjectRecord, Tuned};

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// Run, LoRA file, folder with one, or folder of a tuned U-Net; or a language model: run, adapter folder, GGUF file.
    #[arg(value_parser = named())]
    source: PathBuf,
    /// Folder to create.
    #[arg(long)]
    out: PathBuf,
    /// Format of the written files; may be repeated for the two LoRA formats. The default is `peft,kohya` for a LoRA and
    /// `diffusers` for a whole U-Net; `single-file` is for both.
    #[arg(long, value_enum, value_delimiter = ',')]
    format: Vec<Format>,
    /// Folder of the base model that was tuned; a run knows its own.
    #[arg(long)]
    #[arg(value_parser = named())]
    base: Option<PathBuf>,
    /// An autoencoder (VAE) in the place of the base's, in whole models: a folder of diffusers, a model's folder or file with one,
    /// or a file with nothing else. A run knows its own.
    #[arg(long, value_name = "PATH", value_parser = named())]
    vae: Option<PathBuf>,
    /// Number type of the weights; by default f16 in kohya and single files, else as stored.
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Name of the LoRA or the file in other tools; by default that of the run or file.
    #[arg(long)]
    name: Option<String>,
    /// Of a run: its checkpoint of this step instead of its best weights.
    #[arg(long, value_name = "STEP")]
    checkpoint: Option<u64>,
    /// Replace an earlier export in the folder; a folder with anything else in it stays.
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
    /// Diffusers folder with the LoRA added to the base model; LoHa, LoKr, DoRA and whole differences too.
    Merged,
    /// The whole tuned model as one file, for web interfaces: `NAME.safetensors`.
    SingleFile,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    F16,
    Bf16,
}

struct Source {
    weights: TunedPart,
    base: PathBuf,
    /// The autoencoder in the place of the base's.
    vae: Option<PathBuf>,
    metadata: KohyaMetadata,
}

pub(crate) fn run(args: &ExportArgs) -> Result<()> {
    let kind = args.dtype.map(|dtype| match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::Bf16 => Kind::BFloat16,
    });
    let target = Target {
        folder: args.out.clone(),
        kind,
        force: args.force,
    };
    if args.base.is_none() && is_text(&args.source) {
        if args.vae.is_some() {
            return Err(Error::config("`--vae` does nothing for a language model"));
        }
        refuse_name(args, "a language model")?;
        if !matches!(args.format.as_slice(), [] | [Format::Merged]) {
            return Err(Error::config(
                "a language model is exported as one folder: leave out `--format`",
            ));
        }
        let source = (args.source.as_path(), args.checkpoint);
        let exported = text::run(source, &target)?;
        print(&exported, "tensors", args.json);
        return Ok(());
    }
    let source = find_source(args)?;
    let (base, vae) = (&source.base, source.vae.as_deref());
    let (exported, what) = match (&source.weights, args.format.as_slice()) {
        (tuned, [Format::SingleFile]) => {
            let exported = export_single_file(tuned, base, vae, &target, &source.metadata)?;
            (exported, "tensors")
        }
        (TunedPart::UNet(unet), [] | [Format::Diffusers]) => {
            refuse_name(args, "a folder of diffusers")?;
            (export_full(unet, base, vae, &target)?, "tensors")
        }
        (TunedPart::Lora(lora), [Format::Merged]) => {
            refuse_name(args, "a folder of diffusers")?;
            (export_merged(lora, base, vae, &target)?, "tensors")
        }
        (TunedPart::Lora(lora), formats) => {
            if args.vae.is_some() {
                return Err(Error::config(
                    "`--vae` does nothing for a LoRA, which has no autoencoder",
                )
                .with_hint("`--format merged` and `--format single-file` write a whole model"));
            }
            let formats = lora_formats(formats)?;
            if !formats.contains(&LoraFormat::Kohya) {
                refuse_name(args, "a LoRA for diffusers")?;
            }
            let exported = export_lora(lora, base, &target, &formats, &source.metadata)?;
            (exported, "modules")
        }
        (TunedPart::UNet(_), _) => {
            return Err(Error::config(
                "a whole U-Net is exported as `--format diffusers` or `--format single-file`; the other formats are for a LoRA",
            ));
        }
    };
    if vae.is_some()
        && let Some(note) = VaeSource::find(base, vae)?.note()
    {
        eprintln!("warning: {note}");
    }
    print(&exported, what, args.json);
    Ok(())
}

/// Refuses a name where no file takes it.
fn refuse_name(args: &ExportArgs, what: &str) -> Result<()> {
    match args.name {
        None => Ok(()),
        Some(_) => Err(Error::config(format!("`--name` does nothing for {what}"))
            .with_hint("its files have names of their own: name the folder with `--out`")),
    }
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
            Format::Merged | Format::SingleFile => {
                return Err(Error::config(
                    "`--format merged` and `--format single-file` write a whole model and stand alone",
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
        return source_of_run(args, name);
    }
    if args.checkpoint.is_some() {
        return Err(Error::config("`--checkpoint` is for a run"));
    }
    let base = args.base.clone().or_else(|| diffusion_base(path));
    let base = base.ok_or_else(|| {
        Error::config("`--base` is missing: only a run knows the model that was tuned")
    })?;
    let metadata = KohyaMetadata {
        name,
        ..KohyaMetadata::default()
    };
    Ok(Source {
        weights: find_weights(path)?,
        base,
        vae: args.vae.clone(),
        metadata,
    })
}

/// The best weights of a run, or those of a checkpoint, with what its record says of them.
fn source_of_run(args: &ExportArgs, name: String) -> Result<Source> {
    let (run, checkpoint) = (args.source.as_path(), args.checkpoint);
    let file = run.join("config.toml");
    let config = config::load_any(&file, &[])?;
    let text = toml::to_string_pretty(&config).map_err(|error| Error::config(error.to_string()))?;
    let tuned: Tuned = manifest::read(run)?;
    let record = &tuned.record;
    let (train, adapter, seed, images, trigger_phrase) = match &config {
        Config::Subject(config) => {
            let SubjectRecord {
                token,
                class,
                photos,
                ..
            } = SubjectManifest::read(run)?.subject;
            let phrase = format!("{token} {class}");
            (
                &config.train,
                &config.adapter,
                config.run.seed,
                Some(photos.len()),
                Some(phrase),
            )
        }
        Config::Pairs(config) => {
            let seed = config.run.seed;
            (&config.train, &config.adapter, seed, None, None)
        }
        Config::ImageRounds(config) => {
            let subject = &config.subject;
            let phrase = subject.class.as_ref();
            let phrase = phrase.map(|class| format!("{} {class}", subject.token));
            (
                &config.train,
                &config.adapter,
                config.run.seed,
                None,
                phrase,
            )
        }
        _ => {
            return Err(Error::data(&file, "of a run that tunes no diffusion model"));
        }
    };
    let metadata = KohyaMetadata {
        name,
        resolution: train.resolution.map_or(0, i64::from),
        images,
        steps: checkpoint.or(record.best.map(|(step, _)| step)),
        learning_rate: Some(train.learning_rate),
        seed: Some(seed),
        trigger_phrase,
        extra: BTreeMap::from([("preftune_config".to_owned(), text)]),
        ..KohyaMetadata::default()
    };
    let base = match &args.base {
        Some(base) => base.clone(),
        None => base_of(&tuned.base_model, run)?,
    };
    let is_whole = adapter.kind == AdapterKind::Full
        || args
            .format
            .iter()
            .any(|format| matches!(format, Format::Merged | Format::SingleFile));
    let vae = if is_whole {
        vae_of(args.vae.as_deref(), &tuned, run)?.map(Path::to_owned)
    } else {
        None
    };
    let weights = match checkpoint {
        None => find_weights(&best_of(run)?)?,
        Some(step) => {
            let path = weights_at(run, step)?.path().to_owned();
            match adapter.kind {
                AdapterKind::Full => TunedPart::UNet(path),
                AdapterKind::Lora => TunedPart::Lora(LoraSource {
                    path,
                    checkpoint_of: Some(match &adapter.start {
                        Some(start) => Strengths::Start(weights_of(start)?),
                        None => Strengths::Alpha(adapter.alpha),
                    }),
                }),
            }
        }
    };
    Ok(Source {
        weights,
        base,
        vae,
        metadata,
    })
}

fn find_weights(path: &Path) -> Result<TunedPart> {
    let unet = path.join("unet");
    let lora = adapter::weights_in(path).or_else(|| peft::weights_in(path));
    if path.is_file() || lora.is_some() {
        let path = path.to_owned();
        Ok(TunedPart::Lora(LoraSource {
            path,
            checkpoint_of: None,
        }))
    } else if unet.is_dir() {
        Ok(TunedPart::UNet(unet))
    } else if path.join("config.json").exists() {
        Ok(TunedPart::UNet(path.to_owned()))
    } else {
        Err(Error::data(
            path,
            format!("holds neither `{}` nor a U-Net", peft::FILE_NAME),
        ))
    }
}

/// A name for the LoRA: that of its folder where the file has the name that all have.
pub(crate) fn stem(source: &Path) -> String {
    let name = name_of(source);
    let stem = [".safetensors", ".bin", ".pt", ".ckpt"]
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(&name);
    match source.parent() {
        Some(parent) if name == peft::FILE_NAME => name_of(parent),
        _ => stem.to_owned(),
    }
}

fn print(exported: &Exported, what: &str, as_json: bool) {
    let Exported {
        files,
        checked,
        widened,
    } = exported;
    if let Some(first) = widened.first() {
        let count = widened.len();
        eprintln!(
            "warning: {count} {what} (`{first}`{}) hold what tuning changed as f32: it is lost in the type of the others",
            if count > 1 { " and others" } else { "" }
        );
    }
    if as_json {
        println!(
            "{}",
            json!({ "files": files, "checked": checked, "of": checked, "unit": what, "widened": widened })
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
