//! The scalars of a step: added up over its micro-batches on the device, read from there in one transfer, and put together from
//! all processes.

use tch::{Kind, Tensor};

use super::event::Metrics;
use crate::distributed::Peers;
use crate::error::Result;
use crate::ops::transfer::Download;

/// A mean over the examples of a micro-batch, or over those that this process has of it, on the device.
pub struct Scalar {
    /// The metric's name.
    pub name: &'static str,
    /// The mean.
    pub value: Tensor,
    /// How much of the micro-batch it is the mean of: 1 is all.
    pub weight: f64,
}

impl Scalar {
    /// Scalars that each weigh so much.
    pub fn all(weight: f64, scalars: Vec<(&'static str, Tensor)>) -> Vec<Self> {
        let scalars = scalars.into_iter().map(|(name, value)| Self {
            name,
            value,
            weight,
        });
        scalars.collect()
    }
}

/// A metric's sum over the micro-batches that have it, each by its weight.
pub(super) struct Sum {
    pub(super) name: &'static str,
    value: Tensor,
    weight: f64,
}

impl Sum {
    pub(super) fn new(scalar: &Scalar) -> Self {
        Self {
            name: scalar.name,
            value: weighted(scalar),
            weight: scalar.weight,
        }
    }

    pub(super) fn add(&mut self, scalar: &Scalar) {
        self.value += weighted(scalar);
        self.weight += scalar.weight;
    }
}

/// A scalar times its weight; most weigh 1 and cost no launch.
fn weighted(scalar: &Scalar) -> Tensor {
    if (scalar.weight - 1.0).abs() < f64::EPSILON {
        scalar.value.shallow_clone()
    } else {
        &scalar.value * scalar.weight
    }
}

/// The scalars of a step on their way from the device, in one transfer.
pub(super) struct Unread {
    pub(super) step: u64,
    learning_rate: f64,
    /// Names, and how many micro-batches have each, shares of them counted as what they are.
    sums: Vec<(&'static str, f64)>,
    values: Download,
}

impl Unread {
    pub(super) fn begin(step: u64, sums: &[Sum], learning_rate: f64) -> Result<Self> {
        let stacked: Vec<Tensor> = sums
            .iter()
            .map(|sum| sum.value.to_kind(Kind::Double))
            .collect();
        Ok(Self {
            step,
            learning_rate,
            sums: sums.iter().map(|sum| (sum.name, sum.weight)).collect(),
            values: Download::begin(&Tensor::stack(&stacked, 0))?,
        })
    }

    /// The loop's only wait for the device, and for the other processes.
    pub(super) fn read(self, peers: &Peers) -> Result<Metrics> {
        let values = self.values.finish()?;
        let sums = self.sums.iter().zip(values);
        let own =
            sums.map(|((name, weight), value)| ((*name).to_owned(), value.to_bits(), *weight));
        let mut all: Vec<(String, f64, f64)> = Vec::new();
        for list in peers.gather(own.collect::<Vec<_>>())? {
            // What the ones before did not have comes where this one has it.
            let mut next = 0;
            for (name, bits, weight) in list {
                let value = f64::from_bits(bits);
                if let Some(place) = all.iter().position(|(known, ..)| *known == name) {
                    all[place].1 += value;
                    all[place].2 += weight;
                    next = place + 1;
                } else {
                    all.insert(next, (name, value, weight));
                    next += 1;
                }
            }
        }
        let mean = |(name, sum, weight)| (name, sum / weight);
        let mut metrics: Metrics = all.into_iter().map(mean).collect();
        metrics.push(("learning_rate".to_owned(), self.learning_rate));
        Ok(metrics)
    }
}
