//! Sets of figures in a file of `preftune eval`, whatever it calls them.
//!
//! A set is an object of numbers, nested as it likes; it stands alone, under `mean` beside an `interval` of the same
//! shape, or holds a `mean` and an `interval` for each figure. Or figures are a list, each with the model that it is of.

use serde_json::{Value, json};

/// Objects of an evaluation that are no figures.
const NOT_FIGURES: [&str; 6] = [
    "protocol",
    "encoders",
    "bootstrap",
    "counts",
    "interval",
    "prompts",
];
/// The set whose `mean` is the evaluation's own.
pub(super) const TUNED: &str = "tuned";

/// One figure: its path in the file, its value, the ends of its interval.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) key: String,
    pub(super) value: f64,
    pub(super) interval: Option<(f64, f64)>,
}

/// The figures of one model by one evaluation.
pub(super) struct Set {
    /// `tuned`, `base`, `oracle`, `gain`, or what else the file calls it.
    pub(super) role: String,
    /// Which run's evaluation it is of.
    pub(super) run: usize,
    pub(super) figures: Vec<Figure>,
}

impl Set {
    /// The figure at a path.
    pub(super) fn figure(&self, key: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.key == key)
    }

    /// How much this is above `other`, figure by figure.
    pub(super) fn minus(&self, other: &Self, role: String) -> Self {
        let difference = |figure: &Figure| {
            Some(Figure {
                key: figure.key.clone(),
                value: figure.value - other.figure(&figure.key)?.value,
                interval: None,
            })
        };
        Self {
            role,
            run: self.run,
            figures: self.figures.iter().filter_map(difference).collect(),
        }
    }
}

/// All sets of an evaluation.
pub(super) fn sets(run: usize, evaluation: &Value) -> Vec<Set> {
    let set = |(key, value): (&String, &Value)| {
        if NOT_FIGURES.contains(&key.as_str()) {
            return None;
        }
        let (role, figures, interval) = match value.get("mean") {
            Some(mean @ Value::Object(_)) => (key.as_str(), mean, &value["interval"]),
            _ if key == "mean" => (TUNED, value, &evaluation["interval"]),
            _ => (key.as_str(), value, &Value::Null),
        };
        let figures = figures_of(figures, interval);
        (!figures.is_empty()).then(|| Set {
            role: role.to_owned(),
            run,
            figures,
        })
    };
    let entries = evaluation.as_object().into_iter().flatten();
    let mut sets: Vec<Set> = entries.filter_map(set).collect();
    for (role, figure) in listed(&evaluation["figures"]) {
        match sets.iter_mut().find(|set| set.role == role) {
            Some(set) => set.figures.push(figure),
            None => sets.push(Set {
                role,
                run,
                figures: vec![figure],
            }),
        }
    }
    sets
}

/// The figures of a list, each with the model that it is of.
fn listed(figures: &Value) -> Vec<(String, Figure)> {
    let figure = |figure: &Value| {
        let text = |key: &str| figure[key].as_str().map(str::to_owned);
        let found = Figure {
            key: text("name")?,
            value: figure["value"].as_f64()?,
            interval: ends(&figure["interval"]),
        };
        Some((text("model")?, found))
    };
    let figures = figures.as_array().into_iter().flatten();
    figures.filter_map(figure).collect()
}

/// The numbers of an object, with the ends that an object of its shape gives them.
pub(super) fn figures_of(value: &Value, interval: &Value) -> Vec<Figure> {
    let mut found = Vec::new();
    collect(value, interval, "", &mut found);
    found
}

fn collect(value: &Value, interval: &Value, path: &str, into: &mut Vec<Figure>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        if NOT_FIGURES.contains(&key.as_str()) {
            continue;
        }
        let key_path = match path {
            "" => key.clone(),
            _ => format!("{path}/{key}"),
        };
        // The interval's object is split at its top (`low`, `high`) or at each figure.
        let below = match interval.get("low") {
            Some(low) => json!({"low": low[key], "high": interval["high"][key]}),
            None => interval[key].clone(),
        };
        let own = value.get("mean").and_then(Value::as_f64);
        match value.as_f64().or(own) {
            Some(number) => into.push(Figure {
                key: key_path,
                value: number,
                interval: ends(&value["interval"]).or_else(|| ends(&below)),
            }),
            None => collect(value, &below, &key_path, into),
        }
    }
}

/// `[low, high]` or an object of the two.
fn ends(interval: &Value) -> Option<(f64, f64)> {
    let pair = |low: &Value, high: &Value| Some((low.as_f64()?, high.as_f64()?));
    pair(&interval[0], &interval[1]).or_else(|| pair(&interval["low"], &interval["high"]))
}
