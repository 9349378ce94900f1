//! Words, codes and numbers for the result of a comparison, as published files and judges write them.

use super::columns::{Columns, plain};
use super::comparisons::Outcome;

/// Games that a strong verdict of Arena-Hard counts for (`A>>B`), as in its own tables.
const STRONG: f64 = 3.0;

/// The meaning of a value by itself.
#[derive(Clone, Copy)]
pub(super) enum Word {
    /// Who won, and for how many games it counts.
    Side(Outcome, f64),
    /// What one of the two got, and not which of them: won, drew, lost.
    Got(Outcome),
    /// A number on some scale.
    Number(f64),
    /// There is none.
    Nothing,
    /// None of these.
    Unknown,
}

const LEFT: [&str; 6] = ["left", "a", "x", "first", "1", "one"];
const RIGHT: [&str; 6] = ["right", "b", "y", "second", "2", "two"];
const TIE: [&str; 17] = [
    "tie",
    "tied",
    "ties",
    "draw",
    "drawn",
    "tiebothbad",
    "tiebothgood",
    "bothbad",
    "bothgood",
    "equal",
    "equallygood",
    "equallybad",
    "same",
    "both",
    "neither",
    "even",
    "stalemate",
];
/// Values for which there is nothing.
const NOTHING: [&str; 7] = ["", "null", "none", "nan", "na", "nil", "missing"];
/// Words that may stand before or behind the word for a side.
pub(super) const STEMS: [&str; 24] = [
    "model",
    "item",
    "system",
    "player",
    "generator",
    "assistant",
    "bot",
    "agent",
    "llm",
    "team",
    "engine",
    "method",
    "competitor",
    "contestant",
    "candidate",
    "option",
    "response",
    "answer",
    "output",
    "completion",
    "text",
    "image",
    "winner",
    "name",
];
const ENDINGS: [&str; 6] = ["isbetter", "better", "wins", "won", "win", "preferred"];

/// The meaning of a value of the outcome column by itself.
pub(super) fn word(columns: &Columns, value: &str) -> Word {
    let inner = value
        .strip_prefix("[[")
        .and_then(|value| value.strip_suffix("]]"));
    let verdict = inner.unwrap_or(value).trim();
    let plain_value = plain(verdict);
    if let Some(code) = code(verdict) {
        return code;
    }
    for (column, side) in [
        (&columns.left, Outcome::Left),
        (&columns.right, Outcome::Right),
    ] {
        if verdict == column || plain_value == plain(column) && !plain_value.is_empty() {
            return Word::Side(side, 1.0);
        }
    }
    if NOTHING.contains(&plain_value.as_str()) && !verdict.contains(['-', '+']) {
        return Word::Nothing;
    }
    if let Some(side) = columns.own_words(&plain_value) {
        return Word::Side(side, 1.0);
    }
    // MT-Bench's verdict for a tie.
    if inner.is_some() && plain_value == "c" || TIE.contains(&plain_value.as_str()) {
        return Word::Side(Outcome::Tie, 1.0);
    }
    if let Some(number) = number(verdict) {
        return Word::Number(number);
    }
    match (side(&plain_value), got(&plain_value)) {
        (Some(side), _) => Word::Side(side, 1.0),
        (None, Some(got)) => Word::Got(got),
        (None, None) => Word::Unknown,
    }
}

/// What an item got, as seen from the left one.
fn got(plain_value: &str) -> Option<Outcome> {
    match plain_value {
        "w" | "win" | "wins" | "won" => Some(Outcome::Left),
        "l" | "loss" | "lose" | "loses" | "lost" | "defeat" => Some(Outcome::Right),
        "d" | "t" => Some(Outcome::Tie),
        _ => None,
    }
}

/// Arena-Hard's verdicts and the results of chess.
fn code(verdict: &str) -> Option<Word> {
    let text: String = verdict
        .chars()
        .filter(|letter| !letter.is_whitespace())
        .collect();
    let (outcome, games) = match text.to_ascii_uppercase().as_str() {
        "A>>B" | "B<<A" => (Outcome::Left, STRONG),
        "A>B" | "B<A" | "1-0" => (Outcome::Left, 1.0),
        "A=B" | "B=A" | "A==B" | "A~=B" | "1/2-1/2" | "½-½" | "0.5-0.5" => (Outcome::Tie, 1.0),
        "B>A" | "A<B" | "0-1" => (Outcome::Right, 1.0),
        "B>>A" | "A<<B" => (Outcome::Right, STRONG),
        _ => return None,
    };
    Some(Word::Side(outcome, games))
}

/// A finite number, also with a decimal comma; `true` and `false` are 1 and 0.
fn number(text: &str) -> Option<f64> {
    let parsed = match text.to_ascii_lowercase().as_str() {
        "true" => 1.0,
        "false" => 0.0,
        text if text
            .starts_with(|letter: char| letter.is_ascii_digit() || "+-.".contains(letter)) =>
        {
            text.replace(',', ".").parse().ok()?
        }
        _ => return None,
    };
    f64::is_finite(parsed).then_some(parsed)
}

fn side(plain_value: &str) -> Option<Outcome> {
    let of = |word: &str| match word {
        word if LEFT.contains(&word) => Some(Outcome::Left),
        word if RIGHT.contains(&word) => Some(Outcome::Right),
        _ => None,
    };
    let ending = ENDINGS
        .iter()
        .find_map(|ending| plain_value.strip_suffix(ending));
    let word = ending
        .filter(|word| !word.is_empty())
        .unwrap_or(plain_value);
    of(word).or_else(|| {
        STEMS.iter().find_map(|stem| {
            let rest = word.strip_prefix(stem).or(word.strip_suffix(stem))?;
            of(rest)
        })
    })
}
