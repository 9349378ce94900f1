//! What is shown while weights of gigabytes are read: a bar on a terminal, elsewhere one line for each file.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

use crate::error::printable;
use crate::models::reading::{Reading, watch};

/// Bytes below which nobody waits long enough to ask what is done.
const GIGABYTE: u64 = 1_000_000_000;

/// The files that are shown.
#[derive(Default)]
struct Shown {
    bar: Option<(PathBuf, ProgressBar)>,
    said: BTreeSet<PathBuf>,
}

thread_local! {
    static SHOWN: RefCell<Shown> = RefCell::default();
}

/// Shows what this thread reads from now on.
pub(super) fn show() {
    let terminal = std::io::stderr().is_terminal();
    watch(move |reading| {
        if reading.total < GIGABYTE {
            return;
        }
        if terminal {
            SHOWN.with_borrow_mut(|shown| shown.draw(reading));
        } else if SHOWN.with_borrow_mut(|shown| shown.said.insert(reading.path.to_owned())) {
            let size = DecimalBytes(reading.total);
            eprintln!("reading `{}` ({size})", reading.path.display());
        }
    });
}

/// Takes the bar away, before something else is printed.
pub(super) fn clear() {
    let bar = SHOWN.with(|shown| shown.try_borrow_mut().ok()?.bar.take());
    if let Some((_, bar)) = bar {
        bar.finish_and_clear();
    }
}

impl Shown {
    fn draw(&mut self, reading: &Reading) {
        let done = reading.done == reading.total;
        let of_another = |(path, _): &(PathBuf, ProgressBar)| path != reading.path;
        if (done || self.bar.as_ref().is_some_and(of_another))
            && let Some((_, bar)) = self.bar.take()
        {
            bar.finish_and_clear();
        }
        if done {
            return;
        }
        let (_, bar) = self
            .bar
            .get_or_insert_with(|| (reading.path.to_owned(), bar_of(reading.path, reading.total)));
        bar.set_position(reading.done);
    }
}

fn bar_of(path: &Path, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let style = ProgressStyle::with_template(
        "reading {prefix} {bar:30} {decimal_bytes}/{decimal_total_bytes} [{elapsed}<{eta}]",
    );
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    bar.set_prefix(printable(&name).into_owned());
    bar
}
