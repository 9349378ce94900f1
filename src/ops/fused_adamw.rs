//! One AdamW update of many tensors in one pass over their memory: libtorch's fused kernel, which tch does not bind.

use std::ffi::{CStr, c_char};

use tch::{Kind, TchError, Tensor};
use torch_sys::C_tensor;

/// Constants of an update.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Step length.
    pub learning_rate: f64,
    /// Averaging of the gradient.
    pub beta_1: f64,
    /// Averaging of the squared gradient.
    pub beta_2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Constant beside the root of the second moment.
    pub epsilon: f64,
}

#[expect(unsafe_code, reason = "declares `fused_adamw.cpp`")]
unsafe extern "C" {
    fn preftune_fused_adamw(
        parameters: *const *mut C_tensor,
        averages: *const *mut C_tensor,
        square_averages: *const *mut C_tensor,
        count: usize,
        step: *const C_tensor,
        divisor: *const C_tensor,
        learning_rate: f64,
        beta_1: f64,
        beta_2: f64,
        weight_decay: f64,
        epsilon: f64,
    ) -> *mut c_char;
    fn preftune_release(message: *mut c_char);
}

/// Updates `[parameter, average of the gradient, average of its square]` (f32 or f64, of one layout and device) by AdamW
/// (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), all gradients divided by `divisor` (a scalar f32 on the
/// device: no sync), and drops the gradients. `steps` counts the updates with this one, from 1. Tensors without a
/// gradient stay as they are.
///
/// # Errors
/// The error of libtorch's kernel for tensors that do not belong together.
pub fn fused_adamw(
    slots: &[[&Tensor; 3]],
    steps: u64,
    divisor: &Tensor,
    update: Update,
) -> Result<(), TchError> {
    let pointers = |part: usize| -> Vec<*mut C_tensor> {
        slots
            .iter()
            .map(|slot| slot[part].as_ptr().cast_mut())
            .collect()
    };
    let [parameters, averages, square_averages] = [0, 1, 2].map(pointers);
    let step = Tensor::full([], steps as f64, (Kind::Float, divisor.device()));
    #[expect(
        unsafe_code,
        reason = "libtorch's kernel behind a C function; every pointer is of a tensor that outlives the call, and what \
                  comes back is null or a string of the C library"
    )]
    let problem = unsafe {
        let message = preftune_fused_adamw(
            parameters.as_ptr(),
            averages.as_ptr(),
            square_averages.as_ptr(),
            slots.len(),
            step.as_ptr(),
            divisor.as_ptr(),
            update.learning_rate,
            update.beta_1,
            update.beta_2,
            update.weight_decay,
            update.epsilon,
        );
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
