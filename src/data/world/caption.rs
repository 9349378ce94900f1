//! Captions of scenes, and the prompts for tuning a model to a subject.

use std::collections::BTreeSet;

use super::background;
use super::compose::COLOURS;

/// The words that come to mean subjects: the first for one alone, the others for more of them. No caption holds them;
/// a model that is trained on the world gives them vectors like those of the drawings' names.
pub const TOKENS: [&str; 4] = ["[V]", "[W]", "[X]", "[Y]"];

/// Backgrounds of a subject's photos. No test prompt speaks of them.
pub(super) const PHOTO_BACKGROUNDS: [&str; 5] = ["wood", "paper", "grass", "tiles", "city"];

/// Prompts from which negatives are made. `{token}` and `{class}` stand for the subject.
pub(super) const TRAINING_PROMPTS: [&str; 8] = [
    "a {token} {class} on a wooden floor",
    "a {token} {class} on white paper",
    "a {token} {class} on the grass",
    "a {token} {class} on a tiled floor",
    "a {token} {class} in the city",
    "a {token} {class} by a brick wall",
    "a {token} green {class}",
    "a {token} yellow {class}",
];

/// Prompts by which training stops.
pub(super) const VALIDATION_PROMPTS: [&str; 6] = [
    "a {token} {class} in the water",
    "a {token} {class} on pink fabric",
    "a {token} {class} on a purple rug",
    "a {token} {class} on a cobblestone street",
    "a {token} blue {class}",
    "a {token} blue {class} in the water",
];

/// Prompts by which a tuned model is judged.
pub(super) const TEST_PROMPTS: [&str; 12] = [
    "a {token} {class} in the jungle",
    "a {token} {class} on the moon",
    "a {token} {class} at sunset",
    "a {token} {class} in the snow",
    "a {token} {class} on the beach",
    "a {token} {class} in the mountains",
    "a {token} {class} in a wheat field",
    "a {token} {class} under the night sky",
    "a {token} red {class}",
    "a {token} purple {class}",
    "a {token} red {class} in the snow",
    "a {token} purple {class} on the beach",
];

/// The parts that a caption names beside the class.
pub(super) struct Wording<'a> {
    /// Starts with `a photo of`.
    pub(super) photo: bool,
    /// The drawing's name.
    pub(super) name: Option<&'a str>,
    pub(super) colour: Option<usize>,
    pub(super) background: Option<usize>,
}

/// `a [photo of a] (name) (colour) CLASS (background phrase)`. The article is always `a`: an `an` would tell the
/// class before its word.
pub(super) fn caption(class: &str, wording: &Wording<'_>) -> String {
    let mut words = vec!["a"];
    if wording.photo {
        words.extend(["photo", "of", "a"]);
    }
    words.extend(wording.name);
    words.extend(wording.colour.map(|colour| COLOURS[colour].0));
    words.push(class);
    words.extend(wording.background.map(|at| background::ALL[at].phrase));
    words.join(" ")
}

/// Every word that a caption or a prompt may hold, sorted.
pub(super) fn words(classes: &[String], names: &[&str]) -> Vec<String> {
    let phrases = background::ALL
        .iter()
        .flat_map(|place| place.phrase.split(' '));
    let words: BTreeSet<&str> = ["a", "photo", "of"]
        .into_iter()
        .chain(TOKENS)
        .chain(names.iter().copied())
        .chain(COLOURS.iter().map(|(name, _)| *name))
        .chain(classes.iter().map(String::as_str))
        .chain(phrases)
        .collect();
    words.into_iter().map(str::to_owned).collect()
}
