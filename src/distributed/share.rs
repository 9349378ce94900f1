//! The share that a process takes of every batch.

use std::ops::Range;

use super::Peers;
use crate::error::{Error, Result};

/// The share that this process takes of every step, which all processes know of each other.
#[derive(Clone, Debug, Default)]
pub struct Share {
    peers: Peers,
    cut: Cut,
}

/// Along which line steps are cut.
#[derive(Clone, Copy, Debug, Default)]
enum Cut {
    /// Whole micro-batches: what is computed over one of them is as in one process.
    #[default]
    MicroBatches,
    /// Every micro-batch by its examples.
    Examples,
}

impl Share {
    /// The whole of every step.
    pub const fn whole() -> Self {
        Self {
            peers: Peers::alone(),
            cut: Cut::MicroBatches,
        }
    }

    /// An equal part for each process of steps with `accumulation` micro-batches of `batch` examples.
    ///
    /// # Errors
    /// Neither of the two is a multiple of the number of processes.
    pub fn new(peers: Peers, batch: usize, accumulation: usize) -> Result<Self> {
        let world = peers.world();
        let cut = if accumulation.is_multiple_of(world) {
            Cut::MicroBatches
        } else if batch.is_multiple_of(world) {
            Cut::Examples
        } else {
            return Err(Error::config(format!(
                "{world} processes cannot share a step of `train.accumulation` {accumulation} times `train.batch` {batch} equally"
            ))
            .with_hint(format!(
                "make one of the two a multiple of {world}: the whole step is what counts, however many processes share it"
            )));
        };
        Ok(Self { peers, cut })
    }

    /// The processes.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The micro-batches of a step that this process runs, of `count`.
    pub fn micro_batches(&self, count: u64) -> Range<u64> {
        match self.cut {
            Cut::MicroBatches => part(count, self.peers.rank() as u64, self.peers.world() as u64),
            Cut::Examples => 0..count,
        }
    }

    /// The examples that this process takes of a micro-batch of `count` that it runs.
    pub fn examples(&self, count: usize) -> Range<usize> {
        match self.cut {
            Cut::MicroBatches => 0..count,
            Cut::Examples => {
                let (rank, world) = (self.peers.rank() as u64, self.peers.world() as u64);
                let own = part(count as u64, rank, world);
                own.start as usize..own.end as usize
            }
        }
    }

    /// `true` if other processes have the rest of the micro-batches that this one runs.
    pub fn cuts_examples(&self) -> bool {
        matches!(self.cut, Cut::Examples)
    }
}

/// A contiguous part of `count`: parts differ by one at most, and the first ones are the larger.
fn part(count: u64, rank: u64, world: u64) -> Range<u64> {
    let begin = |rank: u64| rank * (count / world) + rank.min(count % world);
    begin(rank)..begin(rank + 1)
}
