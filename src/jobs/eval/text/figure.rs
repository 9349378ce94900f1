//! Means with their intervals, of a tuned model or of another.

use serde_json::{Value, json};

use crate::eval::bootstrap::{Bootstrap, mean};

/// The model that is judged.
pub const TUNED: &str = "tuned";
/// The model that it was tuned from.
pub const BASE: &str = "base";

/// A mean over pairs or prompts.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Name of the quantity.
    pub name: &'static str,
    /// The model that it is of: [`TUNED`], [`BASE`] or another.
    pub model: &'static str,
    /// The mean.
    pub value: f64,
    /// Ends of its 95 % interval; none of a single pair or prompt.
    pub interval: Option<(f64, f64)>,
}

impl Figure {
    pub(super) fn new(name: &'static str, values: impl Iterator<Item = f64>) -> Self {
        Self::clustered(name, &values.map(|value| vec![value]).collect::<Vec<_>>())
    }

    /// Of values by prompt.
    pub(super) fn clustered(name: &'static str, clusters: &[Vec<f64>]) -> Self {
        Self {
            name,
            model: TUNED,
            value: mean(clusters),
            interval: Bootstrap::default().interval(clusters),
        }
    }

    /// The same figure, of another model.
    pub(super) fn of_model(mut self, model: &'static str) -> Self {
        self.model = model;
        self
    }

    pub(super) fn json(&self) -> Value {
        json!({"name": self.name, "model": self.model, "value": self.value, "interval": self.interval})
    }
}
