//! Files in the cache's layout: blobs under their hashes, and the links to them that make a snapshot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where a blob lies until it is whole and checked, as the hub's own tools name it.
pub(super) fn partial(blob: &Path) -> PathBuf {
    with_ending(blob, "incomplete")
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{ending}"));
    path.with_file_name(name)
}

/// Makes the snapshot of these files: a new one all at once, so that a part of it is never taken as whole.
///
/// # Errors
/// The folder cannot be written.
pub(super) fn link_all(snapshot: &Path, links: &[(&str, PathBuf)]) -> Result<()> {
    let failed = |source| Error::io("write", snapshot, source);
    if snapshot.is_dir() {
        return link_into(snapshot, links).map_err(failed);
    }
    let name = snapshot.file_name().unwrap_or_default().to_string_lossy();
    let hidden = snapshot.with_file_name(format!(".{name}.preftune-{}", std::process::id()));
    let made = fs::create_dir_all(&hidden)
        .and_then(|()| link_into(&hidden, links))
        .and_then(|()| fs::rename(&hidden, snapshot));
    if made.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&hidden);
    }
    // Another process may have made the same one meanwhile.
    match made {
        Err(_) if snapshot.is_dir() => link_into(snapshot, links).map_err(failed),
        made => made.map_err(failed),
    }
}

fn link_into(folder: &Path, links: &[(&str, PathBuf)]) -> io::Result<()> {
    for (name, blob) in links {
        let place = folder.join(name);
        // What lies here as a file of its own, as on disks without links, has been found whole.
        if !blob.exists() && place.exists() {
            continue;
        }
        // A cache that is whole may be one that cannot be written on.
        if fs::canonicalize(&place)
            .is_ok_and(|there| fs::canonicalize(blob).is_ok_and(|blob| blob == there))
        {
            continue;
        }
        let parent = place.parent().unwrap_or(folder);
        fs::create_dir_all(parent)?;
        let temporary = with_ending(&place, &format!("preftune-{}", std::process::id()));
        // From an earlier process of the same number.
        let _ = fs::remove_file(&temporary);
        link(blob, name, &temporary)?;
        fs::rename(&temporary, &place)?;
    }
    Ok(())
}

/// A link from a snapshot's file to its blob, relative so that the cache can be moved; a hard link or a copy on disks
/// without links.
fn link(blob: &Path, name: &str, at: &Path) -> io::Result<()> {
    let up = "../".repeat(name.split('/').count() + 1);
    let file = blob.file_name().unwrap_or_default().to_string_lossy();
    let target = format!("{up}blobs/{file}");
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(target, at);
    #[cfg(not(unix))]
    let linked: io::Result<()> = Err(io::Error::other(target));
    linked
        .or_else(|_| fs::hard_link(blob, at))
        .or_else(|_| fs::copy(blob, at).map(drop))
}
