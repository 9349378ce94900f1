//! Rewards of generated images, whatever gives them: what drives rounds asks through one trait.

use image::RgbImage;

use crate::error::Result;

/// The reward of an image with what it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageScore {
    /// The reward; higher is better.
    pub reward: f64,
    /// The numbers of [`ImageReward::columns`].
    pub columns: Vec<f64>,
}

/// Something that gives images rewards.
pub trait ImageReward {
    /// In words, for people.
    fn name(&self) -> String;

    /// SHA-256 of the weights behind it; `None` where it has none that are known.
    fn sha256(&self) -> Option<String>;

    /// Names of the numbers that a reward is made of.
    fn columns(&self) -> &'static [&'static str];

    /// Rewards of images, each with the prompt that it was made for.
    ///
    /// # Errors
    /// An image or prompt that it does not take, or a scorer that fails.
    fn score(&mut self, images: &[RgbImage], prompts: &[String]) -> Result<Vec<ImageScore>>;
}
