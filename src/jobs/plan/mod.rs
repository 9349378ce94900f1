//! The needs of a run, known before it is started: weights, memory by part, work and time by phase.

mod image;
pub(crate) mod image_model;
pub(crate) mod image_run;
mod image_time;
mod parts;
mod text;

pub use self::image_run::Work as ImageWork;
use self::image_run::{ImageRun, Work};
pub use self::image_time::Seconds as ImageSeconds;
pub use self::parts::{MemoryPart, Plan, Timed};
pub use self::text::{TextSeconds, TextWork};
use super::open::resolve;
use super::{pairs as pair_runs, text as text_runs};
use crate::config::{PairsConfig, SubjectConfig, TextConfig};
use crate::error::Result;

/// The needs of a run on a subject; `timed` measures pieces of it, which takes its memory.
///
/// # Errors
/// Photos, prompts or settings of the models that cannot be read.
pub fn subject(config: &SubjectConfig, timed: bool) -> Result<Plan<ImageWork, ImageSeconds>> {
    let on = resolve(&config.run.device, config.run.precision)?;
    let run = ImageRun::subject(config);
    let work = Work::subject(config, &run)?;
    image::plan(&run, work, on, timed)
}

/// As [`subject`], of a run on pairs of images.
///
/// # Errors
/// Pairs or settings of the models that cannot be read.
pub fn pairs(config: &PairsConfig, timed: bool) -> Result<Plan<ImageWork, ImageSeconds>> {
    let on = resolve(&config.run.device, config.run.precision)?;
    let inputs = pair_runs::data::read(config)?;
    let run = ImageRun::pairs(config, &inputs);
    let work = Work::pairs(config, &inputs, &run)?;
    image::plan(&run, work, on, timed)
}

/// As [`subject`], of a run on texts.
///
/// # Errors
/// Data or settings of the model that cannot be read.
pub fn text(config: &TextConfig, timed: bool) -> Result<Plan<TextWork, TextSeconds>> {
    let on = resolve(&config.run.device, config.run.precision)?;
    text::plan(config, text_runs::data::read(config)?, on, timed)
}
