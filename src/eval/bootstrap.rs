//! How sure a mean over subjects is: the percentile bootstrap over clusters (Efron 1979).
//!
//! The images of a subject are alike in what makes them easy or hard, so subjects are drawn anew, not images: an
//! interval over 3000 images of 30 subjects would be several times too narrow.

use crate::ops::random::{derive_seed, integers};
use crate::ops::statistics::quantile;

/// How the resamples are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Number of resamples, at least 1.
    pub resamples: usize,
    /// Share of the resampled means inside the interval, between 0 and 1.
    pub level: f64,
    /// Seed. Equal seeds draw equal subjects, whatever is measured on them.
    pub seed: u64,
    /// `true` if the values within a drawn cluster are drawn anew too (two-stage bootstrap).
    pub within: bool,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            resamples: 2000,
            level: 0.95,
            seed: 0,
            within: false,
        }
    }
}

/// Mean over clusters of the means within them.
///
/// # Panics
/// Without clusters, or with an empty one.
pub fn mean(clusters: &[Vec<f64>]) -> f64 {
    assert!(!clusters.is_empty(), "at least one cluster");
    clusters.iter().map(|values| mean_of(values)).sum::<f64>() / clusters.len() as f64
}

impl Bootstrap {
    /// Lower and upper end of the interval of [`mean`]; `None` of fewer than two clusters, which say nothing about
    /// how clusters differ.
    ///
    /// With few clusters the interval is too narrow: with ten by about a sixth of what Student's t asks for.
    ///
    /// # Panics
    /// With an empty cluster.
    pub fn interval(&self, clusters: &[Vec<f64>]) -> Option<(f64, f64)> {
        if clusters.len() < 2 {
            return None;
        }
        let means: Vec<f64> = clusters.iter().map(|values| mean_of(values)).collect();
        let mut resampled: Vec<f64> = (0..self.resamples.max(1) as u64)
            .map(|resample| self.resampled_mean(resample, clusters, &means))
            .collect();
        resampled.sort_by(f64::total_cmp);
        let tail = (1.0 - self.level) / 2.0;
        Some((quantile(&resampled, tail), quantile(&resampled, 1.0 - tail)))
    }

    fn resampled_mean(&self, resample: u64, clusters: &[Vec<f64>], means: &[f64]) -> f64 {
        let seed = |counter| derive_seed(self.seed, "bootstrap", &[resample, counter]);
        let drawn = integers(seed(0), means.len() as u64, means.len());
        let sum: f64 = drawn
            .iter()
            .enumerate()
            .map(|(position, &cluster)| {
                let cluster = cluster as usize;
                if !self.within {
                    return means[cluster];
                }
                let values = &clusters[cluster];
                let count = values.len();
                let drawn = integers(seed(position as u64 + 1), count as u64, count);
                drawn
                    .iter()
                    .map(|&value| values[value as usize])
                    .sum::<f64>()
                    / count as f64
            })
            .sum();
        sum / means.len() as f64
    }
}

fn mean_of(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "at least one value in a cluster");
    values.iter().sum::<f64>() / values.len() as f64
}
