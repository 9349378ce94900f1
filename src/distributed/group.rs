//! A group of processes by libtorch's c10d: the Rust side of `c10d.cpp`.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;
use std::time::Duration;

use tch::Tensor;
use torch_sys::C_tensor;

use super::Place;
use crate::error::{Error, Result};
use crate::ops::fused_adamw::outcome;

/// Bytes of gradients that travel together: as PyTorch's own, few enough that the first is under way while the next is packed.
const BUCKET: usize = 25 << 20;

#[expect(unsafe_code, reason = "declares `c10d.cpp`")]
unsafe extern "C" {
    fn preftune_serve_meeting(port: *mut u16, meeting: *mut *mut c_void) -> *mut c_char;
    fn preftune_drop_meeting(meeting: *mut c_void);
    fn preftune_join_group(
        host: *const c_char,
        port: u16,
        rank: c_int,
        world: c_int,
        serves: c_int,
        attempt: *const c_char,
        timeout_ms: i64,
        group: *mut *mut c_void,
    ) -> *mut c_char;
    fn preftune_leave_group(group: *mut c_void);
    fn preftune_sum(group: *mut c_void, tensor: *const C_tensor) -> *mut c_char;
    fn preftune_broadcast(
        group: *mut c_void,
        tensors: *const *mut C_tensor,
        count: usize,
    ) -> *mut c_char;
    fn preftune_sum_gradients(
        group: *mut c_void,
        tensors: *const *mut C_tensor,
        count: usize,
        bytes: usize,
    ) -> *mut c_char;
}

/// A place on this machine where processes find each other, for whoever starts them.
pub struct Meeting {
    /// Owned; of `preftune_serve_meeting`.
    raw: *mut c_void,
    /// Its port.
    pub port: u16,
}

impl Meeting {
    /// Serves one at a free port until it is dropped.
    ///
    /// # Errors
    /// The system gives no port.
    pub fn serve() -> Result<Self> {
        let (mut port, mut raw) = (0, ptr::null_mut());
        #[expect(
            unsafe_code,
            reason = "C++ behind a C function that fills both places or returns a text"
        )]
        unsafe {
            outcome(preftune_serve_meeting(&raw mut port, &raw mut raw))?;
        }
        Ok(Self { raw, port })
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        #[expect(
            unsafe_code,
            reason = "the pointer is of `preftune_serve_meeting` and is not used again"
        )]
        unsafe {
            preftune_drop_meeting(self.raw);
        }
    }
}

/// The processes of a run, this one among them.
pub(super) struct Group {
    /// Owned; of `preftune_join_group`.
    raw: *mut c_void,
    pub(super) place: Place,
    timeout: Duration,
}

impl Group {
    /// Joins the others, and waits for them and in every later call at most `timeout`.
    pub(super) fn join(place: Place, timeout: Duration) -> Result<Self> {
        let text = |text: &str| CString::new(text).unwrap_or_default();
        let (host, attempt) = (text(&place.host), text(&place.attempt));
        let mut raw = ptr::null_mut();
        #[expect(
            unsafe_code,
            reason = "C++ behind a C function; the strings outlive the call, and what comes back is a new group or a text"
        )]
        let joined = unsafe {
            outcome(preftune_join_group(
                host.as_ptr(),
                place.port,
                place.rank as c_int,
                place.world as c_int,
                c_int::from(place.rank == 0 && !place.is_served),
                attempt.as_ptr(),
                timeout.as_millis() as i64,
                &raw mut raw,
            ))
        };
        let group = Self {
            raw,
            place,
            timeout,
        };
        match joined {
            Ok(()) => Ok(group),
            Err(error) => Err(group.failed_to_meet(&error.to_string())),
        }
    }

    /// Adds a tensor up over all processes, in its place.
    pub(super) fn sum(&self, tensor: &Tensor) -> Result<()> {
        #[expect(
            unsafe_code,
            reason = "C++ behind a C function; group and tensor outlive the call"
        )]
        let done = unsafe { outcome(preftune_sum(self.raw, tensor.as_ptr())) };
        done.map_err(|error| self.lost(&error.to_string()))
    }

    /// The first process' tensors in the place of these.
    pub(super) fn broadcast(&self, tensors: &[Tensor]) -> Result<()> {
        let pointers = pointers(tensors);
        #[expect(
            unsafe_code,
            reason = "C++ behind a C function; group and tensors outlive the call"
        )]
        let done = unsafe {
            outcome(preftune_broadcast(
                self.raw,
                pointers.as_ptr(),
                pointers.len(),
            ))
        };
        done.map_err(|error| self.lost(&error.to_string()))
    }

    /// Adds the gradients of these tensors up over all processes.
    pub(super) fn sum_gradients(&self, tensors: &[Tensor]) -> Result<()> {
        let pointers = pointers(tensors);
        #[expect(
            unsafe_code,
            reason = "C++ behind a C function; group and tensors outlive the call"
        )]
        let done = unsafe {
            outcome(preftune_sum_gradients(
                self.raw,
                pointers.as_ptr(),
                pointers.len(),
                BUCKET,
            ))
        };
        done.map_err(|error| self.lost(&error.to_string()))
    }

    fn error(&self, what: impl std::fmt::Display) -> Error {
        let Place { rank, world, .. } = &self.place;
        Error::Peers(format!("process {rank} of {world}: {what}"))
    }

    fn failed_to_meet(&self, said: &str) -> Error {
        let Place { host, port, .. } = &self.place;
        let said = in_words(said);
        if is_timeout(&said) {
            let seconds = self.timeout.as_secs_f64();
            return self
                .error(format!(
                    "not all processes have come to `{host}:{port}` within {seconds} s"
                ))
                .with_hint(
                    "the others must be started too and must reach that machine; `--peer-timeout` sets how long they are waited for",
                );
        }
        self.error(format!("cannot meet the others at `{host}:{port}`: {said}"))
    }

    /// The error of a call that the others did not take part in.
    fn lost(&self, said: &str) -> Error {
        let said = in_words(said);
        if is_timeout(&said) {
            let seconds = self.timeout.as_secs_f64();
            return self
                .error(format!(
                    "another process has not answered for {seconds} s"
                ))
                .with_hint(
                    "it hangs or is much slower: `--peer-timeout` sets how long is waited; `--resume` goes on from the last checkpoint",
                );
        }
        let gone = [
            "Connection closed",
            "reset by peer",
            "Broken pipe",
            "refused",
        ];
        if gone.iter().any(|words| said.contains(words)) {
            return self
                .error("another process has ended in the middle of the run")
                .with_hint("that one says why; `--resume` goes on from the last checkpoint");
        }
        self.error(said)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.raw.is_null() {
            return;
        }
        #[expect(
            unsafe_code,
            reason = "the pointer is of `preftune_join_group` and is not used again"
        )]
        unsafe {
            preftune_leave_group(self.raw);
        }
    }
}

fn pointers(tensors: &[Tensor]) -> Vec<*mut C_tensor> {
    tensors
        .iter()
        .map(|tensor| tensor.as_ptr().cast_mut())
        .collect()
}

/// The first line of a text of libtorch's, without the place in the sources that some begin with.
fn in_words(said: &str) -> String {
    let said = said.strip_prefix("Internal torch error: ").unwrap_or(said);
    let line = said.lines().next().unwrap_or_default();
    let words = match line.split_once("] ") {
        Some((place, words)) if place.starts_with('[') => words,
        _ => line,
    };
    words.to_owned()
}

fn is_timeout(said: &str) -> bool {
    let said = said.to_lowercase();
    ["timed out", "timeout"]
        .iter()
        .any(|words| said.contains(words))
}
