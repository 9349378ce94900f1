//! From a configuration's objective to a loss of log-probs: which columns it reads, and what is worth watching.

use tch::{Device, Kind, Tensor};

use super::examples::Example;
use crate::config::TextObjectiveSection;
use crate::data::text::Shape;
use crate::losses::objectives::{self, Flag};

/// What is minimised.
pub struct Objective {
    table: &'static objectives::Objective,
    numbers: Vec<f64>,
    nll_weight: f64,
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

impl Objective {
    /// The objective of a configuration.
    ///
    /// # Errors
    /// One sentence for every violation: an unknown name, numbers that it has not or that are out of range.
    pub fn new(section: &TextObjectiveSection) -> Result<Self, Vec<String>> {
        let table = objectives::Objective::find(&section.kind).map_err(|nearest| {
            let kind = &section.kind;
            vec![format!(
                "`objective.kind`: there is no objective `{kind}`; did you mean `{nearest}`?"
            )]
        })?;
        if table.reads("proposal") {
            return Err(vec![format!(
                "`objective.kind`: `{}` learns from samples with the log-probs that they were drawn with, which no data \
                 format has; `preftune loss` computes it",
                table.name
            )]);
        }
        let key = |flag: Flag| format!("objective.{}", flag.name().replace('-', "_"));
        let numbers = table.numbers(|flag| given(section, flag), key);
        let mut problems = numbers.as_ref().err().cloned().unwrap_or_default();
        let objective = Self {
            table,
            numbers: numbers.unwrap_or_default(),
            nll_weight: section.nll_weight,
        };
        if section.nll_weight > 0.0 && objective.shape() != Shape::Pairs {
            problems.push(format!(
                "`objective.nll_weight` belongs to objectives of pairs, not to `{}`",
                table.name
            ));
        }
        if problems.is_empty() {
            Ok(objective)
        } else {
            Err(problems)
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.table.name
    }

    /// Its numbers by name.
    pub fn numbers(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let scalars = self.table.scalars.iter().zip(&self.numbers);
        scalars.map(|(scalar, value)| (scalar.flag.name(), *value))
    }

    /// What it learns from.
    pub fn shape(&self) -> Shape {
        let reads = |column| self.table.reads(column);
        if self.table.lists {
            Shape::Ranked
        } else if reads("desirable") {
            Shape::Marked
        } else if reads("policy_chosen") {
            Shape::Pairs
        } else {
            Shape::Answers
        }
    }

    /// Whether it compares with a reference.
    pub fn needs_reference(&self) -> bool {
        self.table.reads("reference_chosen") || self.table.reads("reference")
    }

    /// Whether it compares with a previous iterate too.
    pub fn needs_previous(&self) -> bool {
        self.table.reads("previous_chosen")
    }

    /// Whether it reads divergences of all tokens.
    pub fn needs_token_kl(&self) -> bool {
        self.table.reads("token_kl_chosen")
    }

    /// Whether the reference must be at hand at every step: its log-probs alone do not do.
    pub fn needs_live_reference(&self) -> bool {
        self.needs_token_kl() || self.shape() == Shape::Marked
    }

    /// The column that an example lacks, by the name that data have for it.
    pub fn lacks(&self, example: &Example) -> Option<&'static str> {
        if self.table.reads("win_chosen") && example.wins.is_none() {
            Some("chosen_prob")
        } else if self.table.reads("score_chosen") && example.scores.is_none() {
            Some("chosen_score` and `rejected_score")
        } else {
            None
        }
    }

    /// Mean weighted loss of a batch (a scalar with a graph), and metrics under TRL's names.
    pub(super) fn evaluate(
        &self,
        batch: &[&Example],
        scores: &Scores,
    ) -> (Tensor, Vec<(&'static str, Tensor)>) {
        let weights: Vec<f32> = batch.iter().map(|example| example.weight as f32).collect();
        let weights = Tensor::from_slice(&weights).to_device(scores.device());
        let (losses, metrics) = match self.shape() {
            Shape::Pairs => self.pairs(batch, scores),
            Shape::Ranked => self.lists(batch, scores),
            Shape::Marked => self.marked(batch, scores),
            Shape::Answers => self.answers(scores),
        };
        let loss = (losses * weights).mean(Kind::Float);
        let mut all = vec![("loss", loss.detach())];
        all.extend(metrics);
        (loss, all)
    }

    fn loss(&self, column: impl Fn(&str) -> Tensor) -> Tensor {
        let columns = self.table.columns.iter().map(|known| column(known.name));
        (self.table.loss)(&columns.collect::<Vec<_>>(), &self.numbers)
    }

    fn pairs(&self, batch: &[&Example], scores: &Scores) -> (Tensor, Vec<(&'static str, Tensor)>) {
        let half = |values: &Tensor, side: i64| values.chunk(2, 0)[side as usize].shallow_clone(); // [b]
        let given = |number: &dyn Fn(&Example) -> Option<f64>| {
            let values = batch
                .iter()
                .map(|example| number(example).unwrap_or_default() as f32);
            Tensor::from_slice(&values.collect::<Vec<_>>()).to_device(scores.device())
        };
        let side = |name: &str| i64::from(name.ends_with("rejected"));
        let losses = self.loss(|name| {
            let at = side(name);
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
        });
        let rewards = self.rewards(scores);
        let (chosen, rejected) = (half(&rewards, 0), half(&rewards, 1));
        let mean = |values: &Tensor| values.detach().to_kind(Kind::Float).mean(Kind::Float);
        let nll = -half(&scores.policy, 0) / half(&scores.lengths, 0).clamp_min(1.0);
        let mut metrics = vec![
            ("rewards/chosen", mean(&chosen)),
            ("rewards/rejected", mean(&rejected)),
            ("rewards/margins", mean(&(&chosen - &rejected))),
            ("rewards/accuracies", mean(&chosen.gt_tensor(&rejected))),
            ("logps/chosen", mean(&half(&scores.policy, 0))),
            ("logps/rejected", mean(&half(&scores.policy, 1))),
            ("nll_loss", mean(&nll)),
        ];
        metrics.extend(scores.kl.as_ref().map(|kl| ("kl", mean(kl))));
        (losses + nll * self.nll_weight, metrics)
    }

    fn lists(&self, batch: &[&Example], scores: &Scores) -> (Tensor, Vec<(&'static str, Tensor)>) {
        let mean = |values: &Tensor| values.detach().to_kind(Kind::Float).mean(Kind::Float);
        let means = &scores.policy / scores.lengths.clamp_min(1.0);
        let (mut losses, mut right, mut begin) = (Vec::new(), Vec::new(), 0);
        for example in batch {
            let count = example.sequences.len() as i64;
            let part = |values: &Tensor| values.narrow(0, begin, count).unsqueeze(0); // [1, n]
            let rewards: Vec<f32> = example
                .rewards
                .iter()
                .map(|reward| *reward as f32)
                .collect();
            let rewards = Tensor::from_slice(&rewards)
                .to_device(scores.device())
                .unsqueeze(0);
            losses.push(self.loss(|name| match name {
                "length" => part(&scores.lengths),
                "reward" => rewards.shallow_clone(),
                _ => part(&scores.policy),
            }));
            right.push(
                part(&means)
                    .argmax(1, false)
                    .eq_tensor(&rewards.argmax(1, false)),
            );
            begin += count;
        }
        let metrics = vec![
            ("rewards/accuracies", mean(&Tensor::cat(&right, 0))),
            ("logps/mean", mean(&means)),
        ];
        (Tensor::cat(&losses, 0), metrics)
    }

    fn marked(&self, batch: &[&Example], scores: &Scores) -> (Tensor, Vec<(&'static str, Tensor)>) {
        let marks: Vec<f32> = batch
            .iter()
            .map(|example| example.rewards[0] as f32)
            .collect();
        let marks = Tensor::from_slice(&marks).to_device(scores.device());
        let other =
            |values: &Option<Tensor>| values.as_ref().unwrap_or(&scores.policy).shallow_clone();
        let losses = self.loss(|name| match name {
            "desirable" => marks.shallow_clone(),
            "reference" => other(&scores.reference),
            "mismatched" => other(&scores.mismatched),
            _ => scores.policy.shallow_clone(),
        });
        let rewards = self.rewards(scores);
        // Over those of a kind in the batch; 0 where there are none.
        let of = |values: &Tensor, marks: &Tensor| {
            (values.detach() * marks).sum(Kind::Float) / marks.sum(Kind::Float).clamp_min(1.0)
        };
        let unmarked: Tensor = marks.rsub_scalar(1.0);
        let metrics = vec![
            ("rewards/chosen", of(&rewards, &marks)),
            ("rewards/rejected", of(&rewards, &unmarked)),
            ("logps/chosen", of(&scores.policy, &marks)),
            ("logps/rejected", of(&scores.policy, &unmarked)),
            (
                "kl",
                other(&scores.mismatched)
                    .detach()
                    .mean(Kind::Float)
                    .clamp_min(0.0),
            ),
        ];
        (losses, metrics)
    }

    fn answers(&self, scores: &Scores) -> (Tensor, Vec<(&'static str, Tensor)>) {
        let losses = self.loss(|name| match name {
            "length" => scores.lengths.shallow_clone(),
            _ => scores.policy.shallow_clone(),
        });
        let logps = scores.policy.detach().mean(Kind::Float);
        (losses, vec![("logps/chosen", logps)])
    }

    /// What TRL calls rewards: the objective's first number times the log-ratio, or times the mean log-prob where there is
    /// no reference.
    fn rewards(&self, scores: &Scores) -> Tensor {
        let scale = self.numbers.first().copied().unwrap_or(1.0);
        match &scores.reference {
            Some(reference) => (&scores.policy - reference) * scale,
            None => &scores.policy / scores.lengths.clamp_min(1.0) * scale,
        }
    }
}

impl Scores {
    fn device(&self) -> Device {
        self.policy.device()
    }
}

/// What the configuration says about a number.
fn given(section: &TextObjectiveSection, flag: Flag) -> Option<f64> {
    match flag {
        Flag::Beta => section.beta,
        Flag::Tau => section.tau,
        Flag::Eta => section.eta,
        Flag::Alpha => section.alpha,
        Flag::LabelSmoothing => section.label_smoothing,
        Flag::GammaBetaRatio => section.gamma_beta_ratio,
        Flag::Lambda => section.lambda,
        Flag::SftWeight => section.sft_weight,
        Flag::ExponentCap => section.exponent_cap,
        Flag::TargetClamp => section.target_clamp,
        Flag::LengthExponent => section.length_exponent,
        Flag::DesirableWeight => section.desirable_weight,
        Flag::UndesirableWeight => section.undesirable_weight,
        // BRAIn's alone.
        Flag::Gamma => None,
    }
}
