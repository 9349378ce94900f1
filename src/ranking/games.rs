//! Rows that hold the games of a match-up in both orders, as Arena-Hard's judgements do: each game becomes a comparison.

use serde_json::{Map, Value};

/// The list of games.
const GAMES: &str = "games";
/// The name of the other item where the file does not name it.
pub(super) const BASELINE: &str = "baseline";
/// Columns of a row that its games share.
const SHARED: [&str; 2] = ["category", "judge"];
/// Columns of what was asked, in the first files and in later ones.
const QUESTION: [&str; 2] = ["question_id", "uid"];

/// How such rows are read, in words.
pub(super) const IN_WORDS: &str = "each of a row's `games` is a comparison: in the first `A` is the baseline and `B` the \
     `model`, in the second the other way round (arXiv 2406.11939)";

/// The comparisons of a row of games, in which `model_a` and `model_b` are the items; `None` of any other row.
///
/// A game without a verdict is a comparison without one.
pub(super) fn games(row: &Map<String, Value>) -> Option<Vec<Map<String, Value>>> {
    let (Some(Value::Array(games)), Some(Value::String(model))) =
        (row.get(GAMES), row.get("model"))
    else {
        return None;
    };
    let baseline = row.get(BASELINE).and_then(Value::as_str);
    let baseline = baseline.unwrap_or(BASELINE);
    let comparison = |(place, game): (usize, &Value)| {
        let (left, right) = if place.is_multiple_of(2) {
            (baseline, model.as_str())
        } else {
            (model.as_str(), baseline)
        };
        let shared = SHARED.iter().filter_map(|name| {
            let value = row.get(*name)?;
            Some(((*name).to_owned(), value.clone()))
        });
        let mut comparison: Map<String, Value> = shared.collect();
        let question = QUESTION.iter().find_map(|name| row.get(*name));
        if let Some(question) = question {
            comparison.insert(QUESTION[0].to_owned(), question.clone());
        }
        comparison.insert("model_a".to_owned(), left.into());
        comparison.insert("model_b".to_owned(), right.into());
        let score = game.get("score").cloned().unwrap_or_default();
        comparison.insert("winner".to_owned(), score);
        comparison
    };
    Some(games.iter().enumerate().map(comparison).collect())
}
