//! What goes into a run: photos of a subject, prompts, DreamBench, records, the emoji world. Reads files and
//! checks them once, at the border; nothing here knows of models.

pub mod captions;
pub mod dreambench;
pub mod embeddings;
pub mod image_preferences;
mod jpeg;
pub mod json_lines;
mod pair_folder;
pub mod photo;
pub mod pictures;
pub mod png;
pub mod preferences;
pub mod prompts;
pub mod quality;
pub mod subject;
pub mod table;
pub mod text;
pub mod world;
