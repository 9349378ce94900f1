//! The Stable Diffusion family: U-Net, autoencoder, noise schedule and samplers, from Hugging Face folders.

mod attention;
mod blocks;
mod conditioning;
mod config;
mod cost;
mod dpm_solver;
mod embeddings;
pub mod pipeline;
mod points;
mod sampler_config;
mod sampling;
mod schedule;
mod unet;
mod vae;
mod vae_source;

pub use conditioning::{AddedConditioning, Conditioning};
pub use config::{AddedConfig, BlockKind, UNetConfig};
pub use cost::{PassShape, Trained, UNetCost};
pub use sampling::{Denoised, Plan, SamplerKind, SamplingOptions, denoise};
pub use schedule::{NoiseSchedule, Prediction, Spacing};
pub use unet::{ContextCache, UNet};
pub use vae::{Posterior, Vae, from_bytes, to_bytes};
pub use vae_source::VaeSource;
