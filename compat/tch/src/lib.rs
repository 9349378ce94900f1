//! Re-exports tch 0.24 so that `diffusers` 0.3, written for tch 0.13, shares one libtorch binding with preftune.
pub use tch_current::*;
