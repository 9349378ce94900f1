//! The layout of the hub's cache: `models--org--name` with `refs` (a commit by the name of a branch), `snapshots` (a folder for
//! each commit, of links) and `blobs` (the files, by their hashes).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::{MAIN, are_plain};
use crate::files::absolute;

/// The value of a variable, where it has one.
pub(super) fn variable(name: &str) -> Option<PathBuf> {
    let value = env::var_os(name).filter(|value| !value.is_empty())?;
    let path = PathBuf::from(value);
    // The hub's own tools read the home folder's short form, which no shell has expanded in a file of variables.
    match (path.strip_prefix("~"), env::var_os("HOME")) {
        (Ok(below), Some(home)) => Some(PathBuf::from(home).join(below)),
        _ => Some(path),
    }
}

/// The folder of the hub's own tools: their cache and the user's token.
pub(super) fn home() -> Option<PathBuf> {
    let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    variable("HF_HOME").or_else(|| Some(cache()?.join("huggingface")))
}

/// Where the cache can be, by the variables that the hub's own tools read. The first is the one that is filled.
pub fn roots() -> Vec<PathBuf> {
    let mut roots = Vec::new();
    roots.extend(variable("HF_HUB_CACHE"));
    roots.extend(variable("HUGGINGFACE_HUB_CACHE"));
    roots.extend(home().map(|home| home.join("hub")));
    roots.iter().map(|root| absolute(root)).collect()
}

/// The models in a cache, by their names.
#[derive(Default)]
pub struct Survey {
    /// Those with a snapshot, of which every link leads to a file.
    pub whole: Vec<String>,
    /// Those without a snapshot: their download was not completed, or only looked for.
    pub without_snapshot: Vec<String>,
    /// Those with links to nothing in a snapshot, by `org/name@commit`, and the first such link.
    pub broken: Vec<(String, PathBuf)>,
}

/// Looks through the cache at `root`.
pub fn survey(root: &Path) -> Survey {
    let mut survey = Survey::default();
    for name in models_in(root) {
        let snapshots = snapshots(&repository_folder(root, &name));
        let broken: Vec<(String, PathBuf)> = snapshots
            .iter()
            .filter_map(|snapshot| {
                let commit = snapshot.file_name()?.to_string_lossy();
                Some((format!("{name}@{commit}"), broken_link(snapshot)?))
            })
            .collect();
        if snapshots.is_empty() {
            survey.without_snapshot.push(name);
        } else if broken.len() < snapshots.len() {
            survey.whole.push(name);
        }
        survey.broken.extend(broken);
    }
    survey
}

/// The first link in a model's folder, or in a folder in it, that leads to nothing.
pub(super) fn broken_link(folder: &Path) -> Option<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        let mut all: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        all.sort();
        all
    };
    let own = entries(folder);
    let parts = own.iter().filter(|path| path.is_dir());
    let inner: Vec<PathBuf> = parts.flat_map(|part| entries(part)).collect();
    let mut all = own.into_iter().chain(inner);
    all.find(|path| path.is_symlink() && !path.exists())
}

/// The folder of a repository in the cache at `root`.
pub(super) fn repository_folder(root: &Path, repository: &str) -> PathBuf {
    root.join(format!("models--{}", repository.replace('/', "--")))
}

/// The name of the repository that a folder of the cache is for.
pub(super) fn name_of_folder(folder: &str) -> Option<String> {
    let name = folder.strip_prefix("models--")?.replacen("--", "/", 1);
    are_plain(&name).then_some(name)
}

/// The snapshot of a repository's folder in the cache: the one that `refs/REVISION` names, that of the commit REVISION, which
/// may be cut short, or the only one where the main branch is asked for.
pub(super) fn snapshot(repository: &Path, revision: &str) -> Option<PathBuf> {
    let named = fs::read_to_string(repository.join("refs").join(revision)).ok();
    let named = named.map_or_else(|| revision.to_owned(), |name| name.trim().to_owned());
    let all = snapshots(repository);
    let name = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    if let Some(exact) = all.iter().find(|path| name(path) == named) {
        return Some(exact.clone());
    }
    let fits = |path: &&PathBuf| {
        let shortened = named.len() >= 7 && name(path).starts_with(&named);
        shortened || revision == MAIN && all.len() == 1
    };
    let mut fitting = all.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Some(one.clone()),
        _ => None,
    }
}

/// The snapshots of a repository's folder; a hidden one is about to become one.
pub(super) fn snapshots(repository: &Path) -> Vec<PathBuf> {
    let mut all = folders(&repository.join("snapshots"));
    let hidden = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with('.')
    };
    all.retain(|path| !hidden(path));
    all
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten();
    let mut all: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_dir())
        .collect();
    all.sort();
    all
}

/// The repository's folder, and its name, of a path that is one, or one of the three folders in it.
pub(super) fn repository_of(path: &Path) -> Option<(PathBuf, String)> {
    let path = fs::canonicalize(path).ok()?;
    let name = |path: &Path| -> Option<String> { Some(path.file_name()?.to_str()?.to_owned()) };
    let own = name(&path)?;
    let repository = if ["snapshots", "blobs", "refs"].contains(&own.as_str()) {
        path.parent()?
    } else {
        &path
    };
    let model = name_of_folder(&name(repository)?)?;
    Some((repository.to_owned(), model))
}

/// The names of the models in a cache.
pub(super) fn models_in(root: &Path) -> Vec<String> {
    let named = |path: &PathBuf| name_of_folder(path.file_name()?.to_str()?);
    folders(root).iter().filter_map(named).collect()
}
