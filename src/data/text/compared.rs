//! Two answers and what says which of them is better, in the columns of published data sets.

use serde_json::Value;

use super::columns::{between, lacks};
use super::helpsteer;
use super::message::Text;
use crate::data::columns::Columns;
use crate::data::left_out::shown;

/// The meaning of a verdict.
#[derive(Clone, Copy)]
enum Verdict {
    /// Below 0 where the first answer is better, and by how much.
    Signed,
    /// The place of the better answer, from 0.
    Place,
    /// 1 where the first answer is better, 0 where the second is.
    First,
    /// The name of an answer, or a word or number for it, or a tie.
    Named,
}

/// Columns of both answers, that of the verdict, and how it is read: HelpSteer2 and 3 (arXiv 2410.01257, 2505.11475),
/// PKU-SafeRLHF (2406.15513), SHP (its data card), Chatbot Arena (2309.11998).
const LAYOUTS: [(&str, &str, &str, Verdict); 6] = [
    ("response_1", "response_2", STRENGTH, Verdict::Signed),
    (
        "response1",
        "response2",
        "overall_preference",
        Verdict::Signed,
    ),
    (
        "response_0",
        "response_1",
        "better_response_id",
        Verdict::Place,
    ),
    ("human_ref_A", "human_ref_B", "labels", Verdict::First),
    ("response_a", "response_b", "winner", Verdict::Named),
    ("conversation_a", "conversation_b", "winner", Verdict::Named),
];
/// Words before what tells two answers apart, in columns of any data set.
const STEMS: [&str; 6] = [
    "response",
    "output",
    "answer",
    "completion",
    "reply",
    "generation",
];
/// What tells them apart.
const ENDS: [[&str; 2]; 10] = [
    ["_1", "_2"],
    ["_a", "_b"],
    ["_A", "_B"],
    ["_0", "_1"],
    ["1", "2"],
    ["A", "B"],
    ["a", "b"],
    ["0", "1"],
    ["_one", "_two"],
    ["_left", "_right"],
];
/// Columns that name the better one of two such answers.
const VERDICTS: [&str; 10] = [
    "preference",
    "winner",
    "preferred",
    "better",
    "better_response",
    "choice",
    "label",
    "verdict",
    "judgment",
    "judgement",
];
/// HelpSteer2's verdict; its prompts hold several turns.
const STRENGTH: &str = "preference_strength";

/// Words of a verdict for neither answer.
const TIES: [&str; 6] = ["bothbad", "bothgood", "draw", "neither", "both", "equal"];

/// The reason for leaving out a row whose verdict is for neither answer.
pub(super) const TIE: &str = "a tie: neither answer is better";

/// All names that are read here.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    LAYOUTS
        .into_iter()
        .flat_map(|(first, second, verdict, _)| [first, second, verdict])
        .chain([VERDICTS[0]])
}

/// Columns of both answers, that of the verdict, and how it is read.
type Layout = (String, String, &'static str, Verdict);

fn layout(columns: &Columns) -> Option<Layout> {
    let there = |name: &str| columns.names().any(|known| known == name);
    if there("chosen") {
        return None;
    }
    let known = LAYOUTS
        .into_iter()
        .find(|(first, _, verdict, _)| there(verdict) && (there(first) || *verdict == STRENGTH));
    if let Some((first, second, verdict, how)) = known {
        return Some((first.to_owned(), second.to_owned(), verdict, how));
    }
    let verdict = VERDICTS.into_iter().find(|name| there(name))?;
    let [first, second] = two(columns)?;
    Some((first, second, verdict, Verdict::Named))
}

/// The columns of two answers whose names differ in what tells them apart.
fn two(columns: &Columns) -> Option<[String; 2]> {
    let there = |name: &String| columns.names().any(|known| known == name);
    let names = ENDS
        .into_iter()
        .flat_map(|ends| STEMS.map(|stem| ends.map(|end| format!("{stem}{end}"))));
    names.into_iter().find(|names| names.iter().all(there))
}

/// Why a row of two answers is no pair: nothing says which of them is better. `None` of other rows.
pub(super) fn undecided(columns: &Columns) -> Option<String> {
    let [first, second] = two(columns)?;
    Some(format!(
        "`{first}` and `{second}` are two answers, and no column that is read says which is better: add `{}` with `{first}`, \
         `{second}` or `tie`, or call the better one `chosen` and the other `rejected`",
        VERDICTS[0]
    ))
}

/// `true` if a row has two answers with a verdict.
pub(super) fn are(columns: &Columns) -> bool {
    layout(columns).is_some()
}

/// A pair, with how much better its preferred answer is where the verdict says.
pub(super) struct Compared {
    pub(super) pair: (Text, Text, Text),
    pub(super) strength: Option<f64>,
}

/// The pair of a row with a verdict; `None` of a tie.
///
/// # Errors
/// The verdict, the prompt or an answer is missing or not of its kind.
pub(super) fn pair(columns: &Columns) -> Result<Option<Compared>, String> {
    let Some((first, second, name, verdict)) = layout(columns) else {
        return Err(lacks(columns, "chosen"));
    };
    let value = columns.filled(name).ok_or_else(|| lacks(columns, name))?;
    let number = || {
        let number = value.as_f64().filter(|number| number.is_finite());
        number.ok_or_else(|| format!("`{name}` is {}, not a number", shown(value)))
    };
    let is = |one: f64, other: f64| (one - other).abs() < f64::EPSILON;
    let (first_is_better, strength) = match verdict {
        Verdict::Signed => {
            let strength = number()?;
            if is(strength, 0.0) {
                return Ok(None);
            }
            (strength < 0.0, Some(strength.abs()))
        }
        Verdict::Place | Verdict::First => {
            let place = number()?;
            if !is(place, 0.0) && !is(place, 1.0) {
                return Err(format!("`{name}` is {}, neither 0 nor 1", shown(value)));
            }
            (is(place, 1.0) == matches!(verdict, Verdict::First), None)
        }
        Verdict::Named => match named(value, &first, &second) {
            Some(Better::First) => (true, None),
            Some(Better::Second) => (false, None),
            Some(Better::Neither) => return Ok(None),
            None => {
                let value = shown(value);
                return Err(format!(
                    "`{name}` is {value}, neither `{first}` nor `{second}` nor a tie"
                ));
            }
        },
    };
    let (better, worse) = if first_is_better {
        (first, second)
    } else {
        (second, first)
    };
    let pair = if name == STRENGTH {
        helpsteer::pair(columns, &better, &worse)?
    } else {
        let answer = |name: &str| {
            let value = columns.filled(name).ok_or_else(|| lacks(columns, name))?;
            Text::read(value, name)
        };
        between(columns, answer(&better)?, answer(&worse)?)?
    };
    Ok(Some(Compared { pair, strength }))
}

/// The better one of two answers.
enum Better {
    First,
    Second,
    Neither,
}

/// The verdict of a value on the answers of two columns; `None` of one that is for neither, and of numbers that could be
/// counted from 0 or from 1.
fn named(value: &Value, first: &str, second: &str) -> Option<Better> {
    let letters = |text: &str| {
        let letters = text.chars().filter(|letter| letter.is_alphanumeric());
        letters.flat_map(char::to_lowercase).collect::<String>()
    };
    let word = match value {
        Value::String(text) => letters(text.trim().trim_end_matches(".0")),
        Value::Number(number) => {
            let number = number.as_f64()?;
            let is_whole = (number - number.round()).abs() < f64::EPSILON && number >= 0.0;
            is_whole.then(|| number.round().to_string())?
        }
        _ => return None,
    };
    if word.starts_with("tie") || TIES.contains(&word.as_str()) {
        return Some(Better::Neither);
    }
    let rest = ["model", "assistant", "option", "conversation"]
        .iter()
        .chain(&STEMS)
        .find_map(|stem| word.strip_prefix(stem));
    let rest = rest.unwrap_or(&word);
    let ends = [first, second].map(|name| {
        let name = letters(name);
        let stem = STEMS.iter().find_map(|stem| name.strip_prefix(stem));
        stem.map_or_else(|| name.clone(), str::to_owned)
    });
    match rest {
        rest if rest == ends[0] => Some(Better::First),
        rest if rest == ends[1] => Some(Better::Second),
        "a" | "first" | "left" => Some(Better::First),
        "b" | "second" | "right" => Some(Better::Second),
        _ => None,
    }
}
