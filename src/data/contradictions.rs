//! Columns beside a better and a worse answer, or image, that may say the other way round.

use serde_json::Value;

use super::columns::Columns;

/// Columns that may say which of the two is better.
const VERDICTS: [&str; 16] = [
    "preference",
    "label",
    "labels",
    "winner",
    "outcome",
    "score",
    "verdict",
    "choice",
    "vote",
    "judgment",
    "judgement",
    "result",
    "better",
    "better_response",
    "overall_preference",
    "preference_strength",
];
/// Columns that may say that the two have changed places.
const SWAPPED: [&str; 6] = [
    "swapped",
    "is_swapped",
    "flipped",
    "is_flipped",
    "reversed",
    "is_reversed",
];

/// `true` if a column of this name may say that the rejected one is better.
pub(super) fn may_contradict(name: &str) -> bool {
    VERDICTS.contains(&name) || SWAPPED.contains(&name)
}

/// Refuses a row whose verdict is for the rejected one. Words for the chosen one, and that nothing was swapped, agree with
/// what is read.
///
/// # Errors
/// A sentence on the column.
pub(super) fn refuse_contradiction(columns: &Columns) -> Result<(), String> {
    for name in VERDICTS {
        let verdict = columns.peek(name).and_then(Value::as_str);
        match verdict
            .map(|verdict| verdict.trim().to_lowercase())
            .as_deref()
        {
            Some("chosen") => {
                columns.get(name);
            }
            Some("rejected") => {
                return Err(format!(
                    "`{name}` says that the rejected one is better: exchange `chosen` and `rejected`, or leave the column out"
                ));
            }
            _ => {}
        }
    }
    for name in SWAPPED {
        let in_words = columns.peek(name).map(|value| match value {
            Value::String(text) => text.trim().to_lowercase(),
            value => value.to_string(),
        });
        if in_words.is_some_and(|words| ["false", "0", "0.0", "no"].contains(&words.as_str())) {
            columns.get(name);
        }
    }
    Ok(())
}
