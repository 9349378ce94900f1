//! The Stable Diffusion family: U-Net, autoencoder, noise schedule and samplers, from Hugging Face folders.

mod attention;
mod blocks;
mod conditioning;
mod config;
mod embeddings;
mod unet;

pub use conditioning::{AddedConditioning, Conditioning};
pub use config::{AddedConfig, BlockKind, UNetConfig};
pub use unet::{ContextCache, UNet};
