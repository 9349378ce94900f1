//! Tensors' memory after it has been given to another allocator: alignment, contents, use of what was freed.

use preftune::ops::cpu_memory::keep_and_reuse_memory;
use tch::{Device, Kind, Tensor};

use crate::support::in_own_process;

/// In a process of its own: the allocator is that of the whole process.
#[test]
fn freed_memory_is_used_again() {
    let _ = in_own_process("cpu_memory::blocks_of_tensors");
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn blocks_of_tensors() {
    // What is freed after the change need not come from it.
    let before = Tensor::arange(1000, (Kind::Float, Device::Cpu));
    keep_and_reuse_memory();
    let copy = before.copy();
    drop(before);
    assert_eq!(copy, Tensor::arange(1000, (Kind::Float, Device::Cpu)));

    let empty = |count: i64| Tensor::empty([count], (Kind::Float, Device::Cpu));
    for count in [0, 1, 15, 1000, 1 << 20, 10 << 20] {
        assert_eq!(empty(count).data_ptr() as usize % 64, 0, "{count} numbers");
    }
    // A block between two others, of about 3 MB, as activations have it.
    let mut blocks = [800_000; 3].map(empty);
    let place = blocks[1].data_ptr();
    blocks[1] = empty(1);
    let next = empty(800_000);
    if cfg!(target_env = "gnu") {
        assert_eq!(next.data_ptr(), place, "a freed block is not used again");
    }
    // Storage that grows keeps what it holds.
    let mut grown = copy.copy();
    let _ = grown.resize_([2000]);
    assert_eq!(grown.narrow(0, 0, 1000), copy);
}
