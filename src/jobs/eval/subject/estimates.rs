//! Estimates of the columns of figures, with their intervals.

use crate::eval::bootstrap::Bootstrap;
use crate::eval::subject::{Estimate, estimate, mean, minus};

/// Rows of a tuned model and of its base, a row for each prompt.
pub(super) type Rows<'a> = (&'a [Vec<f64>], Option<&'a [Vec<f64>]>);

/// Estimates of all columns.
#[derive(Clone, Debug)]
pub struct Estimates {
    /// The unit that intervals are drawn over.
    pub over: &'static str,
    /// Of the tuned model.
    pub tuned: Vec<Estimate>,
    /// Of its base.
    pub base: Option<Vec<Estimate>>,
    /// Tuned less base, cluster by cluster.
    pub gain: Option<Vec<Estimate>>,
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
    pub(super) fn of_subjects(subjects: &[Vec<Rows>], bootstrap: &Bootstrap) -> Self {
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
