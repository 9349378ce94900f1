//! Flags that name a model: a path, or its name on the Hugging Face hub, which is looked up in the cache.

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};

use crate::hub::place;
use crate::installed::find;

/// The value of a flag that names a model.
pub(super) fn named() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(place)
}

/// As [`named`], of a model that may be one that comes with the program.
pub(super) fn named_or_installed() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(|path| place(find(path)))
}
