//! `preftune export`: tuned weights in the forms that diffusers, ComfyUI and A1111 load.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;
use tch::Kind;

use crate::error::{Error, Result};
use crate::models::export::{
    Exported, LoraFormat, Target, export_full, export_lora, export_merged, name_of,
};
use crate::models::lora::{KohyaMetadata, peft};

#[derive(Args)]
pub(super) struct ExportArgs {
    /// LoRA file, folder with one, or folder of a tuned U-Net.
    source: PathBuf,
    /// Folder to create.
    #[arg(long)]
    out: PathBuf,
    /// What to write; may be repeated for the two LoRA formats. The default is `peft,kohya` for a LoRA and
    /// `diffusers` for a whole U-Net.
    #[arg(long, value_enum, value_delimiter = ',')]
    format: Vec<Format>,
    /// Folder of the base model that was tuned.
    #[arg(long)]
    base: PathBuf,
    /// Number type of the weights; by default f16 in kohya files, else as stored.
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Name of the LoRA in other tools; by default that of the source.
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
enum Tuned {
    Lora(PathBuf),
    UNet(PathBuf),
}

pub(super) fn run(args: &ExportArgs) -> Result<()> {
    let tuned = find_tuned(&args.source)?;
    let target = Target {
        folder: args.out.clone(),
        kind: args.dtype.map(|dtype| match dtype {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::Bf16 => Kind::BFloat16,
        }),
        force: args.force,
    };
    let (exported, what) = match (&tuned, args.format.as_slice()) {
        (Tuned::UNet(unet), [] | [Format::Diffusers]) => {
            (export_full(unet, &args.base, &target)?, "tensors")
        }
        (Tuned::Lora(lora), [Format::Merged]) => {
            (export_merged(lora, &args.base, &target)?, "tensors")
        }
        (Tuned::Lora(lora), formats) => {
            let formats = lora_formats(formats)?;
            let metadata = KohyaMetadata {
                name: args.name.clone().unwrap_or_else(|| stem(&args.source)),
                ..KohyaMetadata::default()
            };
            let exported = export_lora(lora, &args.base, &target, &formats, &metadata)?;
            (exported, "modules")
        }
        (Tuned::UNet(_), _) => {
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

fn find_tuned(source: &Path) -> Result<Tuned> {
    if !source.exists() {
        return Err(Error::data(source, "no such file or folder"));
    }
    let unet = source.join("unet");
    if source.is_file() || source.join(peft::FILE_NAME).exists() {
        Ok(Tuned::Lora(source.to_owned()))
    } else if unet.is_dir() {
        Ok(Tuned::UNet(unet))
    } else if source.join("config.json").exists() {
        Ok(Tuned::UNet(source.to_owned()))
    } else {
        Err(Error::data(
            source,
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
