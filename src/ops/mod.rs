//! Maths without models: attention, seeded noise, resizing, log-probs of tokens, stable functions of them, token divergences,
//! activation checkpointing, the fused AdamW kernel, Cholesky factors; copies that nothing waits for, batches that fit into
//! memory; and which library multiplies and where tensors lie on a CPU.

pub mod attention;
pub mod cholesky;
pub mod cpu_memory;
pub mod fused_adamw;
pub mod halving;
pub mod logprobs;
pub mod matrix_products;
pub mod random;
pub mod resample;
pub mod stable;
pub mod statistics;
pub mod tape;
pub mod token_kl;
pub mod transfer;
