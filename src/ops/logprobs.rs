//! Log-probabilities of given tokens, in f32: plainly from logits, or by a head that runs over a few positions at a
//! time, so that logits of all positions never exist at once, nor a graph of them.

use std::ops::Range;

use tch::{Device, Kind, Tensor, no_grad};

use super::token_kl::token_kl;
use super::transfer::upload_slice;

/// Label of a token that is not scored: prompt and padding.
pub const IGNORED: i64 = -100;

/// Which positions of a batch predict a token that is scored.
pub struct Scored {
    /// Flat positions in `[b, t]`, `[n]`.
    positions: Tensor,
    /// The sequence of each, `[n]`.
    rows: Tensor,
    /// The token that each predicts, `[n]`.
    pub targets: Tensor,
    batch: i64,
}

impl Scored {
    /// From labels `[b, t]`: the tokens themselves where they count, [`IGNORED`] elsewhere. A token is predicted by the
    /// position before it, so that a label in the first column scores nothing.
    pub fn from_labels(labels: &Tensor) -> Self {
        let (batch, length) = (labels.size()[0], labels.size()[1]);
        let next = labels.narrow(1, 1, length - 1); // [b, t - 1]
        let found = next.ne(IGNORED).nonzero(); // [n, 2]
        let (rows, columns) = (found.select(1, 0), found.select(1, 1));
        Self {
            targets: next.masked_select(&next.ne(IGNORED)),
            positions: &rows * length + columns,
            rows,
            batch,
        }
    }

    /// From where each scored token is predicted in a flattened batch, whose sequence (below `sequences`) it is of, and the
    /// token itself. A position may predict tokens of several sequences.
    pub fn at(places: &[[i64; 3]], sequences: i64, device: Device) -> Self {
        let column = |column: usize| {
            let values: Vec<i64> = places.iter().map(|place| place[column]).collect();
            upload_slice(&values, device)
        };
        Self {
            positions: column(0),
            rows: column(1),
            targets: column(2),
            batch: sequences,
        }
    }

    /// The states `[n, d]` that predict, out of `[b, t, d]`. All others need no head.
    pub fn states(&self, hidden: &Tensor) -> Tensor {
        hidden.flatten(0, 1).index_select(0, &self.positions)
    }

    /// Values of tokens `[n]` summed by sequence, `[b]`.
    pub fn sum(&self, values: &Tensor) -> Tensor {
        let zeros = Tensor::zeros([self.batch], (values.kind(), values.device()));
        zeros.index_add(0, &self.rows, values)
    }

    /// Scored tokens of each sequence, f32 `[b]`.
    pub fn lengths(&self) -> Tensor {
        let ones = Tensor::ones(self.rows.size(), (Kind::Float, self.rows.device()));
        self.sum(&ones)
    }
}

/// `ln softmax(logits)[target]`: logits `[.., v]` and tokens `[..]` to `[..]`, in f32 or f64.
pub fn selected(logits: &Tensor, targets: &Tensor) -> Tensor {
    let kind = accurate(logits.kind());
    let logits = logits.to_kind(kind);
    let chosen = logits
        .gather(-1, &targets.unsqueeze(-1), false)
        .squeeze_dim(-1);
    chosen - logits.logsumexp([-1], false)
}

/// Entropy in nats of the distributions that logits `[.., v]` stand for, `[..]`.
pub fn entropy(logits: &Tensor) -> Tensor {
    let logps = logits.log_softmax(-1, accurate(logits.kind()));
    -(logps.exp() * logps).sum_dim_intlist(-1, false, None::<Kind>)
}

fn accurate(kind: Kind) -> Kind {
    if kind == Kind::Double {
        Kind::Double
    } else {
        Kind::Float
    }
}

/// From states `[m, d]` to logits `[m, v]`.
pub type Head<'a> = &'a dyn Fn(&Tensor) -> Tensor;

/// A frozen model whose next-token distributions the policy's are compared with.
pub struct Reference<'a> {
    /// Its states at the same positions, `[n, d']`.
    pub states: Tensor,
    /// Its head.
    pub head: Head<'a>,
}

/// Log-probs in two passes over a head, exact for any objective, batch-coupled ones included.
///
/// The first pass, [`TwoPass::new`], computes values without a graph. The caller evaluates its objective on them and
/// calls `backward` on it. The second, [`TwoPass::backward`], runs the head again a few positions at a time and
/// back-propagates what arrived, into the head and then once through the graph of the states. The price is one more
/// forward of the head; at no time are there more than `rows` times `v` logits.
pub struct TwoPass<'a> {
    states: Tensor,
    targets: Tensor,
    head: Head<'a>,
    reference: Option<Reference<'a>>,
    rows: i64,
    /// Log-probability of each target, `[n]`, a leaf.
    pub logps: Tensor,
    /// [`token_kl`] of each position, `[n]`, a leaf; where there is a reference.
    pub kl: Option<Tensor>,
    /// Entropy of each position, `[n]`, without gradient.
    pub entropy: Tensor,
}

impl<'a> TwoPass<'a> {
    /// The first pass over states `[n, d]` with the tokens `[n]` that they predict, `rows` positions at a time (at least
    /// 1; 256 MiB of f32 logits are `2^26 / v`).
    ///
    /// `states` may carry a graph. Where they do not, and the head has nothing to train, this is the whole computation.
    pub fn new(
        states: &Tensor,
        targets: &Tensor,
        head: Head<'a>,
        reference: Option<Reference<'a>>,
        rows: i64,
    ) -> Self {
        let mut pass = Self {
            states: states.shallow_clone(),
            targets: targets.shallow_clone(),
            head,
            reference,
            rows: rows.max(1),
            logps: Tensor::new(),
            kl: None,
            entropy: Tensor::new(),
        };
        let (mut logps, mut kl, mut entropies) = (Vec::new(), Vec::new(), Vec::new());
        no_grad(|| {
            for part in pass.parts() {
                let logits = (pass.head)(&part_of(&pass.states, &part));
                logps.push(selected(&logits, &part_of(&pass.targets, &part)));
                kl.extend(pass.divergence(&logits, &part));
                entropies.push(entropy(&logits));
            }
        });
        let leaf = |parts: &[Tensor]| Tensor::cat(parts, 0).set_requires_grad(true);
        pass.logps = leaf(&logps);
        pass.kl = pass.reference.is_some().then(|| leaf(&kl));
        pass.entropy = Tensor::cat(&entropies, 0);
        pass
    }

    /// The second pass: call it after `backward` of an objective of [`Self::logps`] and [`Self::kl`].
    pub fn backward(self) {
        let mut gradients = Vec::new();
        for part in self.parts() {
            let states = part_of(&self.states, &part).detach();
            let states = states.set_requires_grad(true);
            let logits = (self.head)(&states);
            let logps = selected(&logits, &part_of(&self.targets, &part));
            let mut total = Self::upstream(&logps, &self.logps, &part);
            if let (Some(leaf), Some(kl)) = (&self.kl, self.divergence(&logits, &part)) {
                total += Self::upstream(&kl, leaf, &part);
            }
            total.backward();
            gradients.push(states.grad());
        }
        if self.states.requires_grad() {
            (&self.states * Tensor::cat(&gradients, 0))
                .sum(None)
                .backward();
        }
    }

    /// The gradient that arrived at `leaf`, times what it was computed from: the gradient of this sum is that of the
    /// objective.
    fn upstream(values: &Tensor, leaf: &Tensor, part: &Range<i64>) -> Tensor {
        let gradient = leaf.grad();
        if gradient.defined() {
            (values * part_of(&gradient, part)).sum(None)
        } else {
            values.sum(None) * 0.0
        }
    }

    fn divergence(&self, logits: &Tensor, part: &Range<i64>) -> Option<Tensor> {
        let reference = self.reference.as_ref()?;
        let frozen = no_grad(|| (reference.head)(&part_of(&reference.states, part)));
        Some(token_kl(logits, &frozen))
    }

    /// Ranges of at most `rows` positions, one at least: an empty batch has an empty part.
    fn parts(&self) -> Vec<Range<i64>> {
        let count = self.states.size()[0];
        let starts = (0..count.max(1)).step_by(self.rows as usize);
        starts
            .map(|start| start..(start + self.rows).min(count))
            .collect()
    }
}

fn part_of(tensor: &Tensor, part: &Range<i64>) -> Tensor {
    tensor.narrow(0, part.start, part.end - part.start)
}
