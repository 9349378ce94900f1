//! Two answers and what says which of them is better, in the columns of published data sets.

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
    /// A name that ends with `a` or `b`, or a tie.
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
/// HelpSteer2's verdict; its prompts hold several turns.
const STRENGTH: &str = "preference_strength";

/// The reason for leaving out a row whose verdict is for neither answer.
pub(super) const TIE: &str = "a tie: neither answer is better";

/// All names that are read here.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    LAYOUTS
        .into_iter()
        .flat_map(|(first, second, verdict, _)| [first, second, verdict])
}

fn layout(columns: &Columns) -> Option<(&'static str, &'static str, &'static str, Verdict)> {
    let there = |name| columns.names().any(|known| known == name);
    if there("chosen") {
        return None;
    }
    LAYOUTS
        .into_iter()
        .find(|(first, _, verdict, _)| there(*verdict) && (there(*first) || *verdict == STRENGTH))
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
        Verdict::Named => {
            let letters = value.as_str().unwrap_or_default().chars();
            let letters = letters.filter(|letter| letter.is_alphanumeric());
            let word = letters.flat_map(char::to_lowercase).collect::<String>();
            match word.as_str() {
                "a" | "modela" | "responsea" => (true, None),
                "b" | "modelb" | "responseb" => (false, None),
                "bothbad" | "bothgood" | "draw" | "neither" | "both" => return Ok(None),
                tie if tie.starts_with("tie") => return Ok(None),
                _ => {
                    let value = shown(value);
                    return Err(format!(
                        "`{name}` is {value}, neither `model_a` nor `model_b` nor a tie"
                    ));
                }
            }
        }
    };
    let (better, worse) = if first_is_better {
        (first, second)
    } else {
        (second, first)
    };
    let pair = if name == STRENGTH {
        helpsteer::pair(columns, better, worse)?
    } else {
        let answer = |name: &str| {
            let value = columns.filled(name).ok_or_else(|| lacks(columns, name))?;
            Text::read(value, name)
        };
        between(columns, answer(better)?, answer(worse)?)?
    };
    Ok(Some(Compared { pair, strength }))
}
