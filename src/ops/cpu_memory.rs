//! The memory of freed tensors on a CPU: kept and used again.

#[expect(unsafe_code, reason = "declares `cpu_memory.cpp`")]
unsafe extern "C" {
    fn preftune_keep_and_reuse_memory();
}

/// Lets this process keep the memory of freed tensors, and use it again for tensors of the same size: with glibc, neither is
/// what libtorch does. To be called before there are tensors.
pub fn keep_and_reuse_memory() {
    #[expect(
        unsafe_code,
        reason = "a C function without arguments that sets numbers of the allocator and hands libtorch another one"
    )]
    unsafe {
        preftune_keep_and_reuse_memory();
    }
}
