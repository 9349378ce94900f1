//! Metrics of a batch, and their means over batches of different sizes.

use tch::{Kind, Tensor};

use super::event::Metrics;

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
