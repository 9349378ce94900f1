//! The prompts of a run on a subject, filled with its token and class word.

use std::path::Path;

use crate::config::{ObjectiveKind, PromptList, SubjectConfig, SubjectSection, TokenUse};
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
    /// Of the photos, without the token.
    pub(crate) photo_class: String,
    /// Of negatives that the user gives without prompts: the class alone, as DreamBooth's prior has it; RPO has none.
    pub(crate) prior: Option<String>,
    /// The token, where it is taken out of the prompts of images that the user gives.
    pub(crate) taken_out: Option<String>,
}

impl RunPrompts {
    /// Reads prompt files and fills all templates.
    pub(crate) fn new(config: &SubjectConfig, subject: &SubjectPrompts) -> Result<Self> {
        let dreambooth = config.objective.kind == ObjectiveKind::Dreambooth;
        let class_alone = dreambooth || config.negatives.token == TokenUse::Class;
        Ok(Self {
            negatives: negative_prompts(config, subject)?,
            validation: subject.prompts(config.validation.prompts.as_ref(), prompts::validation)?,
            photo: subject.fill(&config.subject.prompt),
            photo_class: subject.without_token(&config.subject.prompt),
            prior: dreambooth.then(|| subject.prior()),
            taken_out: class_alone.then(|| subject.token.to_owned()),
        })
    }
}

impl RunPrompts {
    /// The validation's prompts with the class word alone; none where they are not sampled.
    pub(crate) fn class_alone(&self, config: &SubjectConfig) -> Vec<String> {
        let strip = |prompt: &String| prompts::strip_token(prompt, &config.subject.token);
        let stripped: Vec<String> = self.validation.iter().map(strip).collect();
        if config.validation.specificity && stripped != self.validation {
            stripped
        } else {
            Vec::new()
        }
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

    /// A prompt with the class word alone, whether it has a placeholder for the token or the token itself.
    pub(crate) fn without_token(&self, template: &str) -> String {
        let filled = prompts::fill(template, "", &self.subject.class);
        prompts::strip_token(&filled, self.token)
    }

    /// The prompt of the class alone.
    fn prior(&self) -> String {
        self.without_token("a photo of a {token} {class}")
    }

    /// The given prompts, or the built-in ones for the subject's kind, filled.
    pub(crate) fn prompts(
        &self,
        given: Option<&PromptList>,
        built_in: impl Fn(subject::Kind) -> &'static [&'static str],
    ) -> Result<Vec<String>> {
        let templates = self.templates(given, built_in)?;
        Ok(templates.iter().map(|text| self.fill(text)).collect())
    }

    fn templates(
        &self,
        given: Option<&PromptList>,
        built_in: impl Fn(subject::Kind) -> &'static [&'static str],
    ) -> Result<Vec<String>> {
        Ok(match given {
            Some(PromptList::List(list)) => list.clone(),
            Some(PromptList::File(file)) => prompts::read(file)?,
            None => {
                let built_in = built_in(self.subject.kind).iter();
                built_in.map(|&template| template.to_owned()).collect()
            }
        })
    }
}

/// The prompts of the images that photos are compared with.
fn negative_prompts(config: &SubjectConfig, subject: &SubjectPrompts) -> Result<Vec<String>> {
    let negatives = &config.negatives;
    let dreambooth = config.objective.kind == ObjectiveKind::Dreambooth;
    if dreambooth && config.objective.prior_weight == 0.0 {
        return Ok(Vec::new());
    }
    let given = negatives.prior_prompts.as_ref();
    let given = given.or(negatives.prompts.as_ref());
    let templates = subject.templates(given, prompts::training)?;
    let with_token = || templates.iter().map(|text| subject.fill(text));
    let without = || templates.iter().map(|text| subject.without_token(text));
    Ok(match negatives.token {
        // DreamBooth's prior is the class, in the words that are given or in none.
        _ if dreambooth && given.is_none() => vec![subject.prior(); templates.len()],
        _ if dreambooth => without().collect(),
        TokenUse::Token => with_token().collect(),
        TokenUse::Class => without().collect(),
        TokenUse::Both => with_token().chain(without()).collect(),
    })
}
