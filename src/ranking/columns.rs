//! Which column holds what: named by the user, or guessed from the headers that public data sets use; and what the
//! values of an outcome column mean.

use std::path::Path;

use serde::Serialize;

use super::comparisons::Outcome;
use crate::error::{Error, Result};

/// Columns that the user named; the others are guessed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Column of the left item.
    pub left: Option<String>,
    /// Column of the right item.
    pub right: Option<String>,
    /// Column of the outcome.
    pub winner: Option<String>,
    /// Column of the weight.
    pub weight: Option<String>,
    /// Column of the group.
    pub group: Option<String>,
}

/// Columns that are read, by the names in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Columns {
    /// Column of the left item.
    pub left: String,
    /// Column of the right item.
    pub right: String,
    /// Column of the outcome; none where the left column holds winners and the right one losers.
    pub winner: Option<String>,
    /// Column of the weight; 1 without it.
    pub weight: Option<String>,
    /// Column of the group.
    pub group: Option<String>,
}

/// Headers of the two items, the most telling first. `model_x`, `model_y` may be numbers beside names in
/// `left`, `right`, so they come later.
const SIDES: [(&str, &str); 10] = [
    ("left", "right"),
    ("model_a", "model_b"),
    ("item_a", "item_b"),
    ("item_x", "item_y"),
    ("model_x", "model_y"),
    ("system_a", "system_b"),
    ("player_a", "player_b"),
    ("model_1", "model_2"),
    ("x", "y"),
    ("a", "b"),
];
/// Headers of items whose column says who won.
const WINNER_LOSER: (&str, &str) = ("winner", "loser");
const OUTCOMES: [&str; 7] = [
    "winner",
    "outcome",
    "preference",
    "preferred",
    "result",
    "judgment",
    "score",
];
/// Columns in which a number is the score of the left item. Elsewhere 0 and 1 may as well be the number of a side.
const SCORES: [&str; 2] = ["outcome", "score"];
const WEIGHTS: [&str; 2] = ["weight", "weights"];
const GROUPS: [&str; 7] = [
    "group",
    "question_id",
    "prompt_id",
    "prompt",
    "question",
    "instruction",
    "example_id",
];

const LEFT: [&str; 8] = [
    "left", "a", "x", "model_a", "model_x", "item_x", "first", "model_1",
];
const RIGHT: [&str; 8] = [
    "right", "b", "y", "model_b", "model_y", "item_y", "second", "model_2",
];
const TIE: [&str; 10] = [
    "tie",
    "draw",
    "tie (bothbad)",
    "bothbad",
    "both bad",
    "both_bad",
    "both good",
    "both_good",
    "equal",
    "same",
];

impl Columns {
    /// Finds the columns among the headers of `path`.
    pub fn find(path: &Path, headers: &[String], named: &Named) -> Result<Self> {
        let header = Headers { path, headers };
        for (number, name) in headers.iter().enumerate() {
            if headers[..number].contains(name) {
                return Err(Error::data_line(
                    path,
                    1,
                    format!("column `{name}` occurs twice"),
                ));
            }
        }
        let (left, right) = match (&named.left, &named.right) {
            (Some(left), Some(right)) => (header.exact(left)?, header.exact(right)?),
            (None, None) => header.sides()?,
            _ => {
                return Err(Error::config(
                    "`--left` and `--right` name a pair of columns: give both or neither",
                ));
            }
        };
        if left == right {
            return Err(Error::config(format!(
                "column `{left}` cannot hold both the left and the right item"
            )));
        }
        let taken = [left.as_str(), right.as_str()];
        let winner = header.optional(named.winner.as_deref(), &OUTCOMES, &taken)?;
        if winner.is_none() && !plain(&left).eq(WINNER_LOSER.0) {
            return Err(header
                .missing("column that says who won")
                .with_hint("name it with `--winner COLUMN`"));
        }
        let weight = header.optional(named.weight.as_deref(), &WEIGHTS, &taken)?;
        let group = header.optional(named.group.as_deref(), &GROUPS, &taken)?;
        Ok(Self {
            left,
            right,
            winner,
            weight,
            group,
        })
    }

    /// What a value of the outcome column says; else why it says nothing.
    pub(super) fn outcome(&self, value: &str, left: &str, right: &str) -> Result<Outcome, String> {
        let column = self.winner.as_deref().unwrap_or_default();
        let named = match value {
            value if value == left => Some(Outcome::Left),
            value if value == right => Some(Outcome::Right),
            _ => None,
        };
        match (named, self.word(value)) {
            (Some(name), Some(word)) if name != word => Err(format!(
                "`{value}` in column `{column}` is both the name of an item and a word for the other side"
            )),
            (Some(outcome), _) | (None, Some(outcome)) => Ok(outcome),
            (None, None) => Err(format!(
                "`{value}` in column `{column}` is not an outcome: expected `left`, `right` or `tie`, `model_a` or \
                 `model_b`, `a` or `b`, `x` or `y`, `draw`, or the name of the winner{}",
                if value.parse::<f64>().is_ok() {
                    " (1, 0 and 0.5 are read as the score of the left item where the column is called `outcome` or `score`)"
                } else {
                    ""
                }
            )),
        }
    }

    fn word(&self, value: &str) -> Option<Outcome> {
        let among = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(value));
        if among(&LEFT) || value == self.left {
            return Some(Outcome::Left);
        }
        if among(&RIGHT) || value == self.right {
            return Some(Outcome::Right);
        }
        if among(&TIE) {
            return Some(Outcome::Tie);
        }
        let column = plain(self.winner.as_deref()?);
        if !SCORES.contains(&column.as_str()) {
            return None;
        }
        let score: f64 = value.parse().ok()?;
        [Outcome::Left, Outcome::Right, Outcome::Tie]
            .into_iter()
            .find(|outcome| outcome.score().total_cmp(&score.abs()).is_eq())
    }
}

/// `Model A` and `model-a` are `model_a`.
fn plain(header: &str) -> String {
    header.trim().to_lowercase().replace([' ', '-'], "_")
}

struct Headers<'a> {
    path: &'a Path,
    headers: &'a [String],
}

impl Headers<'_> {
    fn exact(&self, name: &str) -> Result<String> {
        if self.headers.iter().any(|header| header == name) {
            return Ok(name.to_owned());
        }
        let near = self
            .headers
            .iter()
            .map(|header| (strsim::normalized_levenshtein(header, name), header))
            .filter(|(similarity, _)| *similarity >= 0.5)
            .max_by(|one, other| one.0.total_cmp(&other.0));
        let error = self.missing(&format!("column `{name}`"));
        Err(match near {
            Some((_, header)) => error.with_hint(format!("did you mean `{header}`?")),
            None => error,
        })
    }

    fn guess(&self, name: &str) -> Option<&String> {
        self.headers.iter().find(|header| plain(header) == name)
    }

    fn sides(&self) -> Result<(String, String)> {
        SIDES
            .iter()
            .chain([&WINNER_LOSER])
            .find_map(|(left, right)| Some((self.guess(left)?.clone(), self.guess(right)?.clone())))
            .ok_or_else(|| {
                self.missing("pair of item columns")
                    .with_hint("name them with `--left COLUMN --right COLUMN`")
            })
    }

    fn optional(
        &self,
        named: Option<&str>,
        known: &[&str],
        taken: &[&str],
    ) -> Result<Option<String>> {
        match named {
            Some(name) if taken.contains(&name) => Err(Error::config(format!(
                "column `{name}` cannot hold items and something else"
            ))),
            Some(name) => self.exact(name).map(Some),
            None => Ok(known
                .iter()
                .find_map(|name| self.guess(name))
                .filter(|name| !taken.contains(&name.as_str()))
                .cloned()),
        }
    }

    fn missing(&self, what: &str) -> Error {
        Error::data(
            self.path,
            format!("no {what} among its columns: {}", self.headers.join(", ")),
        )
    }
}
