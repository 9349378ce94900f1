//! How pairs are made of values, as the user names it.

use clap::ValueEnum;

/// How it is decided which of two is `chosen`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LabelKind {
    /// The likelier one of the two.
    Soft,
    /// A draw with its probability.
    Sampled,
}

/// Which pairs are written.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pairing {
    /// Every photo with every image; without photos, all images of a prompt with each other, as all answers to a prompt.
    All,
    /// The best answer to a prompt with the worst, or the best image of a prompt; not with photos.
    BestWorst,
    /// Every image once, with the photos taking turns; photos only.
    Turns,
}
