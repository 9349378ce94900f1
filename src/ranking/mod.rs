//! Side-by-side comparisons to a ranking, on plain `f64`: reading and counting, checks of connectivity, fits, their
//! uncertainty, and what the fit leaves unexplained. Knows no models and no tensors, prints nothing.

pub mod agreement;
pub mod answers;
pub mod bootstrap;
pub mod bradley_terry;
pub mod calibration;
pub mod centrality;
pub mod columns;
pub mod comparisons;
pub mod confidence;
mod conjugate_gradient;
pub mod connectivity;
pub mod counts;
mod draws;
pub mod elo;
mod games;
pub mod information;
pub mod judgements;
pub mod matchups;
mod newton;
pub mod outcomes;
pub mod posterior;
pub mod read;
pub mod selective;
pub mod standard_errors;
pub mod standings;
pub mod ties;
pub mod transitivity;
pub mod true_skill;
mod verdicts;
pub mod win_rate;

pub use bradley_terry::{Fit, Prior};
pub use comparisons::{Comparisons, Game, Outcome};
pub use counts::{Counts, Pair};
pub use ties::Ties;
