//! Which pairs of images are held out: whole groups of pairs that have a prompt or an image in common, as far as there are
//! such groups, and what training and held-out pairs share.

use std::collections::HashSet;

use super::groups;
use super::image_preferences::ImagePair;

/// The kinds of things that no two pairs on different sides have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Apart {
    PromptsAndImages,
    Images,
    Nothing,
}

impl Apart {
    fn keys(self, image: &ImagePair) -> Vec<String> {
        let pair = &image.pair;
        let images = [pair.chosen, pair.rejected].map(|row| format!("image {row}"));
        match self {
            Self::Nothing => Vec::new(),
            Self::Images => images.to_vec(),
            Self::PromptsAndImages => {
                let prompt = pair.prompt.map(|row| format!("prompt {row}"));
                images.into_iter().chain(prompt).collect()
            }
        }
    }
}

/// Training and held-out pairs: as the data say, else a share of them drawn by `seed`.
///
/// Pairs of one prompt or with an image in common stay together. Where groups of that kind are so large that the held-out
/// share would be less than half or more than twice what is asked for, only pairs with an image in common do, and where
/// that fails too, each pair is drawn for itself.
pub fn split(all: Vec<ImagePair>, seed: u64, share: f64) -> (Vec<ImagePair>, Vec<ImagePair>) {
    let says = |image: &ImagePair| image.pair.held_out;
    let open = all.iter().filter(|image| says(image).is_none()).count();
    let wanted = share * open as f64;
    for apart in [Apart::PromptsAndImages, Apart::Images] {
        let (train, held_out) =
            groups::split(all.clone(), says, |image| apart.keys(image), seed, share);
        let drawn = held_out
            .iter()
            .filter(|image| says(image).is_none())
            .count() as f64;
        if share <= 0.0 || (wanted / 2.0..=(2.0 * wanted).max(1.0)).contains(&drawn) {
            return (train, held_out);
        }
    }
    groups::split(all, says, |image| Apart::Nothing.keys(image), seed, share)
}

/// How many held-out pairs have their prompt, or an image, in common with training pairs, in words.
pub fn overlap(train: &[ImagePair], held_out: &[ImagePair]) -> String {
    let rows = |image: &ImagePair| [image.pair.chosen, image.pair.rejected];
    let prompts: HashSet<usize> = train.iter().filter_map(|image| image.pair.prompt).collect();
    let images: HashSet<usize> = train.iter().flat_map(rows).collect();
    let of_prompts = held_out
        .iter()
        .filter(|image| image.pair.prompt.is_some_and(|row| prompts.contains(&row)))
        .count();
    let of_images = held_out
        .iter()
        .filter(|image| rows(image).iter().any(|row| images.contains(row)))
        .count();
    let count = held_out.len();
    match (of_prompts, of_images) {
        (0, 0) => format!(
            "none of the {count} held-out pairs has a prompt or an image of the training pairs"
        ),
        _ => format!(
            "of {count} held-out pairs {of_prompts} have a prompt and {of_images} have an image of the training pairs: what is measured on \
             these is partly learnt by heart"
        ),
    }
}
