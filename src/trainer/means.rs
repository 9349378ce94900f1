//! Metrics of a batch, and their means over batches of different sizes.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::event::Metrics;
use crate::distributed::Peers;
use crate::error::Result;

/// A mean over a batch under its name, and over how many examples.
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) value: Tensor,
    pub(super) count: f64,
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

/// Means of metrics over batches of different sizes, which the processes of a run share.
#[derive(Default)]
pub(super) struct Means(Vec<Entry>);

/// A metric's sum over a batch as processes tell each other; numbers by their bits, for JSON has none that are not finite.
#[derive(Serialize, Deserialize)]
struct Entry {
    batch: usize,
    name: String,
    sum: u64,
    count: f64,
}

impl Means {
    /// Adds a part of the batch of this number, which waits for the device.
    pub(super) fn add(&mut self, batch: usize, metrics: &[Metric]) -> Result<()> {
        let values: Vec<Tensor> = metrics
            .iter()
            .map(|metric| metric.value.to_kind(Kind::Double))
            .collect();
        let values = Vec::<f64>::try_from(Tensor::stack(&values, 0))?;
        let entries = metrics.iter().zip(values).map(|(metric, value)| Entry {
            batch,
            name: metric.name.to_owned(),
            sum: (value * metric.count).to_bits(),
            count: metric.count,
        });
        self.0.extend(entries);
        Ok(())
    }

    /// The means over the batches of all processes, in the order in which names first came: sums are taken in the order of the
    /// batches, so that they are the same however many processes there are.
    ///
    /// # Errors
    /// Another process has ended or does not answer.
    pub(super) fn finish(self, peers: &Peers) -> Result<Metrics> {
        let mut entries: Vec<Entry> = peers.gather(self.0)?.into_iter().flatten().collect();
        entries.sort_by_key(|entry| entry.batch);
        let mut means: Vec<(String, f64, f64)> = Vec::new();
        for Entry {
            name, sum, count, ..
        } in entries
        {
            let sum = f64::from_bits(sum);
            match means.iter_mut().find(|(known, ..)| *known == name) {
                Some((_, sums, counts)) => (*sums, *counts) = (*sums + sum, *counts + count),
                None => means.push((name, sum, count)),
            }
        }
        let mean = |(name, sum, count)| (name, sum / count);
        Ok(means.into_iter().map(mean).collect())
    }
}
