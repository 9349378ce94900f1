//! From a configuration's objective to a loss of log-probs: which columns it reads, and what is worth watching. The same
//! for answers of language models and for images, whose denoising errors stand for log-probs.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::means::Metric;
use crate::config::PreferenceSection;
use crate::data::text::Shape;
use crate::losses::numbers::FLAGS;
use crate::losses::objectives::{self, Flag, PairQuantity, Quantity, Side};
use crate::ops::transfer::upload_slice;

/// The minimised loss: a weighted sum of objectives of the table, mostly of one.
pub struct Objective {
    terms: Vec<Term>,
    shape: Shape,
    nll_weight: f64,
}

/// One objective of the sum.
struct Term {
    table: &'static objectives::Objective,
    numbers: Vec<f64>,
    weight: f64,
    /// Name of its value among the metrics.
    metric: &'static str,
}

/// The labels that the data have for an example's answers (or images).
#[derive(Clone, Debug, PartialEq)]
pub struct ExampleLabels {
    /// A reward for each answer.
    pub rewards: Vec<f64>,
    /// How much the example counts.
    pub weight: f64,
    /// Probabilities that the preferred and the rejected answer win.
    pub wins: Option<[f64; 2]>,
    /// Scores of the preferred and the rejected answer.
    pub scores: Option<[f64; 2]>,
    /// The margin that a pair asks for.
    pub margin: f64,
    /// Log-probs of samples under the policy that wrote them; empty where it did not say.
    pub proposal: Vec<f64>,
}

impl Default for ExampleLabels {
    /// One of two that is preferred.
    fn default() -> Self {
        Self {
            rewards: vec![1.0, 0.0],
            weight: 1.0,
            wins: None,
            scores: None,
            margin: 0.0,
            proposal: Vec::new(),
        }
    }
}

/// The models' scores of a batch of sequences, `[s]` each.
///
/// Pairs lie as all chosen, then all rejected answers; lists one after the other.
pub(super) struct Scores {
    /// Summed log-probs of the policy.
    pub(super) policy: Tensor,
    /// Numbers of tokens.
    pub(super) lengths: Tensor,
    /// Summed log-probs of the reference.
    pub(super) reference: Option<Tensor>,
    /// Summed log-probs of the previous iterate.
    pub(super) previous: Option<Tensor>,
    /// Summed token divergences from the reference.
    pub(super) kl: Option<Tensor>,
    /// KTO: log-ratios of prompts with other prompts' answers.
    pub(super) mismatched: Option<Tensor>,
}

impl Objective {
    /// The objective of a configuration.
    ///
    /// # Errors
    /// One sentence for every violation: an unknown name, numbers that it has not or that are out of range, objectives
    /// that do not learn from the same data, weights of another number than names.
    pub fn new(section: &PreferenceSection) -> Result<Self, Vec<String>> {
        let names = section.kind.all();
        let tables = names.iter().map(|name| {
            objectives::Objective::find(name).map_err(|instead| {
                vec![format!(
                    "`objective.kind`: there is no objective `{name}`{instead}"
                )]
            })
        });
        let tables: Vec<_> = tables.collect::<Result<_, _>>()?;
        let mut problems = Vec::new();
        let weights = weights(section, &mut problems);
        let shape = common_shape(&tables, &mut problems);
        let key = |flag: Flag| format!("objective.{}", flag.name().replace('-', "_"));
        let several = tables.len() > 1;
        for flag in FLAGS.iter().filter(|_| several) {
            if given(section, *flag).is_some() && !tables.iter().any(|table| table.takes(*flag)) {
                let names = names.join("` and `");
                problems.push(format!("`{names}` have no `{}`", key(*flag)));
            }
        }
        let terms = tables.iter().zip(weights).map(|(table, weight)| {
            // Of a sum, each takes what it has.
            let own = |flag| given(section, flag).filter(|_| !several || table.takes(flag));
            let numbers = table.numbers(own, key);
            problems.extend(numbers.as_ref().err().cloned().unwrap_or_default());
            Term {
                table,
                numbers: numbers.unwrap_or_default(),
                weight,
                // A configuration has a handful of them, once in the life of the process.
                metric: Box::leak(format!("objective/{}", table.name).into_boxed_str()),
            }
        });
        let objective = Self {
            terms: terms.collect(),
            shape,
            nll_weight: section.nll_weight,
        };
        if section.nll_weight > 0.0 && shape != Shape::Pairs {
            problems.push(format!(
                "`objective.nll_weight` belongs to objectives of pairs, not to `{}`",
                objective.name()
            ));
        }
        if problems.is_empty() {
            Ok(objective)
        } else {
            Err(problems)
        }
    }

    /// Its name, of a sum as `dpo + 0.2 sft`.
    pub fn name(&self) -> String {
        let name = |term: &Term| {
            if (term.weight - 1.0).abs() < f64::EPSILON {
                term.table.name.to_owned()
            } else {
                format!("{} {}", term.weight, term.table.name)
            }
        };
        self.terms.iter().map(name).collect::<Vec<_>>().join(" + ")
    }

    /// Its numbers by name.
    pub fn numbers(&self) -> BTreeMap<String, f64> {
        let mut numbers = BTreeMap::new();
        for term in &self.terms {
            let scalars = term.table.scalars.iter().zip(&term.numbers);
            numbers.extend(scalars.map(|(scalar, value)| (scalar.flag.name().to_owned(), *value)));
        }
        numbers
    }

    /// The shape of the examples that it learns from.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    fn reads(&self, quantity: Quantity) -> bool {
        self.terms.iter().any(|term| term.table.reads(quantity))
    }

    /// `true` if it compares with a reference.
    pub fn needs_reference(&self) -> bool {
        self.reads(Quantity::Pair(PairQuantity::Reference, Side::Chosen))
            || self.reads(Quantity::Reference)
            || self.reads(Quantity::Prior)
    }

    /// `true` if it compares with a previous iterate too, on these examples: samples may say by themselves how likely
    /// they were.
    pub fn needs_previous<'a>(
        &self,
        examples: impl IntoIterator<Item = &'a ExampleLabels>,
    ) -> bool {
        let unsaid = || {
            examples
                .into_iter()
                .any(|example| example.proposal.is_empty())
        };
        self.reads(Quantity::Pair(PairQuantity::Previous, Side::Chosen))
            || self.reads(Quantity::Proposal) && unsaid()
    }

    /// `true` if it tells the reference, which stays, from the policy that samples came from, which may not.
    pub fn has_two_references(&self) -> bool {
        self.reads(Quantity::Pair(PairQuantity::Previous, Side::Chosen))
            || self.reads(Quantity::Proposal)
    }

    /// `true` if it reads divergences of all tokens.
    pub fn needs_token_kl(&self) -> bool {
        self.reads(Quantity::Pair(PairQuantity::TokenKl, Side::Chosen))
    }

    /// `true` if the reference must be at hand at every step: its log-probs alone do not do.
    pub fn needs_live_reference(&self) -> bool {
        self.needs_token_kl() || self.shape() == Shape::Marked
    }

    /// `true` if one of its terms takes margins of pairs.
    pub fn takes_margins(&self) -> bool {
        self.terms.iter().any(|term| term.table.margin)
    }

    /// The column that an example lacks, by the name that data have for it.
    pub fn lacks(&self, example: &ExampleLabels) -> Option<&'static str> {
        if self.reads(Quantity::Pair(PairQuantity::Win, Side::Chosen)) && example.wins.is_none() {
            Some("chosen_prob")
        } else if self.reads(Quantity::Pair(PairQuantity::Score, Side::Chosen))
            && example.scores.is_none()
        {
            Some("chosen_score` and `rejected_score")
        } else {
            None
        }
    }

    /// Of how many examples among these a metric of [`Self::evaluate`] is the mean.
    pub(super) fn examples_of<'a>(
        &self,
        metric: &str,
        examples: impl Iterator<Item = &'a ExampleLabels>,
    ) -> f64 {
        let side = (self.shape() == Shape::Marked)
            .then(|| metric.rsplit_once('/'))
            .flatten();
        let counts = examples.map(|example| match side {
            Some((_, "chosen")) => example.rewards[0],
            Some((_, "rejected")) => 1.0 - example.rewards[0],
            _ => 1.0,
        });
        counts.sum()
    }

    /// Mean weighted loss of a batch (a scalar with a graph), and metrics under TRL's names.
    pub(super) fn evaluate(
        &self,
        batch: &[&ExampleLabels],
        scores: &Scores,
    ) -> (Tensor, Vec<Metric>) {
        let weights: Vec<f32> = batch.iter().map(|example| example.weight as f32).collect();
        let weights = upload_slice(&weights, scores.device());
        let mut values: Vec<Tensor> = Vec::new();
        let metrics = match self.shape() {
            Shape::Pairs => self.pairs(batch, scores, &mut values),
            Shape::Ranked | Shape::Sampled => self.lists(batch, scores, &mut values),
            Shape::Marked => self.marked(batch, scores, &mut values),
            Shape::Answers => self.answers(scores, &mut values),
        };
        let count = batch.len() as f64;
        let means: Vec<Tensor> = values
            .iter()
            .map(|losses| (losses * &weights).mean(Kind::Float))
            .collect();
        let scales = self.terms.iter().map(|term| term.weight);
        let scales = scales.chain([self.nll_weight]);
        let loss = means.iter().zip(scales).map(|(mean, scale)| mean * scale);
        let loss: Tensor = loss.sum();
        let mut all = vec![Metric::new("loss", loss.detach(), count)];
        if self.terms.len() > 1 {
            let parts = self.terms.iter().zip(&means);
            all.extend(parts.map(|(term, mean)| Metric::new(term.metric, mean.detach(), count)));
        }
        all.extend(metrics);
        (loss, all)
    }

    fn pairs(
        &self,
        batch: &[&ExampleLabels],
        scores: &Scores,
        values: &mut Vec<Tensor>,
    ) -> Vec<Metric> {
        let half = |values: &Tensor, side: i64| values.chunk(2, 0)[side as usize].shallow_clone(); // [b]
        let given = |number: &dyn Fn(&ExampleLabels) -> Option<f64>| {
            let values = batch
                .iter()
                .map(|example| number(example).unwrap_or_default() as f32);
            upload_slice(&values.collect::<Vec<_>>(), scores.device())
        };
        let margins = batch.iter().any(|example| example.margin != 0.0);
        let margins = margins.then(|| given(&|example| Some(example.margin)));
        for term in &self.terms {
            values.push(term.loss_beyond(margins.as_ref(), |quantity| {
                let (part, side) = match quantity {
                    Quantity::Pair(part, side) => (part, side),
                    // `sft` beside objectives of pairs learns from the chosen answer.
                    Quantity::Policy => (PairQuantity::Policy, Side::Chosen),
                    Quantity::Length => (PairQuantity::Length, Side::Chosen),
                    Quantity::Reference
                    | Quantity::Desirable
                    | Quantity::Mismatched
                    | Quantity::Prior
                    | Quantity::Proposal
                    | Quantity::Reward => refuse_quantity(quantity, "pairs"),
                };
                let at = side as usize;
                let other = |values: &Option<Tensor>| {
                    half(values.as_ref().unwrap_or(&scores.policy), at as i64)
                };
                match part {
                    PairQuantity::Policy => half(&scores.policy, at as i64),
                    PairQuantity::Reference => other(&scores.reference),
                    PairQuantity::Previous => other(&scores.previous),
                    PairQuantity::TokenKl => other(&scores.kl),
                    PairQuantity::Length => half(&scores.lengths, at as i64),
                    PairQuantity::Win => given(&|example| Some(example.wins?[at])),
                    PairQuantity::Score => given(&|example| Some(example.scores?[at])),
                }
            }));
        }
        let rewards = self.rewards(scores);
        let (chosen, rejected) = (half(&rewards, 0), half(&rewards, 1));
        let nll = -half(&scores.policy, 0) / half(&scores.lengths, 0).clamp_min(1.0);
        let mean = |name, values: &Tensor| Metric::mean(name, values, batch.len() as f64);
        let mut metrics = vec![
            mean("rewards/chosen", &chosen),
            mean("rewards/rejected", &rejected),
            mean("rewards/margins", &(&chosen - &rejected)),
            mean("rewards/accuracies", &chosen.gt_tensor(&rejected)),
            mean("logps/chosen", &half(&scores.policy, 0)),
            mean("logps/rejected", &half(&scores.policy, 1)),
            mean("nll_loss", &nll),
        ];
        metrics.extend(scores.kl.as_ref().map(|kl| mean("kl", kl)));
        values.push(nll);
        metrics
    }

    fn lists(
        &self,
        batch: &[&ExampleLabels],
        scores: &Scores,
        values: &mut Vec<Tensor>,
    ) -> Vec<Metric> {
        let means = &scores.policy / scores.lengths.clamp_min(1.0);
        let mut losses: Vec<Vec<Tensor>> = self.terms.iter().map(|_| Vec::new()).collect();
        let (mut right, mut reached, mut begin) = (Vec::new(), Vec::new(), 0);
        for example in batch {
            let count = example.rewards.len() as i64;
            let part = |values: &Tensor| values.narrow(0, begin, count).unsqueeze(0); // [1, n]
            let other = |values: &Option<Tensor>| part(values.as_ref().unwrap_or(&scores.policy));
            let listed = |values: &[f64]| {
                let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
                upload_slice(&values, scores.device()).unsqueeze(0)
            };
            let rewards = listed(&example.rewards);
            let proposal = if example.proposal.is_empty() {
                other(&scores.previous)
            } else {
                listed(&example.proposal)
            };
            for (term, losses) in self.terms.iter().zip(&mut losses) {
                losses.push(term.loss(|quantity| match quantity {
                    Quantity::Policy => part(&scores.policy),
                    Quantity::Length => part(&scores.lengths),
                    Quantity::Reward => rewards.shallow_clone(),
                    Quantity::Prior => other(&scores.reference),
                    Quantity::Proposal => proposal.shallow_clone(),
                    Quantity::Pair(..)
                    | Quantity::Reference
                    | Quantity::Desirable
                    | Quantity::Mismatched => refuse_quantity(quantity, "lists"),
                }));
            }
            if self.shape() == Shape::Sampled {
                let shares = (part(&scores.policy.detach()) - proposal).softmax(1, Kind::Float);
                reached.push((shares * &rewards).sum(Kind::Float));
            }
            right.push(
                part(&means)
                    .argmax(1, false)
                    .eq_tensor(&rewards.argmax(1, false)),
            );
            begin += count;
        }
        values.extend(losses.iter().map(|losses| Tensor::cat(losses, 0)));
        let mean = |name, values: &Tensor| Metric::mean(name, values, batch.len() as f64);
        let mut metrics = vec![
            mean("rewards/accuracies", &Tensor::cat(&right, 0)),
            mean("logps/mean", &means),
        ];
        // The policy's mean reward, estimated on the samples of another by self-normalised importance weights.
        metrics.extend(
            (!reached.is_empty()).then(|| mean("rewards/policy", &Tensor::stack(&reached, 0))),
        );
        metrics
    }

    fn marked(
        &self,
        batch: &[&ExampleLabels],
        scores: &Scores,
        values: &mut Vec<Tensor>,
    ) -> Vec<Metric> {
        let marks: Vec<f32> = batch
            .iter()
            .map(|example| example.rewards[0] as f32)
            .collect();
        let desirable = f64::from(marks.iter().sum::<f32>());
        let marks = upload_slice(&marks, scores.device());
        let other =
            |values: &Option<Tensor>| values.as_ref().unwrap_or(&scores.policy).shallow_clone();
        values.extend(self.terms.iter().map(|term| {
            term.loss(|quantity| match quantity {
                Quantity::Policy => scores.policy.shallow_clone(),
                Quantity::Desirable => marks.shallow_clone(),
                Quantity::Reference => other(&scores.reference),
                Quantity::Mismatched => other(&scores.mismatched),
                Quantity::Pair(..)
                | Quantity::Length
                | Quantity::Prior
                | Quantity::Proposal
                | Quantity::Reward => refuse_quantity(quantity, "marked answers"),
            })
        }));
        let rewards = self.rewards(scores);
        let count = batch.len() as f64;
        let unmarked: Tensor = marks.rsub_scalar(1.0);
        let mut metrics = Vec::new();
        // Over those of a kind; a batch without any says nothing of it.
        for (names, marks, count) in [
            (["rewards/chosen", "logps/chosen"], &marks, desirable),
            (
                ["rewards/rejected", "logps/rejected"],
                &unmarked,
                count - desirable,
            ),
        ] {
            if count > 0.0 {
                let of = |values: &Tensor| (values.detach() * marks).sum(Kind::Float) / count;
                metrics.push(Metric::new(names[0], of(&rewards), count));
                metrics.push(Metric::new(names[1], of(&scores.policy), count));
            }
        }
        let kl = other(&scores.mismatched).detach().mean(Kind::Float);
        metrics.push(Metric::new("kl", kl.clamp_min(0.0), count));
        metrics
    }

    fn answers(&self, scores: &Scores, values: &mut Vec<Tensor>) -> Vec<Metric> {
        values.extend(self.terms.iter().map(|term| {
            term.loss(|quantity| match quantity {
                Quantity::Policy => scores.policy.shallow_clone(),
                Quantity::Length => scores.lengths.shallow_clone(),
                Quantity::Pair(..)
                | Quantity::Reference
                | Quantity::Desirable
                | Quantity::Mismatched
                | Quantity::Prior
                | Quantity::Proposal
                | Quantity::Reward => refuse_quantity(quantity, "answers"),
            })
        }));
        let count = scores.policy.size()[0] as f64;
        vec![Metric::mean("logps/chosen", &scores.policy, count)]
    }

    /// Rewards as TRL calls them: the first objective's first number times the log-ratio, or times the mean log-prob
    /// where there is no reference.
    pub(super) fn rewards(&self, scores: &Scores) -> Tensor {
        let scale = self.terms.first().map_or(1.0, Term::scale);
        match &scores.reference {
            Some(reference) => (&scores.policy - reference) * scale,
            None => &scores.policy / scores.lengths.clamp_min(1.0) * scale,
        }
    }
}

/// The shape of an objective follows from its columns ([`shape_of`]), so that no other quantity is asked for.
fn refuse_quantity(quantity: Quantity, shape: &str) -> ! {
    panic!("`{}` is not computed for {shape}", quantity.name())
}

impl Term {
    fn loss(&self, column: impl Fn(Quantity) -> Tensor) -> Tensor {
        self.loss_beyond(None, column)
    }

    /// As [`Self::loss`], of pairs that ask for margins, where it takes them.
    fn loss_beyond(&self, margins: Option<&Tensor>, column: impl Fn(Quantity) -> Tensor) -> Tensor {
        let columns = self
            .table
            .columns
            .iter()
            .map(|known| column(known.quantity));
        let columns: Vec<Tensor> = columns.collect();
        match margins.filter(|_| self.table.margin) {
            Some(margins) => self.table.loss_beyond(margins, &columns, &self.numbers),
            None => (self.table.loss)(&columns, &self.numbers),
        }
    }

    /// The factor of log-ratios.
    fn scale(&self) -> f64 {
        self.numbers.first().copied().unwrap_or(1.0)
    }
}

impl Scores {
    fn device(&self) -> Device {
        self.policy.device()
    }
}

/// A weight for each objective.
fn weights(section: &PreferenceSection, problems: &mut Vec<String>) -> Vec<f64> {
    let count = section.kind.all().len();
    if count == 0 {
        problems.push("`objective.kind` names no objective".to_owned());
    }
    let Some(weights) = &section.weights else {
        return vec![1.0; count];
    };
    if weights.len() != count {
        let given = weights.len();
        problems.push(format!(
            "`objective.weights` has {given} numbers, `objective.kind` {count} names"
        ));
    }
    if weights
        .iter()
        .any(|weight| !(*weight > 0.0 && weight.is_finite()))
    {
        problems.push("`objective.weights` must be above 0".to_owned());
    }
    weights.clone()
}

/// The shape of the examples that all of them learn from; `sft` learns from the chosen answers of pairs too.
fn common_shape(tables: &[&objectives::Objective], problems: &mut Vec<String>) -> Shape {
    let mut shapes: Vec<Shape> = tables.iter().map(|table| shape_of(table)).collect();
    if shapes.contains(&Shape::Pairs) {
        shapes.retain(|shape| *shape != Shape::Answers);
    }
    let first = shapes.first().copied().unwrap_or(Shape::Pairs);
    if shapes.iter().any(|shape| *shape != first) {
        let names: Vec<&str> = tables.iter().map(|table| table.name).collect();
        problems.push(format!(
            "`objective.kind`: `{}` do not learn from the same kind of data",
            names.join("` and `")
        ));
    }
    first
}

fn shape_of(table: &objectives::Objective) -> Shape {
    if table.reads(Quantity::Proposal) {
        Shape::Sampled
    } else if table.lists {
        Shape::Ranked
    } else if table.reads(Quantity::Desirable) {
        Shape::Marked
    } else if table.reads(Quantity::Pair(PairQuantity::Policy, Side::Chosen)) {
        Shape::Pairs
    } else {
        Shape::Answers
    }
}

/// The configuration's value of a number.
fn given(section: &PreferenceSection, flag: Flag) -> Option<f64> {
    match flag {
        Flag::Beta => section.beta,
        Flag::Tau => section.tau,
        Flag::Eta => section.eta,
        Flag::Alpha => section.alpha,
        Flag::LabelSmoothing => section.label_smoothing,
        Flag::Gamma => section.gamma,
        Flag::GammaBetaRatio => section.gamma_beta_ratio,
        Flag::Lambda => section.lambda,
        Flag::SftWeight => section.sft_weight,
        Flag::ExponentCap => section.exponent_cap,
        Flag::TargetClamp => section.target_clamp,
        Flag::LengthExponent => section.length_exponent,
        Flag::DesirableWeight => section.desirable_weight,
        Flag::UndesirableWeight => section.undesirable_weight,
        Flag::TargetScale => section.target_scale,
    }
}
