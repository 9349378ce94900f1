//! Several processes that train one model together (data parallelism): who they are, how they meet, what they add up.
//!
//! Each process has a whole copy of the model and takes its share of every batch. Gradients are added up over all of them before
//! the optimiser's update, so that the copies stay equal and the run is the one that a single process makes, up to rounding.
//! Collective calls are made by all processes in the same order, or none of them returns: what decides about one is a value
//! that all have in common.
//!
//! A run in one process knows no group: its [`Peers`] are alone, and every call returns at once.

mod group;
mod peers;
mod place;
mod share;

pub use self::group::Meeting;
pub use self::peers::Peers;
pub use self::place::{Launcher, Place};
pub use self::share::Share;
