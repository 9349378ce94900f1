//! From the user's word for a device to a libtorch device. CUDA is loaded only when it is asked for or present:
//! linkers drop libtorch_cuda (tch-rs #907), and a CPU run starts faster without it.

use std::path::Path;
use std::sync::OnceLock;

use tch::{Cuda, Device};

use crate::error::{Error, Result};

/// Reads `auto`, `cpu`, `cuda` or `cuda:N`. `auto` takes the first GPU where there is one.
///
/// # Errors
/// An unknown spelling, or a GPU that cannot be used; a GPU that was asked for is never replaced by the CPU.
pub fn parse(device: &str) -> Result<Device> {
    let unavailable = |message: String| Error::Device {
        device: device.to_owned(),
        message,
    };
    match device {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(if gpu_driver_present() && cuda().is_ok() {
            Device::Cuda(0)
        } else {
            Device::Cpu
        }),
        _ => {
            let index = match device
                .strip_prefix("cuda")
                .map(|rest| rest.strip_prefix(':').unwrap_or(rest))
            {
                Some("") => Ok(0),
                Some(number) => number.parse::<usize>().map_err(|_| ()),
                None => Err(()),
            };
            let Ok(index) = index else {
                return Err(unavailable(
                    "not a device; known are `auto`, `cpu`, `cuda` and `cuda:N`".to_owned(),
                ));
            };
            let count = cuda().map_err(|message| {
                unavailable(message)
                    .with_hint("use `--device cpu`, or run where an NVIDIA GPU and its driver are")
            })?;
            if index >= count {
                return Err(unavailable(format!(
                    "libtorch sees {count} GPU(s), numbered from 0"
                )));
            }
            Ok(Device::Cuda(index))
        }
    }
}

/// The number of GPUs that libtorch can use.
///
/// # Errors
/// Why it can use none.
pub fn gpus() -> std::result::Result<usize, String> {
    cuda()
}

/// `true` if the system has a driver for NVIDIA GPUs.
pub fn gpu_driver_present() -> bool {
    ["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"]
        .iter()
        .any(|path| Path::new(path).exists())
}

/// Loads libtorch's CUDA library once and counts the GPUs, at least one.
fn cuda() -> std::result::Result<usize, String> {
    static COUNT: OnceLock<std::result::Result<usize, String>> = OnceLock::new();
    COUNT.get_or_init(load_cuda).clone()
}

#[expect(
    unsafe_code,
    reason = "dlopen is how a library that the linker dropped is loaded on demand"
)]
fn load_cuda() -> std::result::Result<usize, String> {
    // SAFETY: a constant C string, and a library whose initialisers are libtorch's own.
    let handle = unsafe {
        libc::dlopen(
            c"libtorch_cuda.so".as_ptr(),
            libc::RTLD_NOW | libc::RTLD_GLOBAL,
        )
    };
    if handle.is_null() {
        // SAFETY: dlerror returns null or a C string that stays valid until the next call on this thread.
        let reason = unsafe {
            let text = libc::dlerror();
            if text.is_null() {
                String::new()
            } else {
                std::ffi::CStr::from_ptr(text)
                    .to_string_lossy()
                    .into_owned()
            }
        };
        return Err(format!("libtorch's CUDA library does not load: {reason}"));
    }
    match usize::try_from(Cuda::device_count()) {
        Ok(count) if count > 0 && Cuda::is_available() => Ok(count),
        _ => Err("libtorch sees no NVIDIA GPU".to_owned()),
    }
}
