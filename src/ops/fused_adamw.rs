//! What an optimiser does to many tensors at once, by kernels of libtorch that tch does not bind: one AdamW update in one
//! pass over their memory, norms, a move towards others. On a GPU each is a handful of launches whatever the number of tensors.

use std::ffi::{CStr, c_char};
use std::ptr;

use tch::{Kind, TchError, Tensor, no_grad};
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
    fn preftune_norms(
        tensors: *const *mut C_tensor,
        count: usize,
        order: f64,
        norms: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn preftune_lerp(
        tensors: *const *mut C_tensor,
        targets: *const *mut C_tensor,
        count: usize,
        weight: f64,
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
    unsafe {
        outcome(preftune_fused_adamw(
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
        ))
    }
}

/// Which norm of [`norms`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The root of the sum of squares.
    Euclidean,
    /// The largest magnitude; NaN where there is one.
    Largest,
}

/// The norm of each of `tensors` that is not empty, `[n]` on their device, outside any graph; `None` where there is none.
///
/// # Errors
/// The error of libtorch, for tensors that do not belong together.
pub fn norms(tensors: &[Tensor], order: Order) -> Result<Option<Tensor>, TchError> {
    let order = match order {
        Order::Euclidean => 2.0,
        Order::Largest => f64::INFINITY,
    };
    let pointers: Vec<*mut C_tensor> = tensors
        .iter()
        .map(|tensor| tensor.as_ptr().cast_mut())
        .collect();
    let mut norms = ptr::null_mut();
    #[expect(
        unsafe_code,
        reason = "as above; what comes back is a new tensor or a string of the C library"
    )]
    let norms = no_grad(|| unsafe {
        outcome(preftune_norms(
            pointers.as_ptr(),
            pointers.len(),
            order,
            &raw mut norms,
        ))
        .map(|()| Tensor::from_ptr(norms))
    })?;
    Ok(norms.defined().then_some(norms))
}

/// Moves every `[tensor, target]`'s tensor by the share `weight` towards its target, outside any graph.
///
/// # Errors
/// The error of libtorch, for tensors that do not belong together.
pub fn lerp(pairs: &[[&Tensor; 2]], weight: f64) -> Result<(), TchError> {
    let [tensors, targets] = [0, 1].map(|part: usize| -> Vec<*mut C_tensor> {
        pairs
            .iter()
            .map(|pair| pair[part].as_ptr().cast_mut())
            .collect()
    });
    #[expect(unsafe_code, reason = "as above")]
    no_grad(|| unsafe {
        outcome(preftune_lerp(
            tensors.as_ptr(),
            targets.as_ptr(),
            pairs.len(),
            weight,
        ))
    })
}

/// What a C function says: null, or a text of the C library, which is freed.
#[expect(
    unsafe_code,
    reason = "reads and frees a string that the C++ files beside this one return"
)]
pub(crate) unsafe fn outcome(message: *mut c_char) -> Result<(), TchError> {
    if message.is_null() {
        return Ok(());
    }
    let text = unsafe { CStr::from_ptr(message) }
        .to_string_lossy()
        .into_owned();
    unsafe { preftune_release(message) };
    Err(TchError::Torch(text))
}
