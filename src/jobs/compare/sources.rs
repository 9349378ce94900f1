//! From what a user names to what is compared: folders of images, what runs have drawn, files of answers.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::records;
use crate::data::listing::Listing;
use crate::error::{Error, Result};
use crate::run::evaluation::ANSWERS_FILE;
use crate::run::manifest;
use crate::run::recorder::{sampled_steps, samples_at};

/// How the name of a session's folder begins where none is named.
const SESSION: &str = "compare";

/// One side of comparisons, or the only source of what is compared with each other.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// How its figures are called.
    pub(super) name: String,
    pub(super) place: Place,
    /// The run whose tuned model it is; none of folders, of files and of untuned models.
    pub(super) run: Option<PathBuf>,
    /// What a user should know of it.
    pub(super) note: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A folder of images.
    Images(Listing),
    /// A file of answers.
    Answers(PathBuf),
}

/// The sources that these paths name. Of one run these are its untuned model and its tuned one.
///
/// # Errors
/// A path that is neither, or some of images and some of answers.
pub(super) fn find(paths: &[PathBuf]) -> Result<Vec<Source>> {
    let sources = match paths {
        [run] if is_run(run) => {
            let tuned = Source::tuned("tuned", run)?;
            vec![Source::new("base", samples_at(run, 0))?, tuned]
        }
        paths => {
            let names = names(paths);
            let source = |(path, name): (&PathBuf, &String)| {
                if is_run(path) {
                    Source::tuned(name, path)
                } else {
                    Source::new(name, path.clone())
                }
            };
            paths
                .iter()
                .zip(&names)
                .map(source)
                .collect::<Result<_>>()?
        }
    };
    let is_text = |source: &Source| matches!(source.place, Place::Answers(_));
    if let Some(other) = sources
        .iter()
        .find(|one| is_text(one) != is_text(&sources[0]))
    {
        let problem = format!(
            "`{}` and `{}` do not compare: one has images, the other answers",
            sources[0].name, other.name
        );
        return Err(Error::config(problem));
    }
    Ok(sources)
}

/// The folder of the session where none is named: within the last path, as the evaluation of a run where it is one. It has the
/// names of the other paths behind its own, so that what is compared with one is not kept in the place of what is compared with
/// another.
pub fn session_folder(paths: &[PathBuf]) -> PathBuf {
    let Some((last, others)) = paths.split_last() else {
        return PathBuf::from(SESSION);
    };
    let own = others.iter().fold(SESSION.to_owned(), |name, path| {
        let last = path.file_name().unwrap_or(path.as_os_str());
        let plain = last.to_string_lossy().replace(is_odd, "-");
        format!("{name}_{plain}")
    });
    if is_run(last) {
        last.join("eval").join(own)
    } else if last.is_dir() {
        last.join(own)
    } else {
        last.with_extension(own)
    }
}

/// `true` of letters that some systems do not have in names of folders.
fn is_odd(letter: char) -> bool {
    !(letter.is_alphanumeric() || "._-".contains(letter))
}

/// How many sessions lie in a folder of images.
pub(super) fn sessions_in(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_session = |path: PathBuf| path.join(records::FILE).is_file();
    entries.filter(|entry| is_session(entry.path())).count()
}

impl Source {
    fn new(name: &str, path: PathBuf) -> Result<Self> {
        let answers = path.join(ANSWERS_FILE);
        let place = if path.is_file() {
            Place::Answers(path)
        } else if answers.is_file() {
            Place::Answers(answers)
        } else {
            Place::Images(Listing::open(&path)?)
        };
        Ok(Self {
            name: name.to_owned(),
            place,
            run: None,
            note: None,
        })
    }

    /// What a run has drawn with the weights that it keeps.
    fn tuned(name: &str, run: &Path) -> Result<Self> {
        let (step, note) = tuned_step(run)?;
        Ok(Self {
            run: Some(run.to_owned()),
            note,
            ..Self::new(name, samples_at(run, step))?
        })
    }
}

fn is_run(path: &Path) -> bool {
    path.join("config.toml").is_file()
}

/// The step whose samples show what a run has made of its model: the best one, else the latest; with a note where these are
/// not the weights that other verbs take.
fn tuned_step(run: &Path) -> Result<(u64, Option<String>)> {
    let steps = sampled_steps(run);
    let latest = steps.iter().copied().filter(|step| *step > 0).max();
    let latest = latest.ok_or_else(|| {
        Error::data(run, "this run has drawn nothing after its first step").with_hint(
            "draw with `preftune generate --model RUN --out FOLDER`, and compare the folders",
        )
    })?;
    let manifest: Option<Value> = manifest::find(run)?;
    let best = manifest.and_then(|manifest| manifest["best"][0].as_u64());
    Ok(match best {
        Some(best) if best > 0 && steps.contains(&best) => (best, None),
        None => (latest, None),
        Some(best) => {
            let note = format!(
                "`{}` has drawn nothing with its best weights, those of step {best}: its images of step {latest} are compared",
                run.display()
            );
            (latest, Some(note))
        }
    })
}

/// The last part of each path, or all of it where two paths share it.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let last = |path: &PathBuf| {
        let name = path.file_name().unwrap_or(path.as_os_str());
        name.to_string_lossy().into_owned()
    };
    let short: Vec<String> = paths.iter().map(last).collect();
    let is_alone = |name: &String| short.iter().filter(|other| *other == name).count() == 1;
    let name = |(path, short): (&PathBuf, &String)| {
        if is_alone(short) {
            short.clone()
        } else {
            path.display().to_string()
        }
    };
    paths.iter().zip(&short).map(name).collect()
}
