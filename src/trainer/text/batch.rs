//! Which examples a step takes, and sequences as padded tensors.

use tch::{Device, Tensor};

use crate::models::lm::tokenizer::Sequence;
use crate::ops::logprobs::IGNORED;
use crate::ops::random::{derive_seed, permutation};

/// Batches in which examples are sorted by length: enough for little padding, few enough that batches stay random.
const WINDOW: usize = 64;

/// The batches of a run. Every epoch visits all examples in a new order, the remainder as a smaller batch; what would be
/// too small for a batch makes another one larger.
pub(super) struct Batches {
    seed: u64,
    size: usize,
    /// Fewest examples of a batch.
    least: usize,
    /// Length of every example.
    lengths: Vec<usize>,
    bucket: bool,
    epoch: Option<(u64, Vec<Vec<usize>>)>,
}

impl Batches {
    /// Of at least `size` examples of these lengths, `least` to a batch.
    pub(super) fn new(
        seed: u64,
        (least, size): (usize, usize),
        lengths: Vec<usize>,
        bucket: bool,
    ) -> Self {
        Self {
            seed,
            size,
            least,
            lengths,
            bucket,
            epoch: None,
        }
    }

    /// The examples of batch `index` of the run.
    pub(super) fn get(&mut self, index: u64) -> Vec<usize> {
        let in_epoch = self.in_epoch() as u64;
        let epoch = index / in_epoch;
        if self.epoch.as_ref().is_none_or(|(known, _)| *known != epoch) {
            self.epoch = Some((epoch, self.of_epoch(epoch)));
        }
        let batches = self.epoch.as_ref().map(|(_, batches)| batches);
        batches.map_or_else(Vec::new, |batches| {
            batches[(index % in_epoch) as usize].clone()
        })
    }

    /// Batches of an epoch.
    fn in_epoch(&self) -> usize {
        let (full, rest) = (
            self.lengths.len() / self.size,
            self.lengths.len() % self.size,
        );
        (full + usize::from(rest >= self.least)).max(1)
    }

    fn of_epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let seed = |purpose| derive_seed(self.seed, purpose, &[epoch]);
        let mut order = permutation(seed("example"), self.lengths.len());
        if self.bucket {
            for window in order.chunks_mut(WINDOW * self.size) {
                window.sort_by_key(|&example| self.lengths[example]);
            }
        }
        let mut batches: Vec<Vec<usize>> = order.chunks(self.size).map(<[_]>::to_vec).collect();
        if batches.len() > self.in_epoch()
            && let Some(rest) = batches.pop()
            && let Some(last) = batches.last_mut()
        {
            last.extend(rest);
        }
        let shuffled = permutation(seed("batch"), batches.len());
        shuffled
            .into_iter()
            .map(|batch| batches[batch].clone())
            .collect()
    }
}

/// Sequences as one batch, padded on the right.
pub(super) struct Padded {
    /// `[s, t]`
    pub(super) ids: Tensor,
    /// `[s, t]`: the ids of answers, all else ignored.
    pub(super) labels: Tensor,
    /// Share of the positions that are padding.
    pub(super) padding: f64,
}

impl Padded {
    pub(super) fn new(sequences: &[&Sequence], device: Device) -> Self {
        let lengths = sequences.iter().map(|sequence| sequence.ids.len());
        let (tokens, longest) = (
            lengths.clone().sum::<usize>(),
            lengths.max().unwrap_or_default(),
        );
        let size = sequences.len() * longest;
        let (mut ids, mut labels) = (Vec::with_capacity(size), Vec::with_capacity(size));
        for Sequence { ids: own, prompt } in sequences {
            let padding = longest - own.len();
            // Any id does: causal attention does not see what follows.
            ids.extend(own.iter().copied().chain(std::iter::repeat_n(0, padding)));
            labels.extend(std::iter::repeat_n(IGNORED, *prompt));
            labels.extend(own[*prompt..].iter().copied());
            labels.extend(std::iter::repeat_n(IGNORED, padding));
        }
        let shape = [sequences.len() as i64, longest as i64];
        let tensor = |values: &[i64]| Tensor::from_slice(values).view(shape).to_device(device);
        Self {
            ids: tensor(&ids),
            labels: tensor(&labels),
            padding: 1.0 - tokens as f64 / size.max(1) as f64,
        }
    }
}
