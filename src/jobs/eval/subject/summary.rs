//! Means with intervals: of one run over its prompts, of like runs over their subjects.

use std::path::PathBuf;

use super::estimates::{Estimates, Rows};
use super::judged::JudgedModel;
use crate::config::{
    ImageRoundsConfig, ObjectiveKind, RunSection, SubjectConfig, SubjectSection, TokenUse,
};
use crate::eval::bootstrap::Bootstrap;
use crate::jobs::eval::plan::EvalPlan;

/// Models that differ in nothing but subject and seed.
#[derive(Clone, Debug)]
pub struct Group {
    /// The group in words.
    pub title: String,
    /// Run folders of the models.
    pub runs: Vec<PathBuf>,
    /// The step whose weights are judged; `None` for the best ones.
    pub step: Option<u64>,
    /// How many subjects the models are of.
    pub subjects: usize,
    /// Means over subjects, or over prompts where there is one subject.
    pub estimates: Estimates,
}

impl Group {
    /// The groups of more than one model, in the order of their first ones.
    pub(super) fn gather(all: &[JudgedModel], bootstrap: &Bootstrap) -> Vec<Self> {
        let mut keys = Vec::new();
        let mut groups: Vec<Vec<&JudgedModel>> = Vec::new();
        for member in all {
            let key = (recipe(&member.plan), member.plan.step);
            if let Some(known) = keys.iter().position(|other| *other == key) {
                groups[known].push(member);
            } else {
                keys.push(key);
                groups.push(vec![member]);
            }
        }
        groups
            .into_iter()
            .filter(|members| members.len() > 1)
            .map(|members| Self::new(&members, bootstrap))
            .collect()
    }

    fn new(members: &[&JudgedModel], bootstrap: &Bootstrap) -> Self {
        let mut names = Vec::new();
        let mut subjects: Vec<Vec<Rows>> = Vec::new();
        for judged in members {
            let plan = &judged.plan;
            let rows = (judged.tuned.as_slice(), judged.base.as_deref());
            if let Some(known) = names.iter().position(|name| *name == plan.subject()) {
                subjects[known].push(rows);
            } else {
                names.push(plan.subject());
                subjects.push(vec![rows]);
            }
        }
        let plan = &members[0].plan;
        Self {
            title: group_title(plan, members.len(), subjects.len()),
            runs: members
                .iter()
                .map(|member| member.plan.run.clone())
                .collect(),
            step: plan.step,
            subjects: subjects.len(),
            estimates: match subjects.as_slice() {
                [runs] => Estimates::of_prompts(runs, bootstrap),
                subjects => Estimates::of_subjects(subjects, bootstrap),
            },
        }
    }
}

/// A group in a line, by the plan of one of its models.
fn group_title(plan: &EvalPlan, models: usize, subjects: usize) -> String {
    let step = plan
        .step
        .map_or_else(String::new, |step| format!(", step {step}"));
    let subjects = match subjects {
        1 => "one subject".to_owned(),
        count => format!("{count} subjects"),
    };
    let method = method(plan);
    format!("{method}{step}: {models} runs of {subjects}")
}

/// The configuration without what makes runs of one recipe differ. Rounds that go on from different runs are of different ones.
fn recipe(plan: &EvalPlan) -> (SubjectConfig, Option<ImageRoundsConfig>) {
    let subject = |own: &SubjectSection| SubjectSection {
        token: own.token.clone(),
        prompt: own.prompt.clone(),
        ..SubjectSection::default()
    };
    let rounds = plan.rounds.as_ref().map(|rounds| ImageRoundsConfig {
        run: RunSection::default(),
        subject: subject(&rounds.subject),
        ..rounds.clone()
    });
    let config = SubjectConfig {
        run: RunSection::default(),
        subject: subject(&plan.config.subject),
        ..plan.config.clone()
    };
    (config, rounds)
}

/// The objective in words.
fn method(plan: &EvalPlan) -> String {
    if let Some(rounds) = &plan.rounds {
        return format!("rounds of {}", rounds.objective.kind.all().join(" and "));
    }
    let config = &plan.config;
    let objective = &config.objective;
    let name = match (objective.kind, config.negatives.token) {
        (ObjectiveKind::Dreambooth, _) => "dreambooth",
        (ObjectiveKind::Rpo, TokenUse::Token) => "rpo",
        (ObjectiveKind::Rpo, TokenUse::Class) => "rpo, negatives of the class word",
        (ObjectiveKind::Rpo, TokenUse::Both) => "rpo, negatives of token and class word",
    };
    let terms = [
        ("prior", objective.prior_weight),
        ("DOP", objective.dop_weight),
    ];
    let terms = terms.iter().filter(|(_, weight)| *weight > 0.0);
    let terms: Vec<String> = terms
        .map(|(term, weight)| format!("{term} {weight}"))
        .collect();
    match terms.as_slice() {
        [] => name.to_owned(),
        terms => format!("{name} with {}", terms.join(" and ")),
    }
}

/// A model in a line.
pub(super) fn title(plan: &EvalPlan) -> String {
    let best = plan.step.is_none() && plan.manifest.record.best.is_some();
    let kept = if best { ", the best" } else { "" };
    let (label, method) = (&plan.label, method(plan));
    format!("{label}: {method}, step {}{kept}", plan.weights_step())
}
