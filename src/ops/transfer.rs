//! Copies to and from a GPU that the program does not wait for. A plain copy from or to the computer's memory waits until
//! all that was launched before it is done, so that the GPU then stands idle while the next work is being launched.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use tch::kind::Element;
use tch::{Device, TchError, Tensor};
use torch_sys::C_tensor;

use super::fused_adamw::outcome;

#[expect(unsafe_code, reason = "declares `transfer.cpp`")]
unsafe extern "C" {
    fn preftune_upload(
        here: *const C_tensor,
        device: c_int,
        there: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn preftune_begin_download(there: *const C_tensor, download: *mut *mut c_void) -> *mut c_char;
    fn preftune_end_download(download: *mut c_void, here: *mut *mut C_tensor) -> *mut c_char;
    fn preftune_drop_download(download: *mut c_void);
}

/// Bytes from which a copy is waited for: the memory that copies go through is kept until the program ends.
const WAITED_FOR: usize = 64 << 20;

/// `here` on `device`, without a graph. What is on `device` already is not copied.
///
/// # Panics
/// Where libtorch refuses, as all operators of tch that return tensors do: the GPU's memory is full.
pub fn upload(here: &Tensor, device: Device) -> Tensor {
    let Device::Cuda(index) = device else {
        return here.to_device(device);
    };
    let bytes = here.numel() * here.kind().elt_size_in_bytes();
    if here.device() != Device::Cpu || bytes == 0 || bytes > WAITED_FOR {
        return here.to_device(device);
    }
    let mut there = ptr::null_mut();
    #[expect(
        unsafe_code,
        reason = "C++ behind a C function; the tensor outlives the call, and what comes back is a new one or a text"
    )]
    let copied = unsafe {
        outcome(preftune_upload(
            here.as_ptr(),
            index as c_int,
            &raw mut there,
        ))
        .map(|()| Tensor::from_ptr(there))
    };
    copied.expect("a copy to the GPU")
}

/// Numbers as a tensor `[n]` on `device`.
pub fn upload_slice<T: Element>(values: &[T], device: Device) -> Tensor {
    upload(&Tensor::from_slice(values), device)
}

/// Numbers on their way from a device.
pub struct Download(Way);

enum Way {
    /// They were in the computer's memory.
    Here(Tensor),
    /// `Download` of `transfer.cpp`, owned.
    Cuda(*mut c_void),
}

impl Download {
    /// Begins the copy of `values` `[n]`; what is launched later does not hold it up.
    ///
    /// # Errors
    /// The error of libtorch.
    pub fn begin(values: &Tensor) -> Result<Self, TchError> {
        if !values.device().is_cuda() {
            return Ok(Self(Way::Here(values.shallow_clone())));
        }
        let mut download = ptr::null_mut();
        #[expect(
            unsafe_code,
            reason = "C++ behind a C function; the tensor outlives the call"
        )]
        unsafe {
            outcome(preftune_begin_download(values.as_ptr(), &raw mut download))?;
        }
        Ok(Self(Way::Cuda(download)))
    }

    /// The numbers, once they are there.
    ///
    /// # Errors
    /// The error of libtorch, that of an earlier operator on the GPU included.
    pub fn finish(self) -> Result<Vec<f64>, TchError> {
        match &self.0 {
            Way::Here(values) => Vec::try_from(values),
            Way::Cuda(download) => {
                let mut here = ptr::null_mut();
                #[expect(
                    unsafe_code,
                    reason = "C++ behind a C function; the pointer is of `preftune_begin_download`, and a new tensor comes \
                              back"
                )]
                let here = unsafe {
                    outcome(preftune_end_download(*download, &raw mut here))?;
                    Tensor::from_ptr(here)
                };
                Vec::try_from(here)
            }
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if let Way::Cuda(download) = self.0 {
            #[expect(
                unsafe_code,
                reason = "the pointer is of `preftune_begin_download` and is not used again"
            )]
            unsafe {
                preftune_drop_download(download);
            }
        }
    }
}
