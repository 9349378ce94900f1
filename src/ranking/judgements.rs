//! Judgements of match-ups as they are kept in a file, one JSON object a line: each match-up is judged in both orders,
//! and only what holds in both is a win.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::columns::Columns;
use super::comparisons::{Builder, Comparisons, Keep, Outcome};
use crate::data::json_lines::{JsonLines, text_of};
use crate::error::{Error, Result};

/// The fields of a line.
const FIELDS: [&str; 5] = ["left", "right", "winner", "judge", "group"];

/// How kept judgements are read, in words.
pub(super) const IN_WORDS: &str = "the rows are judgements as `rank --pairs` keeps them: both orders of a match-up are one \
     comparison, which counts where they agree and is a tie where they do not (name `--left`, `--right` and `--winner` to \
     take each row for a comparison)";

/// One judge's verdict on two items in one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The question that was asked, where items answer different questions.
    pub group: Option<String>,
    /// The item that was shown first.
    pub left: String,
    /// The other.
    pub right: String,
    /// Which is better.
    pub outcome: Outcome,
    /// Who says so.
    pub judge: String,
}

/// How far judgements depend on the order in which items were shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Consistency {
    /// Judgements in all.
    pub judgements: usize,
    /// Match-ups that were judged in both orders.
    pub both_orders: usize,
    /// Of these, the ones in which another item won when the order changed. They count as ties.
    pub flips: usize,
    /// Share of flips.
    pub flip_rate: Option<f64>,
    /// Share of judgements without ties in which the item that was shown first won; one half is without bias.
    pub first_wins: Option<f64>,
}

impl Consistency {
    /// Nothing is left to rank by once flips count as ties.
    fn only_flips(&self, path: &Path) -> Error {
        let share = self.first_wins.unwrap_or_default();
        Error::data(
            path,
            format!(
                "every comparison is a tie: in {} of {} match-ups the judge's answer turned with the order, and the item \
                 that was shown first won {:.1} % of its judgements; there is nothing to rank by",
                self.flips,
                self.both_orders,
                100.0 * share
            ),
        )
        .with_hint("the judge goes by the place and not by the items: look at its prompt and at how its answer is read")
    }
}

impl Judgement {
    /// The line that keeps it.
    pub fn to_line(&self) -> String {
        let winner = match self.outcome {
            Outcome::Left => "left",
            Outcome::Right => "right",
            Outcome::Tie => "tie",
        };
        let mut line = json!({
            "left": self.left, "right": self.right, "winner": winner, "judge": self.judge
        });
        if let Some(group) = &self.group {
            line["group"] = json!(group);
        }
        line.to_string() + "\n"
    }

    fn parse(object: &Map<String, Value>) -> Result<Self, String> {
        let text = |key: &str| text_of(object, key);
        let winner = text("winner")?;
        let (left, right) = (text("left")?, text("right")?);
        if left == right {
            return Err(format!("`{left}` is compared with itself"));
        }
        Ok(Self {
            group: object.get("group").map(|_| text("group")).transpose()?,
            left,
            right,
            outcome: outcome(&winner, ["left", "right"])?,
            judge: text("judge")?,
        })
    }

    /// The key that a judgement shares with the match-up that it answers.
    pub fn key(&self) -> (Option<&str>, &str, &str) {
        (self.group.as_deref(), &self.left, &self.right)
    }
}

/// `tie`, or one of the two words for the sides.
///
/// # Errors
/// A sentence on any other word.
pub fn outcome(word: &str, sides: [&str; 2]) -> Result<Outcome, String> {
    match word {
        "tie" => Ok(Outcome::Tie),
        word if word == sides[0] => Ok(Outcome::Left),
        word if word == sides[1] => Ok(Outcome::Right),
        _ => Err(format!(
            "`winner` is `{word}`, not `{}`, `{}` or `tie`",
            sides[0], sides[1]
        )),
    }
}

/// Reads a file of judgements.
///
/// # Errors
/// With the line: something is missing, or not of its kind.
pub fn read(path: &Path) -> Result<Vec<Judgement>> {
    let rows = JsonLines::open(path)?.map(|row| {
        let (line, object) = row?;
        Judgement::parse(&object).map_err(|problem| Error::data_line(path, line, problem))
    });
    rows.collect()
}

/// The judgements of a file where its first row is one that [`Judgement::to_line`] has written; `None` of other files.
///
/// # Errors
/// With the line: a later row is none.
pub(super) fn kept(path: &Path) -> Result<Option<Vec<Judgement>>> {
    // What is no file can be read but once.
    let first = path.is_file().then(|| JsonLines::open(path).ok()?.next());
    let is_kept = |object: &Map<String, Value>| {
        object.keys().all(|name| FIELDS.contains(&name.as_str()))
            && Judgement::parse(object).is_ok()
    };
    match first.flatten() {
        Some(Ok((_, object))) if is_kept(&object) => read(path).map(Some),
        _ => Ok(None),
    }
}

/// One comparison for each match-up of a judge: the winner where both orders agree or there is but one, else a tie.
///
/// # Errors
/// Nothing is left to rank by; the error names `path`, where the judgements are kept.
pub fn combine(
    path: &Path,
    judgements: &[Judgement],
    keep: Keep,
) -> Result<(Comparisons, Consistency)> {
    let mut consistency = Consistency {
        judgements: judgements.len(),
        ..Consistency::default()
    };
    let mut builder = Builder::new(keep);
    let mut firsts: HashMap<_, Vec<usize>> = HashMap::new();
    let mut other: Vec<Option<Outcome>> = vec![None; judgements.len()];
    let mut second = vec![false; judgements.len()];
    for (place, judgement) in judgements.iter().enumerate() {
        let (group, left, right) = judgement.key();
        // The first judgement of the reverse order that waits for its other half.
        let judge = judgement.judge.as_str();
        let reverse = (judge, group, right, left);
        let waiting = firsts.get_mut(&reverse).and_then(Vec::pop);
        if let Some(first) = waiting {
            other[first] = Some(judgement.outcome.flipped());
            second[place] = true;
        } else {
            let order = (judge, group, left, right);
            firsts.entry(order).or_default().push(place);
        }
    }
    let (mut decided, mut first_wins) = (0, 0);
    for (place, judgement) in judgements.iter().enumerate() {
        decided += usize::from(judgement.outcome != Outcome::Tie);
        first_wins += usize::from(judgement.outcome == Outcome::Left);
        if second[place] {
            continue;
        }
        let outcome = match other[place] {
            Some(other) => {
                consistency.both_orders += 1;
                consistency.flips +=
                    usize::from(other == judgement.outcome.flipped() && other != Outcome::Tie);
                if other == judgement.outcome {
                    other
                } else {
                    Outcome::Tie
                }
            }
            None => judgement.outcome,
        };
        let group = judgement.group.as_deref();
        builder.add(&judgement.left, &judgement.right, outcome, 1.0, group);
    }
    let share = |part: usize, of: usize| (of > 0).then(|| part as f64 / of as f64);
    consistency.flip_rate = share(consistency.flips, consistency.both_orders);
    consistency.first_wins = share(first_wins, decided);
    let grouped = judgements.iter().any(|judgement| judgement.group.is_some());
    let columns = Columns {
        left: "left".to_owned(),
        right: "right".to_owned(),
        winner: Some("winner".to_owned()),
        other_order: None,
        shares: None,
        tie: None,
        weight: None,
        group: grouped.then(|| "group".to_owned()),
        again: None,
    };
    let comparisons = builder.finish(columns);
    if comparisons.games.is_empty() {
        return Err(Error::data(path, "there are no judgements in it"));
    }
    if comparisons.are_ties() && consistency.flips > 0 {
        return Err(consistency.only_flips(path));
    }
    Ok((comparisons, consistency))
}
