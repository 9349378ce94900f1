//! The flags and the output that protocols share.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::cli::device::DeviceArgs;
use crate::cli::model::named;
use crate::cli::output::{check_folder_of, print_json};
use crate::error::Result;
use crate::files::write_json;
use crate::jobs::eval::judges::EncoderReport;
use crate::jobs::eval::plan::ImageSettings;

/// Flags that every protocol of runs has.
#[derive(Args)]
pub(super) struct CommonArgs {
    /// Run folders, or folders of runs such as `train --all-subjects` makes.
    #[arg(required = true, value_name = "RUN")]
    pub(super) runs: Vec<PathBuf>,
    /// Encoder of the lambda-Harmonic reward; each run's own where it is not given.
    #[arg(long = "encoder", alias = "reward", value_name = "FOLDER")]
    #[arg(value_parser = named())]
    pub(super) reward: Option<PathBuf>,
    /// An encoder of images alone: DINO (facebook/dino-vits16), DINOv2 or DINOv3; without it there is no DINO column.
    #[arg(long, value_name = "FOLDER")]
    #[arg(value_parser = named())]
    pub(super) dino: Option<PathBuf>,
    /// Images for each prompt.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(super) images_per_prompt: u64,
    /// Side of the images in pixels; the run's training resolution where it is not given, else the model's own.
    #[arg(long, value_name = "PIXELS")]
    pub(super) size: Option<u32>,
    /// Seed of the images.
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
    /// Folder for images and figures; each run's `eval` where it is not given.
    #[arg(long, value_name = "FOLDER")]
    pub(super) out: Option<PathBuf>,
    #[command(flatten)]
    pub(super) json: JsonArgs,
    /// No progress.
    #[arg(long)]
    pub(super) quiet: bool,
    #[command(flatten)]
    pub(super) device: DeviceArgs,
}

impl CommonArgs {
    /// The settings that these flags are.
    pub(super) fn settings(&self) -> Result<ImageSettings> {
        let (device, kind) = self.device.resolve()?;
        Ok(ImageSettings {
            runs: self.runs.clone(),
            reward: self.reward.clone(),
            dino: self.dino.clone(),
            images_per_prompt: self.images_per_prompt as usize,
            size: self.size,
            seed: self.seed,
            out: self.out.clone(),
            device,
            kind,
        })
    }
}

/// A line that names an encoder in its role.
pub(super) fn encoder_line(role: &str, encoder: &EncoderReport) -> String {
    let hash: String = encoder.weights_sha256.chars().take(12).collect();
    format!("{role:<7} {} (sha256 {hash})\n", encoder.name)
}

/// The flag `--json` of verbs whose figures are also kept in files.
#[derive(Args)]
pub(super) struct JsonArgs {
    /// Print JSON instead of the table; `--json=FILE` writes it there and prints the table.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    json: Option<PathBuf>,
}

impl JsonArgs {
    /// Refuses a file for the figures that could not be written after hours of sampling.
    pub(super) fn check(&self) -> Result<()> {
        match &self.json {
            Some(file) => check_folder_of(file, "--json"),
            None => Ok(()),
        }
    }

    /// Gives out the report where it was asked for. `true` where the table is to be printed.
    pub(super) fn write(&self, report: &Value) -> Result<bool> {
        match &self.json {
            Some(path) if path.as_os_str() == "-" => {
                print_json(report);
                Ok(false)
            }
            Some(path) => write_json(path, report).map(|()| true),
            None => Ok(true),
        }
    }
}
