//! Re-exports torch-sys 0.24 for `diffusers` 0.3; see `compat/tch`.
pub use torch_sys_current::*;
