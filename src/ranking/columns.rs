//! Which column holds what: named by the user, or guessed from the headers that public data sets use; and what the
//! values of an outcome column mean.

use std::path::Path;

use serde::Serialize;

use super::comparisons::Outcome;
use super::verdicts::STEMS;
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
    /// Column of the outcome; none where the left column holds winners and the right one losers, or `shares` are read.
    pub winner: Option<String>,
    /// Column of the outcome in the other order, as MT-Bench's `g2_winner`: a side wins where both say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_order: Option<String>,
    /// Columns of which each holds the share of one side, 1 and 0 where it is decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares: Option<Shares>,
    /// Column that says of a row whether it is a tie, beside the outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tie: Option<String>,
    /// Column of the weight; 1 without it.
    pub weight: Option<String>,
    /// Column of the group.
    pub group: Option<String>,
    /// Column of an outcome beside winners and losers, which may not contradict them.
    #[serde(skip)]
    pub(super) again: Option<String>,
}

/// Columns with the share of each side, as Kaggle's and LMSYS's `winner_model_a`, `winner_model_b`, `winner_tie`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shares {
    /// Column of the left item's share.
    pub left: String,
    /// Column of the right item's.
    pub right: String,
    /// Columns of ties.
    pub tie: Vec<String>,
}

/// Headers of the two items, plain, the most telling first. `model_x`, `model_y` may be numbers beside names in
/// `left`, `right`, so they come later.
const SIDES: [(&str, &str); 8] = [
    ("left", "right"),
    ("modela", "modelb"),
    ("itema", "itemb"),
    ("itemx", "itemy"),
    ("home", "away"),
    ("white", "black"),
    ("team", OPPONENT),
    ("player", OPPONENT),
];
/// The item against which the left one got its result.
const OPPONENT: &str = "opponent";
/// Letters, digits and words that tell the two items apart before or behind one of [`STEMS`].
const SUFFIXES: [(&str, &str); 7] = [
    ("a", "b"),
    ("x", "y"),
    ("1", "2"),
    ("left", "right"),
    ("first", "second"),
    ("one", "two"),
    ("0", "1"),
];
/// Of the words before a suffix those that stand for an item and not for what it said.
const ITEM_STEMS: usize = 16;
/// Headers of items whose column says who won.
const WINNER_LOSER: (&str, &str) = ("winner", "loser");
/// Headers of preference records with [`LABEL`], the share of the first one, as `preftune compare` and `train` know them.
const PREFERRED: (&str, &str) = ("chosen", "rejected");
const LABEL: &str = "label";
const OUTCOMES: [&str; 15] = [
    "winner",
    "outcome",
    "preference",
    "preferred",
    "result",
    "judgment",
    "judgement",
    "verdict",
    "winnermodel",
    "choice",
    "vote",
    "label",
    "score",
    STRENGTHS[0],
    STRENGTHS[1],
];
/// Outcomes that may stand beside winners and losers.
const AGAIN: [&str; 10] = [
    "outcome",
    "result",
    "score",
    "preference",
    "preferred",
    "judgment",
    "judgement",
    "verdict",
    "choice",
    "vote",
];
/// Outcomes of HelpSteer3 and HelpSteer2: numbers below 0 where the first item is better.
const STRENGTHS: [&str; 2] = ["overallpreference", "preferencestrength"];
/// Outcomes in both orders.
const BOTH_ORDERS: [&str; 2] = ["g1winner", "g2winner"];
const WEIGHTS: [&str; 5] = ["weight", "weights", "count", "counts", "times"];
/// Columns that say of a row whether it is a tie, whatever its outcome is.
const TIES: [&str; 4] = ["tie", "istie", "draw", "isdraw"];
const GROUPS: [&str; 7] = [
    "group",
    "questionid",
    "promptid",
    "prompt",
    "question",
    "instruction",
    "exampleid",
];

impl Columns {
    /// Finds the columns among the headers of `path`.
    pub fn find(path: &Path, headers: &[String], named: &Named) -> Result<Self> {
        let header = Headers { path, headers };
        for (number, name) in headers.iter().enumerate() {
            if !name.is_empty() && headers[..number].contains(name) {
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
        // Where a column holds winners, one called `score` says something else, or the same again.
        let is_said = plain(&left) == WINNER_LOSER.0;
        let again = if is_said {
            header.optional(None, &AGAIN, &taken)?
        } else {
            None
        };
        let is_labelled =
            (plain(&left), plain(&right)) == (PREFERRED.0.to_owned(), PREFERRED.1.to_owned());
        let known: &[&str] = match (is_said, is_labelled) {
            (true, _) => &[],
            (_, true) => &[LABEL],
            _ => &OUTCOMES,
        };
        let mut winner = header.optional(named.winner.as_deref(), known, &taken)?;
        let both = BOTH_ORDERS.map(|name| header.guess(name).cloned());
        let mut other_order = None;
        if let (None, [Some(first), Some(second)]) = (&winner, both) {
            (winner, other_order) = (Some(first), Some(second));
        }
        let shares = header.shares(&left, &right);
        // A column named by the user is what is meant; one called `score` or `label` may be of anything.
        let by_shares = shares.is_some()
            && named.winner.is_none()
            && winner
                .as_deref()
                .is_none_or(|winner| plain(winner) != "winner");
        if winner.is_none() && !by_shares && !is_said {
            let error = header.missing("column that says who won");
            return Err(match header.points(&left, &right) {
                Some([one, other]) => error.with_hint(format!(
                    "`{one}` and `{other}` look like the points of both: add a column `winner` that holds `{left}` or `{right}`, \
                     whichever has more, or `tie`"
                )),
                None => error.with_hint(format!("name it with `--winner COLUMN`{HEADLESS}")),
            });
        }
        let tie = header.optional(None, &TIES, &taken)?;
        let tie = tie.filter(|tie| !by_shares && winner.as_ref() != Some(tie));
        let weight = header.optional(named.weight.as_deref(), &WEIGHTS, &taken)?;
        let group = header.optional(named.group.as_deref(), &GROUPS, &taken)?;
        Ok(Self {
            left,
            right,
            winner: winner.filter(|_| !by_shares),
            other_order,
            shares: shares.filter(|_| by_shares),
            tie,
            weight,
            group,
            again: again.filter(|_| named.winner.is_none()),
        })
    }

    /// Names of all columns that are read, the items first.
    pub(super) fn wanted(&self) -> Vec<&String> {
        let shares = self.shares.iter();
        let shares =
            shares.flat_map(|shares| [&shares.left, &shares.right].into_iter().chain(&shares.tie));
        [&self.left, &self.right]
            .into_iter()
            .chain(&self.winner)
            .chain(&self.other_order)
            .chain(shares)
            .chain(&self.tie)
            .chain(&self.weight)
            .chain(&self.group)
            .chain(&self.again)
            .collect()
    }

    /// `true` if the right item is called the opponent of the left one, whose result a row then has.
    pub(super) fn has_opponent(&self) -> bool {
        plain(&self.right) == OPPONENT
    }

    /// `true` if the outcome is a number below 0 where the left item is better, as in HelpSteer.
    pub(super) fn are_strengths(&self) -> bool {
        let winner = self.winner.as_deref().map(plain);
        winner.is_some_and(|winner| STRENGTHS.contains(&winner.as_str()))
    }

    /// `true` if the outcome is the share of the left item.
    pub(super) fn are_shares(&self) -> bool {
        let winner = self.winner.as_deref().map(plain);
        plain(&self.left) == PREFERRED.0 && winner.as_deref() == Some(LABEL)
    }

    /// The side that a plain word stands for where the columns have words of their own.
    pub(super) fn own_words(&self, word: &str) -> Option<Outcome> {
        let (left, right) = (plain(&self.left), plain(&self.right));
        let words = [
            ("home", "away", ["h", "home"], ["a", "away"]),
            ("white", "black", ["w", "white"], ["b", "black"]),
        ];
        let (_, _, for_left, for_right) = words
            .into_iter()
            .find(|(one, two, _, _)| left.starts_with(one) && right.starts_with(two))?;
        let is_one_of = |words: [&str; 2]| {
            words
                .iter()
                .any(|known| word == *known || word.strip_suffix("wins") == Some(known))
        };
        match word {
            "d" | "x" => Some(Outcome::Tie),
            _ if is_one_of(for_left) => Some(Outcome::Left),
            _ if is_one_of(for_right) => Some(Outcome::Right),
            _ => None,
        }
    }
}

/// `Model A`, `model-a` and `modelA` are `modela`.
pub(super) fn plain(header: &str) -> String {
    let letters = header.chars().filter(|letter| letter.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// What to do about a table without names.
const HEADLESS: &str = "; where the first line is a comparison already, put a line of names before it: `left,right,winner`";
/// Words for what both sides got in a game.
const POINTS: [&str; 5] = ["score", "goals", "points", "pts", "runs"];

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
        let exact = self.headers.iter().find(|header| plain(header) == name);
        exact.or_else(|| {
            self.headers
                .iter()
                .find(|header| plain(header).strip_suffix("name") == Some(name))
        })
    }

    fn sides(&self) -> Result<(String, String)> {
        let stems = STEMS[..ITEM_STEMS].iter();
        let teams = [("hometeam", "awayteam"), ("whiteplayer", "blackplayer")];
        let suffixed = SUFFIXES.iter().flat_map(|(one, two)| {
            let stems = stems.clone();
            stems.flat_map(move |stem| {
                [
                    (format!("{stem}{one}"), format!("{stem}{two}")),
                    (format!("{one}{stem}"), format!("{two}{stem}")),
                ]
            })
        });
        let owned = |(one, two): (&str, &str)| (one.to_owned(), two.to_owned());
        SIDES
            .map(owned)
            .into_iter()
            .chain(teams.map(owned))
            .chain(suffixed)
            .chain([("x", "y"), ("a", "b"), WINNER_LOSER].map(owned))
            // Without a label such rows are texts, more often than not.
            .chain(self.guess(LABEL).map(|_| owned(PREFERRED)))
            .find_map(|(left, right)| {
                Some((self.guess(&left)?.clone(), self.guess(&right)?.clone()))
            })
            .ok_or_else(|| {
                self.missing("pair of item columns").with_hint(format!(
                    "name them with `--left COLUMN --right COLUMN`{HEADLESS}"
                ))
            })
    }

    /// Columns `winner_SIDE` for both sides, whatever these are called, and those of ties.
    fn shares(&self, left: &str, right: &str) -> Option<Shares> {
        let of = |column: &str, ends: &[&str]| {
            let own = plain(column);
            self.headers.iter().find(|header| {
                let header = plain(header);
                let side = header
                    .strip_prefix("winner")
                    .or(header.strip_suffix("wins"))
                    .or(header.strip_suffix("won"));
                side.is_some_and(|side| side == own || ends.contains(&side))
            })
        };
        let ties = self.headers.iter().filter(|header| {
            let header = plain(header);
            let tie = header.strip_prefix("winner").unwrap_or(&header);
            ["tie", "draw", "tiebothbad", "bothbad", "bothgood"].contains(&tie)
        });
        Some(Shares {
            left: of(left, &["a", "left", "1", "first"])?.clone(),
            right: of(right, &["b", "right", "2", "second"])?.clone(),
            tie: ties.cloned().collect(),
        })
    }

    /// Columns with the points of both sides, as `home_goals` and `away_goals`, or `score_a` and `score_b`.
    fn points(&self, left: &str, right: &str) -> Option<[&String; 2]> {
        let [left, right] = [left, right].map(plain);
        let own = [(left.as_str(), right.as_str())];
        let sides = own
            .into_iter()
            .chain([("home", "away"), ("white", "black")])
            .chain(SUFFIXES);
        let mut pairs = sides.flat_map(|(one, other)| {
            POINTS.iter().flat_map(move |word| {
                [
                    [format!("{word}{one}"), format!("{word}{other}")],
                    [format!("{one}{word}"), format!("{other}{word}")],
                ]
            })
        });
        pairs.find_map(|[one, other]| Some([self.guess(&one)?, self.guess(&other)?]))
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
