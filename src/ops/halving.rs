//! Work in batches that are halved where a GPU's memory does not hold them.

use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};

use tch::no_grad_guard;

use crate::error::{Error, Result, is_out_of_memory};

/// Results of `work` over `0..count` in order, `batch` at a time. Where memory runs out, that batch and all that follow are
/// half as large; `work` must give the same whatever its range, and need no gradient.
///
/// # Errors
/// Those of `work`; a batch of one for which there is no memory.
///
/// # Panics
/// Where `work` does, but for memory.
pub fn in_halves<T>(
    count: usize,
    batch: usize,
    mut work: impl FnMut(Range<usize>) -> Result<T>,
) -> Result<Vec<T>> {
    let (mut batch, mut begin) = (batch.max(1), 0);
    let mut results = Vec::new();
    while begin < count {
        let range = begin..count.min(begin + batch);
        let (end, size) = (range.end, range.len());
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            // Put back when it unwinds.
            let _no_grad = no_grad_guard();
            work(range)
        }));
        match outcome {
            Ok(Err(Error::Torch(error))) if size > 1 && is_out_of_memory(&error.to_string()) => {
                batch = size / 2;
            }
            // Most of tch's operators panic where libtorch refuses.
            Err(payload) => {
                let full = payload.downcast_ref::<String>();
                if size == 1 || !full.is_some_and(|text| is_out_of_memory(text)) {
                    panic::resume_unwind(payload);
                }
                batch = size / 2;
            }
            Ok(result) => {
                results.push(result?);
                begin = end;
            }
        }
    }
    Ok(results)
}
