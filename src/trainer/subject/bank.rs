//! The base model's errors on a bank of draws. A run's pairs come back to the same few draws of posterior, timestep and
//! noise, so that what the frozen model has to say of each image is computed before the first step, and the model let go.

use std::collections::BTreeSet;

use tch::{Device, Kind, Tensor};

use super::SubjectTask;
use super::prepare::LatentPool;
use crate::config::SubjectConfig;
use crate::error::Result;
use crate::trainer::denoising::rows;
use crate::trainer::visits::epoch_order;

/// An image of a batch and what it is seen with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Drawn {
    /// 0: a photo, 1: a generated image.
    pub(super) side: usize,
    /// Index among those of its side.
    pub(super) image: i64,
    /// Place in the bank; without a bank the pair's position in the run.
    pub(super) draw: u64,
}

/// Names of the random orders of photos and of generated images, from which seeds are derived.
const PURPOSES: [&str; 2] = ["photos", "generated"];

/// The images of a side, of `count`, that the pairs at `positions` of a run take, with their draws.
pub(super) fn draw_images(
    (seed, bank): (u64, usize),
    side: usize,
    count: usize,
    positions: std::ops::Range<u64>,
) -> impl Iterator<Item = Drawn> {
    let images = epoch_order(seed, PURPOSES[side], count, positions.clone());
    images
        .into_iter()
        .zip(positions)
        .map(move |(image, position)| Drawn {
            side,
            image,
            draw: position.checked_rem(bank as u64).unwrap_or(position),
        })
}

/// All that a run of so many photos and generated images sees, photos first.
fn all_drawn(config: &SubjectConfig, images: [usize; 2]) -> BTreeSet<Drawn> {
    let train = &config.train;
    let pairs = train.steps * (train.accumulation * train.batch) as u64;
    let source = (config.run.seed, config.objective.noise_bank);
    (0..2)
        .flat_map(|side| draw_images(source, side, images[side], 0..pairs))
        .collect()
}

/// Passes of the base model, by image, in an RPO run of all its steps with so many photos and generated images.
pub fn base_forwards(config: &SubjectConfig, images: [usize; 2]) -> u64 {
    all_drawn(config, images).len() as u64
}

/// Errors by image and draw.
pub(super) struct NoiseBank {
    draws: u64,
    /// By side, `[images * draws]` f32 on the device; NaN where the run never looks.
    errors: [Tensor; 2],
}

impl NoiseBank {
    fn new(draws: u64, images: [usize; 2], device: Device) -> Self {
        let errors = images.map(|count| {
            let size = count as i64 * draws as i64;
            Tensor::full([size], f64::NAN, (Kind::Float, device))
        });
        Self { draws, errors }
    }

    /// Places of the rows of one side of a batch.
    fn places(&self, batch: &[Drawn], side: usize) -> Tensor {
        let of_side = batch.iter().filter(|drawn| drawn.side == side);
        let places = of_side.map(|drawn| drawn.image * self.draws as i64 + drawn.draw as i64);
        rows(&places.collect::<Vec<_>>(), self.errors[side].device())
    }

    fn put(&mut self, batch: &[Drawn], errors: &Tensor) {
        let mut begin = 0;
        for side in 0..2 {
            let places = self.places(batch, side);
            let count = places.size()[0];
            let _ = self.errors[side].index_copy_(0, &places, &errors.narrow(0, begin, count));
            begin += count;
        }
    }

    /// Errors of a batch, `[b]`, photos before generated images.
    pub(super) fn errors(&self, batch: &[Drawn]) -> Tensor {
        let of_side = |side: usize| self.errors[side].index_select(0, &self.places(batch, side));
        Tensor::cat(&[of_side(0), of_side(1)], 0)
    }
}

impl SubjectTask {
    /// Where the configuration asks for a bank: computes the base model's errors for all that the run will see, and lets go
    /// of the model. `go_on` is told of every batch (images done, of how many).
    ///
    /// # Errors
    /// Those of `go_on`.
    pub fn fill_bank(
        &mut self,
        config: &SubjectConfig,
        mut go_on: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let draws = config.objective.noise_bank as u64;
        let Some(reference) = self.reference.take_if(|_| draws > 0) else {
            return Ok(());
        };
        let generated = self.generated.as_ref().map_or(0, LatentPool::len);
        let images = [self.photos.len(), generated];
        let all: Vec<Drawn> = all_drawn(config, images).into_iter().collect();
        let mut bank = NoiseBank::new(draws, images, self.photos.device());
        for (number, part) in all.chunks(2 * self.batch).enumerate() {
            go_on((number * 2 * self.batch) as u64, all.len() as u64)?;
            let errors = self.base_errors(&reference, &self.noisy_batch(part));
            self.training_forwards += part.len() as u64;
            bank.put(part, &errors);
        }
        self.bank = Some(bank);
        Ok(())
    }
}
