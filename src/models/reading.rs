//! How much of some weights is read, for those who wait: a caller may watch what its thread reads.

use std::cell::RefCell;
use std::path::Path;

/// A set of weights that is being read.
pub struct Reading<'a> {
    /// Its file, or the index of its shards.
    pub path: &'a Path,
    /// Bytes that are read.
    pub done: u64,
    /// Bytes that will have been read at the end.
    pub total: u64,
}

type Watcher = Box<dyn FnMut(&Reading)>;

thread_local! {
    static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
}

/// Has `watcher` told of each part that this thread reads from now on, and once more, with nothing left, when it is done with
/// the weights. It must read none itself.
pub fn watch(watcher: impl FnMut(&Reading) + 'static) {
    WATCHER.set(Some(Box::new(watcher)));
}

/// Tells the watcher, where there is one.
pub(super) fn tell(path: &Path, done: u64, total: u64) {
    let reading = Reading {
        path,
        done: done.min(total),
        total,
    };
    // Weights that are dropped when the thread ends have nobody to tell.
    let _ = WATCHER.try_with(|watcher| {
        if let Ok(mut watcher) = watcher.try_borrow_mut()
            && let Some(watcher) = watcher.as_mut()
        {
            watcher(&reading);
        }
    });
}
