//! Batches that are halved where a GPU's memory does not hold them.

use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};

use preftune::error::{Error, Result};
use preftune::ops::halving::in_halves;
use tch::{Kind, TchError, Tensor};

const FULL: &str = "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA out of memory. Tried to allocate 2.50 GiB\")";

/// A device that holds so many at a time.
fn holds(most: usize, range: Range<usize>) -> Range<usize> {
    assert!(range.len() <= most, "{FULL}");
    range
}

#[test]
fn a_batch_that_does_not_fit_is_halved_and_those_after_it_too() {
    let done = in_halves(10, 8, |range| Ok(holds(2, range))).unwrap();
    assert_eq!(done, [0..2, 2..4, 4..6, 6..8, 8..10]);
    let whole = in_halves(5, 8, |range| Ok(holds(8, range))).unwrap();
    assert_eq!(whole.len(), 1);
    assert_eq!(whole[0], 0..5);
    // libtorch's refusal as an error.
    let refused = |range: Range<usize>| {
        let full = TchError::Torch("CUDA out of memory. Tried to allocate 1.00 GiB".to_owned());
        if range.len() > 3 {
            Err(Error::from(full))
        } else {
            Ok(range)
        }
    };
    assert_eq!(in_halves(7, 7, refused).unwrap(), [0..3, 3..6, 6..7]);
}

#[test]
fn one_that_does_not_fit_and_other_faults_are_not_tried_again() {
    let mut tried = 0;
    let alone = panic::catch_unwind(AssertUnwindSafe(|| {
        in_halves(2, 2, |range| {
            tried += 1;
            Ok(holds(0, range))
        })
    }));
    assert!(alone.is_err());
    assert_eq!(tried, 2, "both, then one");
    let other = panic::catch_unwind(|| in_halves(4, 4, |_| -> Result<()> { panic!("a fault") }));
    assert!(other.is_err());
    let error = in_halves(4, 4, |_| -> Result<()> { Err(Error::config("wrong")) });
    assert_eq!(error.unwrap_err().to_string(), "wrong");
}

#[test]
fn gradients_are_recorded_after_a_batch_that_did_not_fit() {
    let weight = Tensor::ones([2], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
    in_halves(4, 4, |range| Ok(holds(1, range))).unwrap();
    assert!((&weight * 2.0).requires_grad());
}
