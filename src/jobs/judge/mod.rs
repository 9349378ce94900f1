//! The judges of answers and of images: a command, a language model's letters, a reward model, and the scorer of rounds.

pub(crate) mod command;
pub(crate) mod images;
pub(crate) mod letters;
pub(crate) mod references;
pub(crate) mod scorer;
pub(crate) mod texts;
