//! From a configuration's objective to a loss of log-probs: which columns it reads, and what is worth watching. The same
//! for answers of language models and for images, whose denoising errors stand for log-probs.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::event::Metrics;
use crate::config::PreferenceSection;
use crate::data::text::Shape;
use crate::losses::numbers::FLAGS;
use crate::losses::objectives::{self, Flag};

/// What is minimised: a weighted sum of objectives of the table, mostly of one.
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

/// What the data say of an example's answers (or images).
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
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

impl Default for Judged {
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

/// What the models say about a batch of sequences, `[s]` each.
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

/// A mean over a batch under its name, and over how many examples.
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) value: Tensor,
    pub(super) count: f64,
}

/// Means of metrics over batches of different sizes.
#[derive(Default)]
pub(super) struct Means(Vec<(&'static str, f64, f64)>);

impl Means {
    /// Adds a batch, which waits for the device.
    pub(super) fn add(&mut self, metrics: &[Metric]) -> crate::error::Result<()> {
        let values: Vec<Tensor> = metrics
            .iter()
            .map(|metric| metric.value.to_kind(Kind::Double))
            .collect();
        let values = Vec::<f64>::try_from(Tensor::stack(&values, 0))?;
        for (metric, value) in metrics.iter().zip(values) {
            let (sum, count) = (value * metric.count, metric.count);
            match self.0.iter_mut().find(|(name, ..)| *name == metric.name) {
                Some((_, sums, counts)) => (*sums, *counts) = (*sums + sum, *counts + count),
                None => self.0.push((metric.name, sum, count)),
            }
        }
        Ok(())
    }

    /// The means, in the order in which names first came.
    pub(super) fn finish(self) -> Metrics {
        let mean = |(name, sum, count): (&str, f64, f64)| (name.to_owned(), sum / count);
        self.0.into_iter().map(mean).collect()
    }
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
            objectives::Objective::find(name).map_err(|nearest| {
                vec![format!(
                    "`objective.kind`: there is no objective `{name}`; did you mean `{nearest}`?"
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

    /// What it learns from.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    fn reads(&self, column: &str) -> bool {
        self.terms.iter().any(|term| term.table.reads(column))
    }

    /// Whether it compares with a reference.
    pub fn needs_reference(&self) -> bool {
        self.reads("reference_chosen") || self.reads("reference") || self.reads("prior")
    }

    /// Whether it compares with a previous iterate too, on these examples: samples may say by themselves how likely they
    /// were.
    pub fn needs_previous<'a>(&self, examples: impl IntoIterator<Item = &'a Judged>) -> bool {
        let unsaid = || {
            examples
                .into_iter()
                .any(|example| example.proposal.is_empty())
        };
        self.reads("previous_chosen") || self.reads("proposal") && unsaid()
    }

    /// Whether it tells the reference, which stays, from the policy that samples came from, which may not.
    pub fn has_two_references(&self) -> bool {
        self.reads("previous_chosen") || self.reads("proposal")
    }

    /// Whether it reads divergences of all tokens.
    pub fn needs_token_kl(&self) -> bool {
        self.reads("token_kl_chosen")
    }

    /// Whether the reference must be at hand at every step: its log-probs alone do not do.
    pub fn needs_live_reference(&self) -> bool {
        self.needs_token_kl() || self.shape() == Shape::Marked
    }

    /// Whether one of its terms takes margins of pairs.
    pub fn takes_margins(&self) -> bool {
        self.terms.iter().any(|term| term.table.margin)
    }

    /// The column that an example lacks, by the name that data have for it.
    pub fn lacks(&self, example: &Judged) -> Option<&'static str> {
        if self.reads("win_chosen") && example.wins.is_none() {
            Some("chosen_prob")
        } else if self.reads("score_chosen") && example.scores.is_none() {
            Some("chosen_score` and `rejected_score")
        } else {
            None
        }
    }

    /// Mean weighted loss of a batch (a scalar with a graph), and metrics under TRL's names.
    pub(super) fn evaluate(&self, batch: &[&Judged], scores: &Scores) -> (Tensor, Vec<Metric>) {
        let weights: Vec<f32> = batch.iter().map(|example| example.weight as f32).collect();
        let weights = Tensor::from_slice(&weights).to_device(scores.device());
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

    fn pairs(&self, batch: &[&Judged], scores: &Scores, values: &mut Vec<Tensor>) -> Vec<Metric> {
        let half = |values: &Tensor, side: i64| values.chunk(2, 0)[side as usize].shallow_clone(); // [b]
        let given = |number: &dyn Fn(&Judged) -> Option<f64>| {
            let values = batch
                .iter()
                .map(|example| number(example).unwrap_or_default() as f32);
            Tensor::from_slice(&values.collect::<Vec<_>>()).to_device(scores.device())
        };
        let margins = batch.iter().any(|example| example.margin != 0.0);
        let margins = margins.then(|| given(&|example| Some(example.margin)));
        for term in &self.terms {
            values.push(term.loss_beyond(margins.as_ref(), |name| {
                let at = i64::from(name.ends_with("rejected"));
                let pair =
                    |values: &Option<Tensor>| half(values.as_ref().unwrap_or(&scores.policy), at);
                match name.rsplit_once('_').map_or(name, |(what, _)| what) {
                    "length" => half(&scores.lengths, at),
                    "reference" => pair(&scores.reference),
                    "previous" => pair(&scores.previous),
                    "token_kl" => pair(&scores.kl),
                    "win" => given(&|example| example.wins.map(|wins| wins[at as usize])),
                    "score" => given(&|example| example.scores.map(|scores| scores[at as usize])),
                    _ => half(&scores.policy, at),
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

    fn lists(&self, batch: &[&Judged], scores: &Scores, values: &mut Vec<Tensor>) -> Vec<Metric> {
        let means = &scores.policy / scores.lengths.clamp_min(1.0);
        let mut losses: Vec<Vec<Tensor>> = self.terms.iter().map(|_| Vec::new()).collect();
        let (mut right, mut reached, mut begin) = (Vec::new(), Vec::new(), 0);
        for example in batch {
            let count = example.rewards.len() as i64;
            let part = |values: &Tensor| values.narrow(0, begin, count).unsqueeze(0); // [1, n]
            let other = |values: &Option<Tensor>| part(values.as_ref().unwrap_or(&scores.policy));
            let listed = |values: &[f64]| {
                let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
                Tensor::from_slice(&values)
                    .to_device(scores.device())
                    .unsqueeze(0)
            };
            let rewards = listed(&example.rewards);
            let proposal = if example.proposal.is_empty() {
                other(&scores.previous)
            } else {
                listed(&example.proposal)
            };
            for (term, losses) in self.terms.iter().zip(&mut losses) {
                losses.push(term.loss(|name| match name {
                    "length" => part(&scores.lengths),
                    "reward" => rewards.shallow_clone(),
                    "prior" => other(&scores.reference),
                    "proposal" => proposal.shallow_clone(),
                    _ => part(&scores.policy),
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

    fn marked(&self, batch: &[&Judged], scores: &Scores, values: &mut Vec<Tensor>) -> Vec<Metric> {
        let marks: Vec<f32> = batch
            .iter()
            .map(|example| example.rewards[0] as f32)
            .collect();
        let desirable = f64::from(marks.iter().sum::<f32>());
        let marks = Tensor::from_slice(&marks).to_device(scores.device());
        let other =
            |values: &Option<Tensor>| values.as_ref().unwrap_or(&scores.policy).shallow_clone();
        values.extend(self.terms.iter().map(|term| {
            term.loss(|name| match name {
                "desirable" => marks.shallow_clone(),
                "reference" => other(&scores.reference),
                "mismatched" => other(&scores.mismatched),
                _ => scores.policy.shallow_clone(),
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
            term.loss(|name| match name {
                "length" => scores.lengths.shallow_clone(),
                _ => scores.policy.shallow_clone(),
            })
        }));
        let count = scores.policy.size()[0] as f64;
        vec![Metric::mean("logps/chosen", &scores.policy, count)]
    }

    /// What TRL calls rewards: the first objective's first number times the log-ratio, or times the mean log-prob where
    /// there is no reference.
    pub(super) fn rewards(&self, scores: &Scores) -> Tensor {
        let scale = self.terms.first().map_or(1.0, Term::scale);
        match &scores.reference {
            Some(reference) => (&scores.policy - reference) * scale,
            None => &scores.policy / scores.lengths.clamp_min(1.0) * scale,
        }
    }
}

impl Term {
    fn loss(&self, column: impl Fn(&str) -> Tensor) -> Tensor {
        self.loss_beyond(None, column)
    }

    /// As [`Self::loss`], of pairs that ask for margins, where it takes them.
    fn loss_beyond(&self, margins: Option<&Tensor>, column: impl Fn(&str) -> Tensor) -> Tensor {
        let columns = self.table.columns.iter().map(|known| column(known.name));
        let columns: Vec<Tensor> = columns.collect();
        match margins.filter(|_| self.table.margin) {
            Some(margins) => self.table.loss_beyond(margins, &columns, &self.numbers),
            None => (self.table.loss)(&columns, &self.numbers),
        }
    }

    /// What log-ratios are multiplied by.
    fn scale(&self) -> f64 {
        self.numbers.first().copied().unwrap_or(1.0)
    }
}

impl Metric {
    pub(super) fn new(name: &'static str, value: Tensor, count: f64) -> Self {
        Self { name, value, count }
    }

    pub(super) fn mean(name: &'static str, values: &Tensor, count: f64) -> Self {
        let value = values.detach().to_kind(Kind::Float).mean(Kind::Float);
        Self::new(name, value, count)
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

/// What all of them learn from; `sft` learns from the chosen answers of pairs too.
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
    if table.reads("proposal") {
        Shape::Sampled
    } else if table.lists {
        Shape::Ranked
    } else if table.reads("desirable") {
        Shape::Marked
    } else if table.reads("policy_chosen") {
        Shape::Pairs
    } else {
        Shape::Answers
    }
}

/// What the configuration says about a number.
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
    }
}
