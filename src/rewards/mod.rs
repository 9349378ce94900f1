//! Rewards and preferences from features of images and prompts. Features come from an encoder, normalised to length
//! 1; everything here is small, computed in f64 and returned as plain numbers.

pub mod bradley_terry;
pub mod harmonic;
pub mod oracle;
pub mod transform;
pub mod zero_shot;
