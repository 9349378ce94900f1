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
    /// Every photo with every image; all answers to a prompt with each other.
    All,
    /// The best answer to a prompt with the worst; texts only.
    BestWorst,
    /// Every image once, with the photos taking turns; images only.
    Turns,
}
