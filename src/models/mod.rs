//! Models and their weights: nothing here knows of configs of a run, of losses or of files other than weights.

pub mod align;
pub mod clip;
pub mod device;
pub mod diffusion;
pub mod dino;
pub mod encoders;
pub mod export;
pub mod gguf;
pub mod heads;
pub mod json;
pub mod layers;
pub mod lm;
mod loader;
pub mod lora;
pub mod open_clip;
mod pickle;
pub mod preprocess;
pub mod prompt_encoder;
pub mod prompt_notes;
pub mod recognize;
mod save;
pub mod siglip;
pub mod single_file;
mod stored;
pub mod tokenizer;
pub mod transformer;
pub mod weights;
