//! Generated images that a user gives a run.

use std::path::Path;

use crate::data::captions::{self, Captions, Stated};
use crate::data::listing::Listing;
use crate::data::photo;
use crate::error::Result;
use crate::trainer::event::Sample;

/// The images of a user's folder with their prompts, cropped to squares of `side` pixels, and what is worth saying of them.
/// Images that do not say their prompt have that of the `prior`.
///
/// # Errors
/// An image that cannot be read, or without a prior one whose prompt is not known.
pub fn from_folder(
    folder: &Path,
    side: u32,
    prior: Option<&str>,
) -> Result<(Vec<Sample>, Vec<String>)> {
    let listing = Listing::open(folder)?;
    let photos = photo::load_all(&listing.images)?;
    let (captions, without) = match prior {
        None => (captions::own_prompts(folder, &listing.images)?, 0),
        Some(prior) => {
            let known = captions::known_prompts(folder, &listing.images)?;
            let says_none = |stated: &&Stated| !stated.is_prompt();
            let without = known.prompts.iter().filter(says_none).count();
            let prompts = known.prompts.into_iter().map(|stated| match stated {
                Stated::Prompt(prompt) => prompt,
                Stated::Unclear(_) | Stated::Nothing => prior.to_owned(),
            });
            let prompts = prompts.collect();
            let notes = known.notes;
            (Captions { prompts, notes }, without)
        }
    };
    let mut notes = vec![format!(
        "negatives: {} images of `{}`",
        photos.len(),
        folder.display()
    )];
    if let Some(prior) = prior.filter(|_| without > 0) {
        notes.push(format!(
            "  {without} of them do not say their prompt, and are learnt under `{prior}`"
        ));
    }
    notes.extend(captions.notes);
    notes.extend(listing.notes(None));
    let sample = |(photo, prompt): (photo::Photo, String)| Sample {
        prompt,
        seed: 0,
        image: photo::square(&photo.image, side),
    };
    Ok((
        photos
            .into_iter()
            .zip(captions.prompts)
            .map(sample)
            .collect(),
        notes,
    ))
}
