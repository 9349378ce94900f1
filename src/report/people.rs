//! What people said of runs in `preftune compare`, beside what encoders say of them.

use std::path::Path;

use serde_json::Value;

use super::figures::Figure;
use super::read::{Evaluation, Run};

/// How the key of such a figure begins; against whom follows.
const KEY: &str = "people/win rate against ";

/// How often people preferred one run.
pub(super) struct WinRate {
    /// The run, by its number.
    pub(super) run: usize,
    pub(super) figure: Figure,
}

/// The row's title of a figure that people gave; `None` of other figures.
pub(super) fn title(key: &str) -> Option<String> {
    let against = key.strip_prefix(KEY)?;
    Some(format!("Win rate against {against}"))
}

/// `true` of what `preftune compare` has written.
pub(super) fn is_session(figures: &Value) -> bool {
    figures["counts"]["sources"].is_array()
}

/// The win rates of these runs that any of them keeps, and a sentence on each session.
pub(super) fn win_rates(runs: &[Run]) -> (Vec<WinRate>, Vec<String>) {
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    let sessions = runs.iter().flat_map(|run| &run.evaluations);
    for Evaluation { figures, .. } in sessions.filter(|session| is_session(&session.figures)) {
        let before = found.len();
        let sources = figures["counts"]["sources"].as_array();
        for source in sources.into_iter().flatten() {
            found.extend(both(source, &figures["counts"]["runs"], runs));
        }
        let judges = figures["protocol"]["judges"].as_array();
        let judges = judges.into_iter().flatten().filter_map(Value::as_str);
        let judges: Vec<&str> = judges.collect();
        if let Some(what) = figures["protocol"]["win_rate"].as_str()
            && found.len() > before
        {
            notes.push(format!("People ({}): {what}.", judges.join(", ")));
        }
    }
    (found, notes)
}

/// The win rate of a source against another one, and what follows of the other one, where these are runs on the page. They
/// are known by their folders: runs of other folders may have the same names.
fn both(source: &Value, folders: &Value, runs: &[Run]) -> Vec<WinRate> {
    let ends = &source["interval"];
    let (Some(name), Some(against), Some(win_rate), Some(low), Some(high)) = (
        source["name"].as_str(),
        source["against"].as_str(),
        source["win_rate"].as_f64(),
        ends[0].as_f64(),
        ends[1].as_f64(),
    ) else {
        return Vec::new();
    };
    let whole = |path: &Path| path.canonicalize().ok();
    let run = |name: &str| {
        let folder = whole(Path::new(folders[name].as_str()?))?;
        runs.iter()
            .position(|run| whole(&run.path).as_ref() == Some(&folder))
    };
    // The untuned model of a session on one run.
    let shown = |name: &str| match folders[name].as_str() {
        None if name == "base" => "the untuned model".to_owned(),
        _ => name.to_owned(),
    };
    let of = |one: &str, other: &str, value: f64, interval: (f64, f64)| {
        Some(WinRate {
            run: run(one)?,
            figure: Figure {
                key: format!("{KEY}{}", shown(other)),
                value,
                interval: Some(interval),
            },
        })
    };
    let sides = [
        of(name, against, win_rate, (low, high)),
        of(against, name, 1.0 - win_rate, (1.0 - high, 1.0 - low)),
    ];
    sides.into_iter().flatten().collect()
}
