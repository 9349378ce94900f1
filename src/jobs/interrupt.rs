//! Ctrl-C, SIGTERM and SIGHUP (the terminal is gone): the first one asks the run to stop at the next safe point, the second
//! one ends the process.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{Error, INTERRUPTED, Result, TRY_AGAIN};

/// Set once the system has asked this process to end.
static TERMINATED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// `true` once the system, a scheduler of jobs for example, has asked this process to end by SIGTERM.
pub fn was_terminated() -> bool {
    TERMINATED
        .get()
        .is_some_and(|terminated| terminated.load(Ordering::Relaxed))
}

/// The user's wish to stop, asked for between steps and batches.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens to the signals from now on. `acknowledge` is called once, on a thread of its own, as soon as the first one is
    /// there.
    ///
    /// # Errors
    /// The system refuses.
    pub fn install(acknowledge: impl FnOnce() + Send + 'static) -> Result<Self> {
        let failed = |source| Error::io("handle signals for", "this process", source);
        let flag = Arc::new(AtomicBool::new(false));
        let hang_up = (!is_ignored(SIGHUP)).then_some(SIGHUP);
        let all: Vec<i32> = [SIGINT, SIGTERM].into_iter().chain(hang_up).collect();
        let terminated = TERMINATED.get_or_init(Arc::default);
        signal_hook::flag::register(SIGTERM, Arc::clone(terminated)).map_err(failed)?;
        for &signal in &all {
            let code = if signal == SIGTERM {
                TRY_AGAIN
            } else {
                INTERRUPTED
            };
            signal_hook::flag::register_conditional_shutdown(
                signal,
                code.into(),
                Arc::clone(&flag),
            )
            .map_err(failed)?;
            signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(failed)?;
        }
        let mut signals = Signals::new(&all).map_err(failed)?;
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                acknowledge();
            }
        });
        Ok(Self(flag))
    }

    /// A wish that no signal makes; a Rust program may make it by [`Self::request`].
    pub fn never() -> Self {
        Self::default()
    }

    /// Asks the run to stop at the next safe point.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// `true` once somebody asked to stop.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// [`Error::Interrupted`] after `step` steps, to be continued from `checkpoint`, where somebody asked to stop.
    pub(crate) fn check(&self, step: u64, checkpoint: &Path) -> Result<()> {
        if self.requested() {
            return Err(Error::Interrupted {
                step,
                checkpoint: checkpoint.to_owned(),
            });
        }
        Ok(())
    }
}

/// `true` if the process was started with a signal ignored, as `nohup` starts it: such a run is to go on.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
