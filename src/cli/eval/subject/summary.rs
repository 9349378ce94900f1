//! Means with intervals: of one run over its prompts, of like runs over their subjects.

use super::estimates::{Estimates, Rows};
use super::judged::JudgedModel;
use crate::cli::eval::plan::Plan;
use crate::config::{ObjectiveKind, RunSection, SubjectConfig, SubjectSection};
use crate::eval::bootstrap::Bootstrap;

/// Models that differ in nothing but subject and seed.
pub(super) struct Group<'a> {
    pub(super) members: Vec<&'a (Plan, JudgedModel)>,
    pub(super) subjects: usize,
    pub(super) estimates: Estimates,
}

impl<'a> Group<'a> {
    /// The groups of more than one model, in the order of their first ones.
    pub(super) fn gather(all: &'a [(Plan, JudgedModel)], bootstrap: &Bootstrap) -> Vec<Self> {
        let mut keys: Vec<(SubjectConfig, Option<u64>)> = Vec::new();
        let mut groups: Vec<Vec<&(Plan, JudgedModel)>> = Vec::new();
        for member in all {
            let key = (recipe(&member.0.config), member.0.step);
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
            .map(|members| Self::new(members, bootstrap))
            .collect()
    }

    fn new(members: Vec<&'a (Plan, JudgedModel)>, bootstrap: &Bootstrap) -> Self {
        let mut names = Vec::new();
        let mut subjects: Vec<Vec<Rows>> = Vec::new();
        for (plan, judged) in members.iter().copied() {
            let rows = (judged.tuned.as_slice(), judged.base.as_deref());
            if let Some(known) = names.iter().position(|name| *name == plan.subject()) {
                subjects[known].push(rows);
            } else {
                names.push(plan.subject());
                subjects.push(vec![rows]);
            }
        }
        Self {
            subjects: subjects.len(),
            estimates: match subjects.as_slice() {
                [runs] => Estimates::of_prompts(runs, bootstrap),
                subjects => Estimates::of_subjects(subjects, bootstrap),
            },
            members,
        }
    }

    pub(super) fn title(&self) -> String {
        let (plan, _) = self.members[0];
        let step = plan
            .step
            .map_or_else(String::new, |step| format!(", step {step}"));
        let subjects = match self.subjects {
            1 => "one subject".to_owned(),
            count => format!("{count} subjects"),
        };
        format!(
            "{}{step}: {} runs of {subjects}",
            method(&plan.config),
            self.members.len()
        )
    }
}

/// The configuration without what makes runs of one recipe differ.
fn recipe(config: &SubjectConfig) -> SubjectConfig {
    SubjectConfig {
        run: RunSection::default(),
        subject: SubjectSection {
            token: config.subject.token.clone(),
            prompt: config.subject.prompt.clone(),
            ..SubjectSection::default()
        },
        ..config.clone()
    }
}

/// The objective in words.
fn method(config: &SubjectConfig) -> String {
    let objective = &config.objective;
    match objective.kind {
        ObjectiveKind::Rpo => "rpo".to_owned(),
        ObjectiveKind::Dreambooth if objective.prior_weight > 0.0 => {
            format!("dreambooth with prior {}", objective.prior_weight)
        }
        ObjectiveKind::Dreambooth => "dreambooth".to_owned(),
    }
}

/// A model in a line.
pub(super) fn title(plan: &Plan) -> String {
    let best = plan.step.is_none() && plan.manifest.record.best.is_some();
    let kept = if best { ", the best" } else { "" };
    let (label, method) = (&plan.label, method(&plan.config));
    format!("{label}: {method}, step {}{kept}", plan.weights_step())
}
