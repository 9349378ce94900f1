//! The inputs of a run: photos of a subject, prompts, DreamBench, records, the emoji world. Reads files and
//! checks them once, at the border; nothing here knows of models.

pub mod captions;
pub mod cells;
pub mod columns;
mod contradictions;
pub mod dreambench;
pub mod embeddings;
pub mod groups;
pub mod image_preferences;
mod jpeg;
pub mod json_lines;
pub mod left_out;
pub mod listing;
mod node_graph;
mod pair_columns;
mod pair_folder;
pub mod pair_split;
pub mod photo;
pub mod pictures;
pub mod placed;
pub mod png;
pub mod preferences;
pub mod prompts;
pub mod quality;
pub mod subject;
pub mod table;
pub mod text;
pub mod world;
