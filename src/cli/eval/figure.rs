//! Figures of `preftune eval text`: means with their intervals.

use serde_json::{Value, json};

use crate::eval::bootstrap::{Bootstrap, mean};

/// The model that is judged, and the one that it was tuned from.
pub(super) const TUNED: &str = "tuned";
pub(super) const BASE: &str = "base";

/// A mean over pairs or prompts.
pub(super) struct Figure {
    pub(super) name: &'static str,
    /// Which model's it is.
    pub(super) model: &'static str,
    pub(super) value: f64,
    pub(super) interval: Option<(f64, f64)>,
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

    pub(super) fn row(&self) -> Vec<String> {
        let interval = self
            .interval
            .map(|(low, high)| format!("{low:.4} to {high:.4}"));
        let of = if self.model == TUNED {
            String::new()
        } else {
            format!(", {}", self.model)
        };
        vec![
            format!("{}{of}", self.name),
            format!("{:.4}", self.value),
            interval.unwrap_or_default(),
        ]
    }
}
