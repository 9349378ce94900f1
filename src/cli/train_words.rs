//! The words of an image run: the subject's, and the prompts filled with them.

use std::path::Path;

use crate::config::{ImageConfig, ObjectiveKind, PromptList, SubjectSection};
use crate::data::dreambench::DreamBench;
use crate::data::prompts;
use crate::data::subject::{self, Subject};
use crate::error::Result;

/// Prompts with token and class filled in.
pub(super) struct PromptTexts {
    /// Of the images that photos are compared with; none where the objective needs no images.
    pub(super) negatives: Vec<String>,
    /// Of the validation images.
    pub(super) validation: Vec<String>,
}

impl PromptTexts {
    /// Reads prompt files and fills all templates.
    pub(super) fn new(config: &ImageConfig, subject: &Words) -> Result<Self> {
        Ok(Self {
            negatives: negative_prompts(config, subject)?,
            validation: subject.prompts(config.validation.prompts.as_ref(), prompts::validation)?,
        })
    }
}

/// The subject with the words that prompts are filled with.
pub(super) struct Words<'a> {
    pub(super) subject: Subject,
    token: &'a str,
}

impl<'a> Words<'a> {
    pub(super) fn new(section: &'a SubjectSection) -> Result<Self> {
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

    pub(super) fn fill(&self, template: &str) -> String {
        prompts::fill(template, self.token, &self.subject.class)
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
fn negative_prompts(config: &ImageConfig, subject: &Words) -> Result<Vec<String>> {
    let dreambooth = config.objective.kind == ObjectiveKind::Dreambooth;
    if dreambooth && config.objective.prior_weight == 0.0 {
        return Ok(Vec::new());
    }
    let mut prompts = subject.prompts(config.negatives.prompts.as_ref(), prompts::training)?;
    if dreambooth && config.negatives.prompts.is_none() {
        // DreamBooth's prior: the class alone.
        let class = &subject.subject.class;
        prompts.fill(prompts::fill("a photo of a {token} {class}", "", class));
    }
    Ok(prompts)
}
