//! Means with intervals: of one run over its prompts, of like runs over their subjects.

use super::super::plan::Plan;
use super::Judged;
use crate::config::{ImageConfig, ObjectiveKind, RunSection, SubjectSection};
use crate::eval::bootstrap::Bootstrap;
use crate::eval::subject::{Estimate, estimate, mean, minus};

/// Rows of a tuned model and of its base, a row for each prompt.
type Rows<'a> = (&'a [Vec<f64>], Option<&'a [Vec<f64>]>);

/// Estimates of all columns.
pub(super) struct Estimates {
    /// What the intervals are over.
    pub(super) over: &'static str,
    pub(super) tuned: Vec<Estimate>,
    pub(super) base: Option<Vec<Estimate>>,
    /// Tuned less base, cluster by cluster.
    pub(super) gain: Option<Vec<Estimate>>,
}

impl Estimates {
    /// Over prompts, each with a row of every run. The runs have the same prompts.
    pub(super) fn of_prompts(runs: &[Rows], bootstrap: &Bootstrap) -> Self {
        let clusters = |rows: &[Vec<Vec<f64>>]| -> Vec<Vec<Vec<f64>>> {
            let of_prompt = |prompt: usize| rows.iter().map(|rows| rows[prompt].clone()).collect();
            (0..rows[0].len()).map(of_prompt).collect()
        };
        Self::new("prompts", &[runs], bootstrap, |subjects| {
            clusters(&subjects[0])
        })
    }

    /// Over subjects, each with a row of every run.
    fn of_subjects(subjects: &[Vec<Rows>], bootstrap: &Bootstrap) -> Self {
        let subjects: Vec<&[Rows]> = subjects.iter().map(Vec::as_slice).collect();
        Self::new("subjects", &subjects, bootstrap, |subjects| {
            let of_runs = |runs: &Vec<Vec<Vec<f64>>>| runs.iter().map(|rows| mean(rows)).collect();
            subjects.iter().map(of_runs).collect()
        })
    }

    /// `clusters` makes clusters of rows from the rows of all runs, subject by subject.
    fn new(
        over: &'static str,
        subjects: &[&[Rows]],
        bootstrap: &Bootstrap,
        clusters: impl Fn(&[Vec<Vec<Vec<f64>>>]) -> Vec<Vec<Vec<f64>>>,
    ) -> Self {
        let estimates = |read: &dyn Fn(&Rows) -> Option<Vec<Vec<f64>>>| {
            let rows: Option<Vec<Vec<Vec<Vec<f64>>>>> = subjects
                .iter()
                .map(|runs| runs.iter().map(read).collect())
                .collect();
            rows.map(|rows| estimate(&clusters(&rows), bootstrap))
        };
        let base = |rows: &Rows| rows.1.map(<[Vec<f64>]>::to_vec);
        Self {
            over,
            tuned: estimates(&|rows| Some(rows.0.to_vec())).unwrap_or_default(),
            base: estimates(&base),
            gain: estimates(&|rows| Some(minus(rows.0, rows.1?))),
        }
    }
}

/// Models that differ in nothing but subject and seed.
pub(super) struct Group<'a> {
    pub(super) members: Vec<&'a (Plan, Judged)>,
    pub(super) subjects: usize,
    pub(super) estimates: Estimates,
}

impl<'a> Group<'a> {
    /// The groups of more than one model, in the order of their first ones.
    pub(super) fn of(all: &'a [(Plan, Judged)], bootstrap: &Bootstrap) -> Vec<Self> {
        let mut keys: Vec<(ImageConfig, Option<u64>)> = Vec::new();
        let mut groups: Vec<Vec<&(Plan, Judged)>> = Vec::new();
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

    fn new(members: Vec<&'a (Plan, Judged)>, bootstrap: &Bootstrap) -> Self {
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
fn recipe(config: &ImageConfig) -> ImageConfig {
    ImageConfig {
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
fn method(config: &ImageConfig) -> String {
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
