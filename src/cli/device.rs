//! The flags `--device` and `--precision`, shared by the verbs that run models.

use clap::Args;
use tch::{Device, Kind};

use crate::config::Precision;
use crate::error::Result;
use crate::jobs::open::resolve;

#[derive(Args)]
pub(super) struct DeviceArgs {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Type of the forward passes; `auto` is bf16 on a GPU and fp32 on a CPU.
    #[arg(long, value_enum, default_value = "auto")]
    precision: Precision,
}

impl DeviceArgs {
    pub(super) fn resolve(&self) -> Result<(Device, Kind)> {
        resolve(&self.device, self.precision)
    }
}
