//! The meanings of values of an outcome column: names of items, words and codes for the sides, or numbers on one of
//! several scales. What a file leaves open is asked, not guessed.

use std::collections::HashMap;

use serde::Serialize;

use super::columns::{Columns, plain};
use super::comparisons::Outcome;
use super::verdicts::{Word, word};

/// Values that are reported one by one at most.
const REPORTED: usize = 16;
/// Different values whose meaning is kept at most.
const KEPT: usize = 1 << 16;

/// How the values of an outcome column are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Values {
    /// The winner's name.
    Names,
    /// A word for the side that won.
    Sides,
    /// What the left item got: W, D or L.
    Result,
    /// A number: what the left item scored, 1 a win, 0 a loss, in between a share.
    Score,
    /// A number: 1 the left item won, -1 the right one, 0 neither.
    Sign,
    /// A number: which item won, counted from 0; 2 is a tie.
    Index,
    /// A number: which item won, counted from 1; 1.5 and 0 are ties, in between is a share of the second.
    Number,
    /// A number: the left item won below 0, the right one above, 0 is a tie. How far from 0 it is does not count.
    Strength,
    /// As [`Self::Strength`]; the number says for how many games it counts.
    Games,
}

impl Values {
    fn is_scale(self) -> bool {
        !matches!(self, Self::Names | Self::Sides | Self::Result)
    }

    /// The left item's share of the game; none where the scale has no such number.
    fn share(self, number: f64) -> Option<f64> {
        let is_zero = number.abs().total_cmp(&0.0).is_eq();
        let share = match self {
            Self::Strength | Self::Games | Self::Number if is_zero => 0.5,
            Self::Strength | Self::Games => f64::from(u8::from(number < 0.0)),
            Self::Names | Self::Sides | Self::Result => return None,
            Self::Score => number,
            Self::Sign => f64::midpoint(number, 1.0),
            Self::Index if number.total_cmp(&2.0).is_eq() => 0.5,
            Self::Index => 1.0 - number,
            Self::Number => 2.0 - number,
        };
        (0.0..=1.0).contains(&share).then_some(share)
    }
}

/// The result that one row states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Said {
    /// One result, and how many games it counts for.
    Decided(Outcome, f64),
    /// Shares of the game of the left item, the right one and neither; they add up to 1.
    Shared([f64; 3]),
    /// It cannot be told before the whole column is known.
    Open,
}

impl Said {
    /// A result where one of the shares is the whole game.
    pub(super) fn of_shares(shares: [f64; 3]) -> Self {
        let sides = [Outcome::Left, Outcome::Right, Outcome::Tie];
        let whole = shares.iter().position(|share| *share >= 1.0);
        match whole {
            Some(side) => Self::Decided(sides[side], 1.0),
            None => Self::Shared(shares),
        }
    }
}

/// The findings about a column after some of its rows.
#[derive(Default)]
pub(super) struct Survey {
    words: HashMap<String, Word>,
    /// Values with what they meant and how often; in the order in which they were met.
    met: Vec<Met>,
    /// Rows in which the value is the name of an item, and a word for the other side or a number.
    doubtful: u64,
    /// Of these, rows in which it is the very word that the columns' own names give to a side.
    own_word: u64,
    /// Rows with a name that is no word, and with a word for a side or a number that is no name.
    names: u64,
    words_alone: u64,
    /// Rows of numbers that are no names, by [`Range`].
    numbers: [u64; 9],
    /// The same of numbers that are names too.
    doubtful_numbers: [u64; 9],
}

/// A number's place on the known scales.
#[derive(Clone, Copy)]
enum Range {
    MinusOne,
    Negative,
    Zero,
    Share,
    One,
    AboveOne,
    Two,
    Other,
    Below,
}

impl Range {
    fn classify(number: f64) -> Self {
        let is = |value: f64| number.total_cmp(&value).is_eq();
        match number {
            _ if is(-1.0) => Self::MinusOne,
            _ if is(0.0) || is(-0.0) => Self::Zero,
            _ if is(1.0) => Self::One,
            _ if is(2.0) => Self::Two,
            _ if number > -1.0 && number < 0.0 => Self::Negative,
            _ if number > 0.0 && number < 1.0 => Self::Share,
            _ if number > 1.0 && number < 2.0 => Self::AboveOne,
            _ if number < -1.0 => Self::Below,
            _ => Self::Other,
        }
    }
}

struct Met {
    value: String,
    means: Means,
    rows: u64,
    games: f64,
}

/// The result that a value was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Means {
    /// The left item won.
    Left,
    /// The right item won.
    Right,
    /// Neither did.
    Tie,
    /// Each has a share.
    Share,
}

impl Means {
    fn read(said: Said) -> Option<Self> {
        Some(match said {
            Said::Decided(Outcome::Left, _) => Self::Left,
            Said::Decided(Outcome::Right, _) => Self::Right,
            Said::Decided(Outcome::Tie, _) => Self::Tie,
            Said::Shared(_) => Self::Share,
            Said::Open => return None,
        })
    }
}

/// A value of the outcome column and how it was read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Meaning {
    /// The value as written.
    pub value: String,
    /// The result that it was taken for.
    pub means: Means,
    /// Rows that have it.
    pub rows: u64,
    /// Games that each of these rows counts for, before its weight.
    pub games: f64,
}

/// How the names, words and numbers of a column are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    /// `true` if a value that could be both is the name of an item, `false` if it is a word.
    names: Option<bool>,
    /// The scale of numbers.
    scale: Option<Values>,
    /// The reading that the user asked for: then nothing else is read.
    asked: Option<Values>,
}

impl Rule {
    /// The rule of a flag, or none yet.
    pub(super) fn new(asked: Option<Values>) -> Self {
        Self {
            names: asked.map(|values| values == Values::Names),
            scale: asked.filter(|values| values.is_scale()),
            asked,
        }
    }

    /// `true` if outcomes are numbers.
    pub(super) fn is_scale(self) -> bool {
        self.scale.is_some()
    }

    /// The result that `value` states for these two items; else the reason why it states none.
    pub(super) fn read(
        self,
        columns: &Columns,
        survey: &mut Survey,
        value: &str,
        [left, right]: [&str; 2],
    ) -> Result<Said, Fault> {
        let named = match value {
            _ if value.is_empty() => None,
            value if value == left => Some(Outcome::Left),
            value if value == right => Some(Outcome::Right),
            _ => None,
        };
        let word = match survey.word(columns, value) {
            Word::Got(outcome) if self.is_result(columns) => Word::Side(outcome, 1.0),
            word => word,
        };
        let said = match (named, word) {
            (Some(name), Word::Side(side, _)) if name == side => Said::Decided(name, 1.0),
            (Some(name), Word::Side(..) | Word::Number(_)) => {
                survey.doubtful += 1;
                survey.own_word += u64::from(is_own_word(columns, value));
                if let Word::Number(number) = word {
                    survey.doubtful_numbers[Range::classify(number) as usize] += 1;
                }
                match self.names {
                    None => Said::Open,
                    Some(true) => Said::Decided(name, 1.0),
                    Some(false) => self
                        .word(word)
                        .ok_or_else(|| self.unknown(columns, value))?,
                }
            }
            (Some(name), _) => {
                survey.names += 1;
                Said::Decided(name, 1.0)
            }
            (None, Word::Nothing) => return Err(Fault::Empty),
            (None, Word::Unknown | Word::Got(_)) => return Err(self.unknown(columns, value)),
            (None, Word::Side(Outcome::Tie, games)) => Said::Decided(Outcome::Tie, games),
            (None, word) => {
                survey.words_alone += 1;
                if let Word::Number(number) = word {
                    survey.numbers[Range::classify(number) as usize] += 1;
                }
                match (word, self.asked, self.scale) {
                    (_, Some(Values::Names), _) => return Err(self.unknown(columns, value)),
                    (Word::Number(_), _, None) => Said::Open,
                    _ => self
                        .word(word)
                        .ok_or_else(|| self.unknown(columns, value))?,
                }
            }
        };
        survey.meet(value, said, named.is_some());
        Ok(said)
    }

    fn word(self, word: Word) -> Option<Said> {
        match word {
            Word::Side(outcome, games) => Some(Said::Decided(outcome, games)),
            Word::Number(number) => {
                let scale = self.scale?;
                let share = scale.share(number)?;
                let half = share.total_cmp(&0.5).is_eq();
                Some(if half {
                    Said::Decided(Outcome::Tie, 1.0)
                } else if scale == Values::Games {
                    let left = share > 0.5;
                    let side = if left { Outcome::Left } else { Outcome::Right };
                    Said::Decided(side, number.abs())
                } else {
                    Said::of_shares([share, 1.0 - share, 0.0])
                })
            }
            Word::Nothing | Word::Unknown | Word::Got(_) => None,
        }
    }

    /// `true` if words for what an item got are those of the left one.
    fn is_result(self, columns: &Columns) -> bool {
        self.asked == Some(Values::Result) || self.asked.is_none() && columns.has_opponent()
    }

    fn unknown(self, columns: &Columns, value: &str) -> Fault {
        let column = columns.winner.as_deref().unwrap_or_default();
        if self.asked.is_none() && matches!(word(columns, value), Word::Got(_)) {
            let (left, right) = (&columns.left, &columns.right);
            return Fault::Unknown(format!(
                "`{value}` in column `{column}` says what one item got, and not which: where it is that of `{left}`, say so by \
                 `--winner-is result`, and where it is that of `{right}`, exchange `--left` and `--right` too"
            ));
        }
        let expected = match self.asked {
            Some(Values::Names) => "the name of one of the two items",
            Some(Values::Result) => "W, D or L, what the left item got",
            Some(Values::Score) => "a number from 0 to 1, what the left item scored",
            Some(Values::Sign) => "a number from -1 to 1",
            Some(Values::Index) => "0, 1, or 2 for a tie",
            Some(Values::Number) => "1, 2, or 1.5 for a tie",
            Some(Values::Strength | Values::Games) => "a number",
            Some(Values::Sides) | None => {
                "`left`, `right` or `tie`, `model_a` or `model_b`, `a` or `b`, `x` or `y`, `A>B`, `draw`, a number, or \
                 the name of the winner"
            }
        };
        Fault::Unknown(format!(
            "`{value}` in column `{column}` is not an outcome: expected {expected}"
        ))
    }
}

/// Why a value says nothing.
pub(super) enum Fault {
    Empty,
    Unknown(String),
}

impl Survey {
    fn word(&mut self, columns: &Columns, value: &str) -> Word {
        if let Some(word) = self.words.get(value) {
            return *word;
        }
        let word = word(columns, value);
        if self.words.len() < KEPT {
            self.words.insert(value.to_owned(), word);
        }
        word
    }

    fn meet(&mut self, value: &str, said: Said, name: bool) {
        let Some(means) = Means::read(said).filter(|_| !name) else {
            return;
        };
        let games = match said {
            Said::Decided(_, games) => games,
            _ => 1.0,
        };
        match self.met.iter().position(|met| met.value == value) {
            Some(place) => self.met[place].rows += 1,
            None if self.met.len() < REPORTED => self.met.push(Met {
                value: value.to_owned(),
                means,
                rows: 1,
                games,
            }),
            None => {}
        }
    }

    /// The values that are words or numbers, the most frequent first; up to sixteen.
    pub(super) fn meanings(&self) -> Vec<Meaning> {
        let meaning = |met: &Met| Meaning {
            value: met.value.clone(),
            means: met.means,
            rows: met.rows,
            games: met.games,
        };
        let mut meanings: Vec<Meaning> = self.met.iter().map(meaning).collect();
        meanings.sort_by_key(|meaning| std::cmp::Reverse(meaning.rows));
        meanings
    }

    /// How the column was read: names where there is nothing else.
    pub(super) fn values(&self, rule: Rule) -> Values {
        match rule.scale {
            Some(scale) => scale,
            None if rule.asked == Some(Values::Result) => Values::Result,
            None if self.words_alone > 0 => Values::Sides,
            None if self.names + self.doubtful > 0 => Values::Names,
            None => Values::Sides,
        }
    }

    /// The rule for a column that has been read with `rule`: the same where it left nothing open.
    ///
    /// # Errors
    /// The question that is open, with the readings that are possible.
    pub(super) fn decide(&self, rule: Rule, columns: &Columns) -> Result<Rule, Open> {
        let mut decided = rule;
        if self.doubtful > 0 && rule.names.is_none() {
            decided.names = Some(match (self.names, self.words_alone) {
                (names, 0) if names > 0 || self.own_word == 0 => true,
                // One odd word among names must not turn all the others round.
                (0, alone) if alone >= self.doubtful => false,
                _ => return Err(Open::NamesOrSides),
            });
        }
        let mut numbers = self.numbers;
        if decided.names == Some(false) {
            for (all, doubtful) in numbers.iter_mut().zip(self.doubtful_numbers) {
                *all += doubtful;
            }
        }
        if numbers.iter().sum::<u64>() > 0 && rule.scale.is_none() {
            decided.scale = Some(scale(columns, numbers)?);
        }
        Ok(decided)
    }
}

/// The scale that numbers are on, by how often each [`Range`] occurs.
fn scale(columns: &Columns, numbers: [u64; 9]) -> Result<Values, Open> {
    if columns.are_strengths() {
        return Ok(Values::Strength);
    }
    if columns.are_shares() {
        return Ok(Values::Score);
    }
    let rows = |range: Range| numbers[range as usize];
    let beyond = [Range::Below, Range::AboveOne, Range::Two, Range::Other];
    let beyond: u64 = beyond.into_iter().map(rows).sum();
    let below_zero = [Range::Below, Range::MinusOne, Range::Negative];
    if beyond > 0 && below_zero.into_iter().map(rows).sum::<u64>() > 0 {
        return Err(Open::Signed { beyond });
    }
    let negative = rows(Range::MinusOne) + rows(Range::Negative) > 0;
    let share = rows(Range::Share) > 0;
    let above = rows(Range::AboveOne) + rows(Range::Two) > 0;
    let (zero, one) = (rows(Range::Zero), rows(Range::One));
    let open = |zero_to_two| Open::Scale {
        zero,
        one,
        two: rows(Range::Two),
        others: numbers.iter().sum::<u64>() - zero - one - rows(Range::Two),
        zero_to_two,
    };
    match (negative, share, above) {
        (true, _, false) => Ok(Values::Sign),
        (false, true, false) => Ok(Values::Score),
        (false, false, true) if zero == 0 => Ok(Values::Number),
        // AlpacaEval's first files have 0 for a draw.
        (false, false, true) if rows(Range::AboveOne) > 0 || counts_from(columns, "1", "2") => {
            Ok(Values::Number)
        }
        (false, false, true) => Err(open(true)),
        (false, false, false) if counts_from(columns, "0", "1") => Ok(Values::Index),
        (false, false, false) if zero == 0 && counts_from(columns, "1", "2") => Ok(Values::Number),
        _ => Err(open(above)),
    }
}

/// A question that a column leaves open.
pub(super) enum Open {
    /// Values are names of items and words for sides, and the two disagree.
    NamesOrSides,
    /// Numbers could be on several scales: rows with 0, 1, 2 and others.
    Scale {
        zero: u64,
        one: u64,
        two: u64,
        others: u64,
        zero_to_two: bool,
    },
    /// Numbers on both sides of 0 and beyond 1 say by how much, and not for whom.
    Signed { beyond: u64 },
}

impl Open {
    /// The question in words, and how to settle it.
    pub(super) fn in_words(&self, columns: &Columns) -> (String, String) {
        let column = columns.winner.as_deref().unwrap_or_default();
        let (left, right) = (&columns.left, &columns.right);
        match self {
            Self::NamesOrSides => (
                format!(
                    "values of column `{column}` are names of items and words for a side, and the two disagree"
                ),
                "say which with `--winner-is names` or `--winner-is sides`".to_owned(),
            ),
            Self::Signed { beyond } => (
                format!(
                    "column `{column}` holds numbers on both sides of 0, {beyond} of them beyond 1, and nothing says which \
                     item they are for"
                ),
                format!(
                    "say which: `--winner-is strength` (below 0: `{left}` won, above 0: `{right}`, as in HelpSteer), \
                     `--winner-is games` (the same, and 3 counts three games); where it is the other way round, exchange \
                     `--left` and `--right`"
                ),
            ),
            Self::Scale {
                zero,
                one,
                two,
                others,
                zero_to_two,
            } => {
                let listed: Vec<String> = [
                    ("`0`", zero),
                    ("`1`", one),
                    ("`2`", two),
                    ("others", others),
                ]
                .into_iter()
                .filter(|(_, rows)| **rows > 0)
                .map(|(value, rows)| format!("{value} in {rows}"))
                .collect();
                let problem = format!(
                    "column `{column}` holds numbers ({}), and nothing says which item they mean",
                    listed.join(", ")
                );
                if *others > 0 {
                    let hint = "where it holds points, name a column that says who won by `--winner`, or \
                                take points of 0 to 1, the left item's share of the win";
                    return (problem, hint.to_owned());
                }
                let mut ways = Vec::new();
                if !zero_to_two {
                    ways.push(format!(
                        "`--winner-is score` (1: `{left}` won, 0: `{right}`)"
                    ));
                }
                let tie = if *zero_to_two { ", 2: tie" } else { "" };
                ways.push(format!(
                    "`--winner-is index` (0: `{left}` won, 1: `{right}`{tie})"
                ));
                if *zero_to_two || *zero == 0 {
                    let tie = if *zero > 0 { ", 0: tie" } else { "" };
                    ways.push(format!(
                        "`--winner-is number` (1: `{left}` won, 2: `{right}`{tie})"
                    ));
                }
                if *zero > 0 && *one > 0 && !zero_to_two {
                    ways.push("`--winner-is sign` (1: left, 0: tie, -1: right)".to_owned());
                }
                (problem, format!("say which: {}", ways.join(", ")))
            }
        }
    }
}

/// `true` if the columns of the items end in these two digits.
fn counts_from(columns: &Columns, first: &str, second: &str) -> bool {
    plain(&columns.left).ends_with(first) && plain(&columns.right).ends_with(second)
}

/// `true` if the names of the item columns call a side by this value: `a` beside `model_a` and `model_b`.
fn is_own_word(columns: &Columns, value: &str) -> bool {
    let value = plain(value);
    !value.is_empty()
        && [&columns.left, &columns.right]
            .iter()
            .any(|column| plain(column).ends_with(&value))
}
