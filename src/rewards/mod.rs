//! Rewards and preferences from features of images, prompts and responses. What scores images takes features of length
//! 1, computes in f64 and returns plain numbers; what a head is trained with takes tensors and is differentiable.

pub mod bradley_terry;
pub mod comparable;
pub mod general_preference;
pub mod harmonic;
pub mod ideal_point;
pub mod image;
pub mod new_user;
pub mod oracle;
pub mod pairs;
pub mod pool;
pub mod repetition;
pub mod sentiment;
pub mod specific;
pub mod subject;
pub mod transform;
pub mod zero_shot;
