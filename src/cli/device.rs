//! The flags `--device` and `--precision`, shared by the verbs that run models.

use clap::{Args, ValueEnum};
use tch::{Device, Kind};

use crate::config::Precision;
use crate::error::Result;
use crate::models::device;

#[derive(Args)]
pub(super) struct DeviceArgs {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Type of the forward passes; `auto` is bf16 on a GPU and fp32 on a CPU.
    #[arg(long, value_enum, default_value = "auto")]
    precision: PrecisionArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum PrecisionArg {
    Auto,
    Fp32,
    Bf16,
}

impl DeviceArgs {
    pub(super) fn resolve(&self) -> Result<(Device, Kind)> {
        let precision = match self.precision {
            PrecisionArg::Auto => Precision::Auto,
            PrecisionArg::Fp32 => Precision::Fp32,
            PrecisionArg::Bf16 => Precision::Bf16,
        };
        resolve(&self.device, precision)
    }
}

/// The device and the type of the passes on it.
pub(super) fn resolve(name: &str, precision: Precision) -> Result<(Device, Kind)> {
    let device = device::parse(name)?;
    let kind = match precision {
        Precision::Auto if device.is_cuda() => Kind::BFloat16,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Auto | Precision::Fp32 => Kind::Float,
    };
    Ok((device, kind))
}
