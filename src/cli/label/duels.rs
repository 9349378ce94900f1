//! Which images are compared: every photo with the images, or the images of one prompt with each other.

use std::path::Path;

use crate::cli::candidates::Candidates;
use crate::cli::label::choices::Pairing;
use crate::error::{Error, Result};
use crate::rewards::comparable::Property;

/// Two files with what is known of them, the first one before the second.
pub(super) struct Duel<'a> {
    pub(super) files: (&'a Path, &'a Path),
    /// The image whose prompt both are judged by.
    pub(super) image: usize,
    pub(super) rewards: (f64, f64),
    /// The rewards in the form in which they are compared.
    pub(super) values: (f64, f64),
}

/// The duels of photos, which come first, with images. `plain` and `compared` are the rewards and the values.
pub(super) fn photos_with_images<'a>(
    pairing: Pairing,
    candidates: &'a Candidates,
    plain: &Property,
    compared: &Property,
) -> Vec<Duel<'a>> {
    let (photos, images) = (candidates.references.len(), candidates.images.len());
    let pairs: Vec<(usize, usize)> = match pairing {
        Pairing::Turns => (0..images).map(|image| (image % photos, image)).collect(),
        Pairing::All | Pairing::BestWorst => (0..images)
            .flat_map(|image| (0..photos).map(move |photo| (photo, image)))
            .collect(),
    };
    let duel = |(photo, image): (usize, usize)| {
        let both = |property: &Property| {
            let of_photo = property.given[candidates.text_of[image]][photo];
            (of_photo, property.samples[image])
        };
        Duel {
            files: (&candidates.references[photo], &candidates.images[image]),
            image,
            rewards: both(plain),
            values: both(compared),
        }
    };
    pairs.into_iter().map(duel).collect()
}

/// The duels of images of one prompt, the better one first; of equals the one whose name comes first.
///
/// # Errors
/// No prompt has two images.
pub(super) fn among_images<'a>(
    pairing: Pairing,
    candidates: &'a Candidates,
    plain: &Property,
    compared: &Property,
) -> Result<Vec<Duel<'a>>> {
    let values = &compared.samples;
    let duel = |one: usize, other: usize| {
        // `one` is before `other`, and stays there where they are equal.
        let (better, worse) = if values[other] > values[one] {
            (other, one)
        } else {
            (one, other)
        };
        Duel {
            files: (&candidates.images[better], &candidates.images[worse]),
            image: better,
            rewards: (plain.samples[better], plain.samples[worse]),
            values: (values[better], values[worse]),
        }
    };
    let (mut duels, mut alone) = (Vec::new(), 0);
    for text in 0..candidates.texts.len() {
        let own: Vec<usize> = (0..candidates.images.len())
            .filter(|&image| candidates.text_of[image] == text)
            .collect();
        alone += usize::from(own.len() < 2);
        if pairing == Pairing::BestWorst {
            let by_value = |one: &&usize, other: &&usize| values[**one].total_cmp(&values[**other]);
            // Of equals the first is the best, and the last the worst.
            let best = own.iter().rev().max_by(by_value);
            let worst = own.iter().rev().min_by(by_value);
            if let (Some(&best), Some(&worst)) = (best, worst)
                && best != worst
            {
                duels.push(duel(best.min(worst), best.max(worst)));
            }
            continue;
        }
        for (place, &one) in own.iter().enumerate() {
            duels.extend(own[place + 1..].iter().map(|&other| duel(one, other)));
        }
    }
    if duels.is_empty() {
        return Err(
            Error::config("no two images have the same prompt, and there are no photos to compare them with")
                .with_hint("make several images of each prompt (`preftune generate --count 4`), or give `--references`"),
        );
    }
    if alone > 0 {
        eprintln!(
            "note: {alone} of {} prompts have a single image, which is compared with none",
            candidates.texts.len()
        );
    }
    Ok(duels)
}
