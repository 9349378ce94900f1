//! The prompts of a run on a subject, filled with its token and class word.

use std::path::Path;

use crate::config::{ObjectiveKind, PromptList, SubjectConfig, SubjectSection};
use crate::data::dreambench::DreamBench;
use crate::data::prompts;
use crate::data::subject::{self, Subject};
use crate::error::Result;

/// Prompts with token and class filled in.
#[derive(Default)]
pub(crate) struct RunPrompts {
    /// Of the images that photos are compared with; none where the objective needs no images.
    pub(crate) negatives: Vec<String>,
    /// Of the validation images.
    pub(crate) validation: Vec<String>,
    /// Of the photos.
    pub(crate) photo: String,
    /// Of negatives that the user gives without prompts: the class alone, as DreamBooth's prior has it; RPO has none.
    pub(crate) prior: Option<String>,
}

impl RunPrompts {
    /// Reads prompt files and fills all templates.
    pub(crate) fn new(config: &SubjectConfig, subject: &SubjectPrompts) -> Result<Self> {
        Ok(Self {
            negatives: negative_prompts(config, subject)?,
            validation: subject.prompts(config.validation.prompts.as_ref(), prompts::validation)?,
            photo: subject.fill(&config.subject.prompt),
            prior: (config.objective.kind == ObjectiveKind::Dreambooth).then(|| subject.prior()),
        })
    }
}

/// The subject with the words that prompts are filled with.
pub(crate) struct SubjectPrompts<'a> {
    pub(crate) subject: Subject,
    pub(crate) token: &'a str,
}

impl<'a> SubjectPrompts<'a> {
    pub(crate) fn new(section: &'a SubjectSection) -> Result<Self> {
        let kind = section.live.map(|live| {
            if live {
                subject::Kind::Live
            } else {
                subject::Kind::Object
            }
        });
        let class = section.class.as_deref();
        let subject = match (&section.photos, &section.dreambench) {
            (None, Some(root)) => {
                let mut subject =
                    DreamBench::open(root)?.subject(section.name.as_deref().unwrap_or_default())?;
                subject.class = class.map_or(subject.class, str::to_owned);
                subject.kind = kind.unwrap_or(subject.kind);
                subject
            }
            (photos, _) => Subject::open(
                photos.as_deref().unwrap_or(Path::new("")),
                class.unwrap_or_default(),
                kind,
            )?,
        };
        Ok(Self {
            subject,
            token: &section.token,
        })
    }

    pub(crate) fn fill(&self, template: &str) -> String {
        prompts::fill(template, self.token, &self.subject.class)
    }

    /// The prompt of the class alone.
    fn prior(&self) -> String {
        prompts::fill("a photo of a {token} {class}", "", &self.subject.class)
    }

    /// The given prompts, or the built-in ones for the subject's kind, filled.
    fn prompts(
        &self,
        given: Option<&PromptList>,
        built_in: impl Fn(subject::Kind) -> &'static [&'static str],
    ) -> Result<Vec<String>> {
        let fill = |template: &String| self.fill(template);
        Ok(match given {
            Some(PromptList::List(list)) => list.iter().map(fill).collect(),
            Some(PromptList::File(file)) => prompts::read(file)?.iter().map(fill).collect(),
            None => built_in(self.subject.kind)
                .iter()
                .map(|template| self.fill(template))
                .collect(),
        })
    }
}

/// The prompts of the images that photos are compared with.
fn negative_prompts(config: &SubjectConfig, subject: &SubjectPrompts) -> Result<Vec<String>> {
    let dreambooth = config.objective.kind == ObjectiveKind::Dreambooth;
    if dreambooth && config.objective.prior_weight == 0.0 {
        return Ok(Vec::new());
    }
    let mut prompts = subject.prompts(config.negatives.prompts.as_ref(), prompts::training)?;
    if dreambooth && config.negatives.prompts.is_none() {
        // DreamBooth's prior: the class alone.
        prompts.fill(subject.prior());
    }
    Ok(prompts)
}
