//! The inputs that a run on a subject reads and leaves out, told before anything is computed from them, and those that
//! its task encodes.

use crate::config::SubjectConfig;
use crate::data::listing::Listing;
use crate::data::photo::{self, Photo};
use crate::data::prompts::strip_token;
use crate::data::quality;
use crate::error::Result;
use crate::jobs::prompts::{RunPrompts, SubjectPrompts};
use crate::models::diffusion::pipeline::Pipeline;
use crate::models::encoders::DualEncoder;
use crate::trainer::event::Sample;
use crate::trainer::subject::Inputs;

/// Notes on the inputs that the run reads and leaves out; `side` is that of the training images.
pub(super) fn notes(
    config: &SubjectConfig,
    photos: &[Photo],
    prompts: &RunPrompts,
    side: u32,
) -> Result<Vec<String>> {
    let learnt = &prompts.photo;
    let mut notes = Vec::new();
    if let Some(folder) = photos.first().and_then(|photo| photo.path.parent()) {
        notes.push(format!(
            "data: {} photos of `{}`, learnt under `{learnt}`; {} prompts of negatives, {} of validations",
            photos.len(),
            folder.display(),
            prompts.negatives.len(),
            prompts.validation.len()
        ));
        let instead = format!("the photos are learnt under `{learnt}`");
        notes.extend(Listing::open(folder)?.notes(Some(&instead)));
    }
    let mut warnings = quality::sentences(&quality::inspect(photos, side), photos.len());
    if config.negatives.folder.is_some() && prompts.negatives.is_empty() {
        let unused = "`negatives.folder` is not used, as `objective.prior_weight` is 0";
        warnings.push(unused.to_owned());
    }
    notes.extend(warnings.iter().map(|warning| format!("warning: {warning}")));
    Ok(notes)
}

/// Warnings about those of the run's words that the encoders do not read.
pub(super) fn warnings(
    pipeline: &Pipeline,
    encoder: &DualEncoder,
    subject: &SubjectPrompts,
    prompts: &RunPrompts,
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let base = pipeline.folder().display();
    let words = [
        (&*subject.subject.class, "class word"),
        (subject.token, "token"),
    ];
    for (word, what) in words {
        if !pipeline.unknown_words(word)?.is_empty() {
            warnings.push(format!(
                "the text encoder of `{base}` does not know the {what} `{word}`: the subject is learnt without it, and prompts \
                 with it draw as if an unknown word stood there; take one that the model knows"
            ));
        }
    }
    let mut texts = prompts.negatives.clone();
    texts.extend_from_slice(&prompts.validation);
    texts.push(prompts.photo.clone());
    warnings.extend(pipeline.prompt_notes(&texts)?);
    let judged: Vec<String> = texts
        .iter()
        .map(|text| strip_token(text, subject.token))
        .collect();
    warnings.extend(encoder.prompt_notes("the reward encoder", &judged)?);
    Ok(warnings)
}

/// The images and prompts that the task encodes.
pub(super) fn encoded(
    config: &SubjectConfig,
    photos: Vec<Photo>,
    generated: Vec<Sample>,
    prompts: RunPrompts,
    side: u32,
) -> Inputs {
    Inputs {
        squares: photos
            .iter()
            .map(|photo| photo::square(&photo.image, side))
            .collect(),
        photos: photos.into_iter().map(|photo| photo.image).collect(),
        photo_prompt: prompts.photo,
        photo_class_prompt: prompts.photo_class,
        generated,
        validation_prompts: prompts.validation,
        token: config.subject.token.clone(),
    }
}
