//! DreamBench (Ruiz et al. 2023): 30 subjects, their class words and 25 test prompts for each kind, as they lie in a
//! clone of the repository `google/dreambooth`.

use std::path::{Path, PathBuf};

use super::subject::{Kind, Subject};
use crate::error::{Error, Result};
use crate::files::{is_plain_name, read_text};

const LIST: &str = "prompts_and_classes.txt";

/// The benchmark, read from its text file; photos are looked at only by [`DreamBench::subject`].
#[derive(Clone, Debug)]
pub struct DreamBench {
    folder: PathBuf,
    classes: Vec<(String, String)>,
    object_prompts: Vec<String>,
    live_prompts: Vec<String>,
}

impl DreamBench {
    /// Opens a clone, or its folder `dataset` itself.
    ///
    /// # Errors
    /// No prompt list there, or one without classes or without the prompts of either kind.
    pub fn open(root: &Path) -> Result<Self> {
        let folder = [root.join("dataset"), root.to_owned()]
            .into_iter()
            .find(|folder| folder.join(LIST).is_file())
            .ok_or_else(|| {
                Error::data(
                    root,
                    format!("not DreamBench: no `{LIST}` in it or in its `dataset`"),
                )
                .with_hint("clone https://github.com/google/dreambooth and name that folder")
            })?;
        let path = folder.join(LIST);
        let text = read_text(&path)?;
        let mut bench = Self {
            folder,
            classes: Vec::new(),
            object_prompts: Vec::new(),
            live_prompts: Vec::new(),
        };
        bench.parse(&text);
        let missing = [
            ("classes", bench.classes.is_empty()),
            ("object prompts", bench.object_prompts.is_empty()),
            ("live subject prompts", bench.live_prompts.is_empty()),
        ];
        if let Some((what, _)) = missing.iter().find(|(_, missing)| *missing) {
            return Err(Error::data(path, format!("no {what} found")));
        }
        if let Some(name) = bench.names().find(|name| !is_plain_name(name)) {
            let message =
                format!("lists the subject `{name}`, which is no name of a folder beside it");
            return Err(Error::data(&path, message));
        }
        Ok(bench)
    }

    /// Reads the three blocks: `subject_name,class` and a line for each subject, then a Python list of templates
    /// under each of two headings.
    fn parse(&mut self, text: &str) {
        enum Block {
            Other,
            Classes,
            Prompts(Kind),
        }
        let mut block = Block::Other;
        for line in text.lines().map(str::trim) {
            match line.to_lowercase().as_str() {
                "subject_name,class" => block = Block::Classes,
                "prompts" => block = Block::Other,
                "object prompts" => block = Block::Prompts(Kind::Object),
                "live subject prompts" => block = Block::Prompts(Kind::Live),
                _ => match block {
                    Block::Classes => {
                        if let Some((name, class)) = line.split_once(',') {
                            self.classes
                                .push((name.trim().to_owned(), class.trim().to_owned()));
                        }
                    }
                    Block::Prompts(kind) => self.prompts_mut(kind).extend(template(line)),
                    Block::Other => {}
                },
            }
        }
    }

    fn prompts_mut(&mut self, kind: Kind) -> &mut Vec<String> {
        match kind {
            Kind::Live => &mut self.live_prompts,
            Kind::Object => &mut self.object_prompts,
        }
    }

    /// The folder of the subjects' folders.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Names of the subjects, in the order of the list.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.classes.iter().map(|(name, _)| name.as_str())
    }

    /// The test prompts, with `{token}` and `{class}`.
    pub fn test_prompts(&self, kind: Kind) -> &[String] {
        match kind {
            Kind::Live => &self.live_prompts,
            Kind::Object => &self.object_prompts,
        }
    }

    /// One subject and its photos.
    ///
    /// # Errors
    /// A name that is not in the list (the hint is the nearest that is), or no photos in its folder.
    pub fn subject(&self, name: &str) -> Result<Subject> {
        let Some((_, class)) = self.classes.iter().find(|(known, _)| known == name) else {
            let nearest = self
                .names()
                .min_by_key(|known| strsim::damerau_levenshtein(known, name))
                .unwrap_or_default();
            return Err(
                Error::data(&self.folder, format!("no DreamBench subject `{name}`"))
                    .with_hint(format!("did you mean `{nearest}`?")),
            );
        };
        // The file does not say which subjects are live; the paper's live ones are its dogs and cats.
        let kind = match class.as_str() {
            "dog" | "cat" => Kind::Live,
            _ => Kind::Object,
        };
        Subject::open(&self.folder.join(name), class, Some(kind))
    }

    /// All subjects, in the order of the list.
    pub fn subjects(&self) -> Result<Vec<Subject>> {
        self.names().map(|name| self.subject(name)).collect()
    }
}

/// The template of a line `'a {0} {1} in the snow'.format(unique_token, class_token),`.
fn template(line: &str) -> Option<String> {
    let quote = line.chars().next().filter(|mark| "'\"".contains(*mark))?;
    let inner = &line[1..];
    let template = &inner[..inner.rfind(quote)?];
    Some(template.replace("{0}", "{token}").replace("{1}", "{class}"))
}
