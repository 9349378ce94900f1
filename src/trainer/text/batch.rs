//! Which examples a step takes, and sequences as padded tensors.

use tch::{Device, Kind, Tensor};

use super::examples::scored;
use crate::models::lm::tokenizer::Sequence;
use crate::models::lm::{LanguageModel, Layout, LmConfig, LmPass};
use crate::ops::logprobs::Scored;
use crate::ops::random::{derive_seed, permutation};
use crate::ops::tape::Tape;
use crate::ops::transfer::upload_slice;

/// Batches in which examples are sorted by length: enough for little padding, few enough that batches stay random.
const WINDOW: usize = 64;

/// In which order examples are visited.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// That of the file, in every epoch.
    AsGiven,
    /// Shuffled.
    Shuffled,
    /// Shuffled, with examples of like length in a batch.
    Bucketed,
}

/// The batches of a run. Every epoch visits all examples, the remainder as a smaller batch; what would be too small for a
/// batch makes another one larger.
pub(super) struct Batches {
    seed: u64,
    size: usize,
    /// Fewest examples of a batch.
    least: usize,
    /// Length of every example.
    lengths: Vec<usize>,
    order: Order,
    epoch: Option<(u64, Vec<Vec<usize>>)>,
}

impl Batches {
    /// Of at least `size` examples of these lengths, `least` to a batch.
    pub(super) fn new(
        seed: u64,
        (least, size): (usize, usize),
        lengths: Vec<usize>,
        order: Order,
    ) -> Self {
        Self {
            seed,
            size,
            least,
            lengths,
            order,
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
        if self.order == Order::AsGiven {
            let given: Vec<usize> = (0..self.lengths.len()).collect();
            return given.chunks(self.size).map(<[_]>::to_vec).collect();
        }
        let mut order = permutation(seed("example"), self.lengths.len());
        if self.order == Order::Bucketed {
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

/// Least share of the tokens that sharing must save.
const WORTH_SHARING: f64 = 0.1;

/// Sequences as one batch, padded on the right.
pub(super) struct Padded {
    /// `[b, t]`
    ids: Tensor,
    /// Where rows hold several sequences.
    layout: Option<Layout>,
    /// The tokens of answers.
    pub(super) scored: Scored,
    /// Share of the positions that are padding.
    pub(super) padding: f64,
}

/// One row: a beginning that its sequences have in common, then what each has of its own.
struct Row<'s> {
    shared: usize,
    /// Sequences with their numbers in the batch.
    members: Vec<(usize, &'s Sequence)>,
}

impl Row<'_> {
    fn length(&self) -> usize {
        let own = self
            .members
            .iter()
            .map(|(_, one)| one.ids.len() - self.shared);
        self.shared + own.sum::<usize>()
    }
}

/// How the sequences of a batch lie in rows.
pub(super) struct Rows<'s> {
    rows: Vec<Row<'s>>,
    sequences: usize,
}

impl<'s> Rows<'s> {
    /// A row for each sequence.
    fn alone(sequences: &[&'s Sequence]) -> Self {
        let rows = sequences.iter().enumerate().map(|(number, &one)| Row {
            shared: 0,
            members: vec![(number, one)],
        });
        Self {
            rows: rows.collect(),
            sequences: sequences.len(),
        }
    }

    /// A row for each of `groups`, which are places in `sequences`, where that saves work and the model allows it: the prompt
    /// that answers have in common is then run once (prefix sharing, arXiv 2410.20305).
    pub(super) fn shared(
        sequences: &[&'s Sequence],
        groups: &[Vec<usize>],
        model: &LmConfig,
    ) -> Self {
        let row = |group: &Vec<usize>| {
            let members = group.iter().map(|&number| (number, sequences[number]));
            let members: Vec<(usize, &Sequence)> = members.collect();
            let shared = in_common(&members);
            Row { shared, members }
        };
        let rows: Vec<Row> = groups.iter().map(row).collect();
        let longest = rows.iter().map(Row::length).max().unwrap_or_default();
        let alone: usize = sequences.iter().map(|one| one.ids.len()).max().unwrap_or(0);
        let (before, after) = (alone * sequences.len(), longest * rows.len());
        let saved = 1.0 - after as f64 / before.max(1) as f64;
        if saved < WORTH_SHARING || !model.takes_layouts(longest) {
            return Self::alone(sequences);
        }
        Self {
            rows,
            sequences: sequences.len(),
        }
    }

    fn longest(&self) -> usize {
        self.rows.iter().map(Row::length).max().unwrap_or_default()
    }

    /// Size of the pass.
    pub(super) fn pass(&self) -> LmPass {
        let members = self.rows.iter().flat_map(|row| &row.members);
        LmPass {
            rows: self.rows.len() as u64,
            length: self.longest() as u64,
            scored: members.map(|(_, one)| scored(one) as u64).sum(),
            masked: self.rows.iter().any(|row| row.members.len() > 1),
        }
    }
}

impl Padded {
    /// A row for each sequence.
    pub(super) fn new(sequences: &[&Sequence], device: Device) -> Self {
        Self::from_rows(&Rows::alone(sequences), device)
    }

    /// As they are `laid`.
    pub(super) fn from_rows(laid: &Rows, device: Device) -> Self {
        let (rows, longest) = (&laid.rows, laid.longest());
        let size = rows.len() * longest;
        let mut ids = Vec::with_capacity(size);
        let (mut positions, mut parts) = (Vec::with_capacity(size), Vec::with_capacity(size));
        let mut places = Vec::new();
        let mut tokens = 0;
        for (number, row) in rows.iter().enumerate() {
            let begin = number * longest;
            let shared = row
                .members
                .first()
                .map_or(&[][..], |(_, one)| &one.ids[..row.shared]);
            ids.extend_from_slice(shared);
            positions.extend(0..row.shared as i64);
            // The common beginning and padding are part 0, which all see.
            parts.extend(std::iter::repeat_n(0_i64, row.shared));
            for (part, (sequence, one)) in row.members.iter().enumerate() {
                let own = ids.len() - row.shared; // where the sequence would begin
                for at in one.scored() {
                    let target = one.ids[at];
                    let before = at - 1;
                    let place = if before < row.shared { begin } else { own } + before;
                    places.push([place as i64, *sequence as i64, target]);
                }
                ids.extend_from_slice(&one.ids[row.shared..]);
                positions.extend(row.shared as i64..one.ids.len() as i64);
                parts.extend(std::iter::repeat_n(
                    part as i64 + 1,
                    one.ids.len() - row.shared,
                ));
            }
            tokens += row.length();
            // Any id does: causal attention does not see what follows.
            ids.resize(begin + longest, 0);
            positions.resize(begin + longest, 0);
            parts.resize(begin + longest, 0);
        }
        let shape = [rows.len() as i64, longest as i64];
        let tensor = |values: &[i64]| upload_slice(values, device).view(shape);
        let several = rows.iter().any(|row| row.members.len() > 1);
        Self {
            layout: several.then(|| Layout {
                positions: tensor(&positions),
                visible: visible(&tensor(&parts)),
            }),
            ids: tensor(&ids),
            scored: Scored::at(&places, laid.sequences as i64, device),
            padding: 1.0 - tokens as f64 / size.max(1) as f64,
        }
    }

    /// The states that predict the scored tokens, `[n, d]`.
    pub(super) fn states<'a>(&self, model: &'a LanguageModel, tape: Option<&Tape<'a>>) -> Tensor {
        let hidden = match &self.layout {
            Some(layout) => model.forward_laid_out(&self.ids, layout, tape),
            None => model.forward(&self.ids, None, tape),
        };
        self.scored.states(&hidden)
    }
}

/// Tokens that all begin with, before any that is scored.
fn in_common(members: &[(usize, &Sequence)]) -> usize {
    let Some(((_, first), others)) = members.split_first() else {
        return 0;
    };
    let most = members.iter().map(|(_, one)| one.prompt).min().unwrap_or(0);
    let alike = others.iter().map(|(_, other)| {
        let pairs = first.ids.iter().zip(&other.ids);
        pairs.take_while(|(one, other)| one == other).count()
    });
    alike.fold(most, usize::min)
}

/// From the part of every token, `[b, t]`, to what it sees, `[b, 1, t, t]`: of what comes before, its own part and part 0.
fn visible(parts: &Tensor) -> Tensor {
    let t = parts.size()[1];
    let (queries, keys) = (parts.unsqueeze(2), parts.unsqueeze(1));
    let causal = Tensor::ones([t, t], (Kind::Bool, parts.device())).tril(0);
    let seen = keys.eq(0).logical_or(&keys.eq_tensor(&queries));
    seen.logical_and(&causal).unsqueeze(1)
}
