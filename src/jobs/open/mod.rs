//! From what a user names to what computes: a device, a pipeline, a language model, features of images.

pub(crate) mod encode;
pub(crate) mod image;
pub(crate) mod sampler;
pub(crate) mod text;

use tch::{Device, Kind};

use crate::config::{Precision, SamplerName};
use crate::distributed::Peers;
use crate::error::Result;
use crate::models::device;
use crate::models::diffusion::SamplerKind;

/// The device and the type of the passes on it.
pub(crate) fn resolve(name: &str, precision: Precision) -> Result<(Device, Kind)> {
    let device = device::parse(name)?;
    let kind = match precision {
        Precision::Auto if device.is_cuda() => Kind::BFloat16,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Auto | Precision::Fp32 => Kind::Float,
    };
    Ok((device, kind))
}

/// As [`resolve`] for one of several processes: where no GPU is named by its number, each takes its own of its machine.
///
/// # Errors
/// As [`resolve`]; there are fewer GPUs than processes.
pub(crate) fn resolve_for(
    peers: &Peers,
    name: &str,
    precision: Precision,
) -> Result<(Device, Kind)> {
    let (device, kind) = resolve(name, precision)?;
    if peers.are_none() || !device.is_cuda() || name.contains(':') {
        return Ok((device, kind));
    }
    match peers.local_rank()? {
        Some(number) => resolve(&format!("cuda:{number}"), precision).map_err(|error| {
            error.with_hint("each process takes a GPU of its own: start no more than there are")
        }),
        None => Ok((device, kind)),
    }
}

impl From<SamplerName> for SamplerKind {
    fn from(name: SamplerName) -> Self {
        match name {
            SamplerName::Ddim => Self::Ddim,
            SamplerName::DpmSolverPp => Self::DpmSolverPp,
            SamplerName::Euler => Self::Euler,
        }
    }
}
