//! Judging tuned models by the protocols of their field: from settings to figures, which are also kept with the runs. A
//! protocol is one file or folder; figures as formulas are in [`crate::eval`].

pub mod confidence;
pub mod dreambench;
pub mod judges;
pub mod perplexity;
pub mod plan;
mod sample;
pub mod subject;
pub mod text;
pub mod world;
