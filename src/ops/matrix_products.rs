//! Which library multiplies matrices on a CPU.

use std::ffi::{CStr, c_char};

use tch::TchError;

#[expect(unsafe_code, reason = "declares `matrix_products.cpp`")]
unsafe extern "C" {
    fn preftune_use_onednn_for_products() -> *mut c_char;
    fn preftune_release(message: *mut c_char);
}

/// Lets this process's large matrix products in f32 go to oneDNN where libtorch's choice, MKL, is slow: on processors that
/// are not Intel's. Both round in the last place as they like. To be called before other threads run.
///
/// # Errors
/// The error that libtorch reports.
pub fn use_the_faster_library() -> Result<(), TchError> {
    #[expect(
        unsafe_code,
        reason = "a C function without arguments; what comes back is null or a string of the C library"
    )]
    let problem = unsafe {
        let message = preftune_use_onednn_for_products();
        if message.is_null() {
            None
        } else {
            let text = CStr::from_ptr(message).to_string_lossy().into_owned();
            preftune_release(message);
            Some(text)
        }
    };
    problem.map_or(Ok(()), |text| Err(TchError::Torch(text)))
}
