//! What goes into a run: photos, prompts, subjects, records.

pub mod png;
