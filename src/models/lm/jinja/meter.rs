//! Bounds on what a template may use. A template comes with a downloaded model and is code of a stranger: it gets an amount
//! of work and of memory that no real chat needs, and ends with an error beyond it. A rendering has a thread of its own, so
//! the counts are the thread's.

use std::cell::Cell;

use super::{Outcome, fail};

/// Steps of a rendering: expressions, items gone through, 16 bytes of text written.
const WORK: u64 = 5_000_000;
/// Bytes of values alive at once.
const MEMORY: usize = 256 << 20;

thread_local! {
    static WORK_LEFT: Cell<u64> = const { Cell::new(0) };
    static MEMORY_LEFT: Cell<usize> = const { Cell::new(0) };
}

/// Starts the counts of this thread for a rendering of so many bytes of template and messages: long chats get more.
pub(super) fn begin(bytes: usize) {
    WORK_LEFT.set(WORK.saturating_add(200 * bytes as u64));
    MEMORY_LEFT.set(MEMORY.saturating_add(64 * bytes));
}

/// Counts steps.
///
/// # Errors
/// None are left.
pub(super) fn spend(steps: usize) -> Outcome<()> {
    let left = WORK_LEFT.get().checked_sub(steps as u64);
    WORK_LEFT.set(left.unwrap_or(0));
    if left.is_none() {
        return fail("takes more steps than any chat needs; it may never end");
    }
    Ok(())
}

/// Sees to it that so many bytes may be held.
///
/// # Errors
/// They are too many.
pub(super) fn fits(bytes: usize) -> Outcome<()> {
    if bytes > MEMORY_LEFT.get() {
        return fail("builds a text or a list that is larger than any chat needs");
    }
    Ok(())
}

/// As [`fits`], for bytes that are about to be built: their work counts too.
pub(super) fn room(bytes: usize) -> Outcome<()> {
    fits(bytes)?;
    spend(bytes / 16)
}

/// Bytes that a value holds, given back when it goes.
pub(super) struct Charge(usize);

impl Charge {
    /// Counts bytes.
    ///
    /// # Errors
    /// As [`room`].
    pub(super) fn new(bytes: usize) -> Outcome<Self> {
        room(bytes)?;
        MEMORY_LEFT.set(MEMORY_LEFT.get() - bytes);
        Ok(Self(bytes))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        MEMORY_LEFT.set(MEMORY_LEFT.get().saturating_add(self.0));
    }
}
