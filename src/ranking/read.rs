//! Reads comparisons from tables of any kind, one row at a time, and says how it read them: which columns, what their
//! values mean, which rows are left out and why.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::columns::{Columns, Named};
use super::comparisons::{Builder, Comparisons, Keep, Outcome};
use super::games::{self, games};
use super::judgements::{self, Judgement};
use super::outcomes::{Fault, Meaning, Rule, Said, Survey, Values};
use super::verdicts::{Word, word};
use crate::data::cells::{Place, Rows, visit};
use crate::error::{Error, Result};

/// How far the shares of a row may be from adding up to 1.
const ROUNDING: f64 = 0.02;

/// The treatment of rows that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Invalid {
    /// They are left out and counted; one in ten is an error.
    #[default]
    Few,
    /// They are left out and counted, however many they are.
    Drop,
    /// The first one is an error.
    Error,
}

/// The user's statements about a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Names of columns.
    pub named: Named,
    /// How outcomes are written.
    pub values: Option<Values>,
    /// The treatment of rows that cannot be used.
    pub invalid: Invalid,
}

/// How the rows of a file were understood.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reading {
    /// How the outcome column was read; none where there is no single one.
    pub values: Option<Values>,
    /// Words, codes and numbers with what they were taken for, the most frequent first, up to sixteen.
    pub outcomes: Vec<Meaning>,
    /// Rows that the left item won.
    pub left_won: u64,
    /// Rows that the right item won.
    pub right_won: u64,
    /// Rows that neither won.
    pub ties: u64,
    /// Rows of which each has a share.
    pub shares: u64,
    /// Rows whose two orders disagree, which count as ties; none where rows have one order.
    pub flips: Option<u64>,
    /// A sentence on rows that hold several comparisons.
    pub layout: Option<&'static str>,
    /// Columns of the file that are not used.
    pub unused: Vec<String>,
    /// Rows left out, by reason, the most frequent first.
    pub dropped: Vec<Dropped>,
}

/// Rows left out for one reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dropped {
    /// The reason, without an example.
    pub reason: &'static str,
    /// How many rows.
    pub rows: u64,
    /// Where the first one is and what is wrong with it.
    pub example: String,
}

impl Reading {
    /// How many rows are left out.
    pub fn left_out(&self) -> u64 {
        self.dropped.iter().map(|dropped| dropped.rows).sum()
    }
}

/// Reads all comparisons of a file: CSV, TSV and other delimited text, JSON lines, a JSON array (these also compressed
/// by gzip) or Parquet.
///
/// A file of judgements that `rank --pairs` has kept is read as there, unless its columns are named: both orders of a match-up
/// are one comparison.
///
/// Rows that cannot be used are an item against itself, an empty name, an outcome that is none, a weight that is not a
/// positive number, a row of another length, text that is not UTF-8.
///
/// # Errors
/// A file without comparisons or with a column twice, outcomes that can be read in two ways, or rows that cannot be
/// used, where [`Asked::invalid`] makes these an error.
pub fn read(path: &Path, asked: &Asked, keep: Keep) -> Result<Comparisons> {
    if asked.takes_kept()
        && let Some(kept) = judgements::kept(path)?
    {
        return of_kept(path, &kept, keep);
    }
    let mut rule = Rule::new(asked.values);
    loop {
        let mut pass = Pass::new(path, asked, rule, keep);
        visit(path, &mut pass)?;
        let decided = pass.decide()?;
        if decided == rule {
            return pass.finish();
        }
        // Values whose meaning the whole column decides were passed over: they are read now that it is known.
        rule = decided;
    }
}

impl Asked {
    /// `true` if a file of kept judgements is read as such: nothing says that each row is a comparison.
    fn takes_kept(&self) -> bool {
        let Named {
            left,
            right,
            winner,
            weight,
            group: _,
        } = &self.named;
        [left, right, winner, weight]
            .iter()
            .all(|name| name.is_none())
            && self.values.is_none_or(|values| values == Values::Sides)
    }
}

/// Judgements that were kept, as comparisons.
fn of_kept(path: &Path, judgements: &[Judgement], keep: Keep) -> Result<Comparisons> {
    let (mut comparisons, consistency) = judgements::combine(path, judgements, keep)?;
    let count = |outcome: Outcome| {
        let those = judgements.iter().filter(|one| one.outcome == outcome);
        those.count() as u64
    };
    comparisons.reading = Some(Reading {
        values: Some(Values::Sides),
        left_won: count(Outcome::Left),
        right_won: count(Outcome::Right),
        ties: count(Outcome::Tie),
        flips: Some(consistency.flips as u64),
        layout: Some(judgements::IN_WORDS),
        ..Reading::default()
    });
    Ok(comparisons)
}

/// One way through the file.
struct Pass<'a> {
    path: &'a Path,
    asked: &'a Asked,
    rule: Rule,
    keep: Keep,
    columns: Option<Columns>,
    /// Places in a row of what it may hold.
    places: Places,
    builder: Builder,
    survey: Survey,
    tally: Reading,
    again: Again,
}

/// Places of the wanted cells; the items are the first two.
#[derive(Default)]
struct Places {
    winner: Option<usize>,
    other_order: Option<usize>,
    shares: Option<[usize; 2]>,
    ties: Vec<usize>,
    tie: Option<usize>,
    weight: Option<usize>,
    group: Option<usize>,
    again: Option<usize>,
}

/// A column of outcomes beside those of winners and losers.
#[derive(Default)]
struct Again {
    /// The first row that says otherwise in words.
    against: Option<String>,
    /// The first row whose number says otherwise, if numbers are outcomes.
    against_by_number: Option<String>,
    /// `true` if numbers are none: there are others than those of a win, a tie and a loss.
    are_other: bool,
}

impl Again {
    /// Compares a value with a row whose winner is on the left.
    fn add(&mut self, columns: &Columns, value: &str, [left, right]: [&str; 2], place: Place) {
        let is = |number: f64, other: f64| (number - other).abs() < f64::EPSILON;
        let column = columns.again.as_deref().unwrap_or_default();
        let problem = || {
            format!(
                "{place}: `{value}` in column `{column}` is not that `{left}` won against `{right}`"
            )
        };
        match word(columns, value) {
            _ if value == left => {}
            Word::Number(number) if value != right => {
                if [0.0, 0.5, -1.0].iter().any(|end| is(number, *end)) {
                    self.against_by_number.get_or_insert_with(problem);
                }
                self.are_other |= ![1.0, 0.0, 0.5, -1.0].iter().any(|end| is(number, *end));
            }
            Word::Side(Outcome::Right | Outcome::Tie, _)
            | Word::Got(Outcome::Right | Outcome::Tie) => {
                self.against.get_or_insert_with(problem);
            }
            _ if value == right => {
                self.against.get_or_insert_with(problem);
            }
            _ => {}
        }
    }

    /// The first row that contradicts its winner.
    fn contradiction(self) -> Option<String> {
        self.against
            .or(self.against_by_number.filter(|_| !self.are_other))
    }
}

/// `true` of the cell of a row that is a tie.
fn is_yes(text: &str) -> Result<bool, Fail> {
    match text.to_lowercase().as_str() {
        "1" | "1.0" | "true" | "yes" | "tie" | "draw" => Ok(true),
        "" | "0" | "0.0" | "false" | "no" => Ok(false),
        _ => Err((
            "ties that are neither yes nor no",
            format!("`{text}` does not say whether the row is a tie"),
        )),
    }
}

/// A number, also with the decimal comma of some spreadsheets.
fn decimal(text: &str) -> Option<f64> {
    let is_comma = text.matches(',').count() == 1 && !text.contains('.');
    let text = if is_comma {
        &*text.replace(',', ".")
    } else {
        text
    };
    text.parse().ok()
}

/// The reason of rows that are not of the table at all.
const NO_ROW: &str = "rows that are not of the table";

/// Why a row is left out: the kind of reason, and what is wrong with this one.
type Fail = (&'static str, String);

impl Rows for Pass<'_> {
    fn unfold(&mut self, object: &Map<String, Value>) -> Option<Vec<Map<String, Value>>> {
        let unfolded = games(object)?;
        self.tally.layout = Some(games::IN_WORDS);
        Some(unfolded)
    }

    fn choose(&mut self, names: &[String]) -> Result<Vec<usize>> {
        let columns = Columns::find(self.path, names, &self.asked.named)?;
        let wanted = columns.wanted();
        let at = |name: &String| wanted.iter().position(|known| *known == name);
        let shares = columns.shares.as_ref();
        let ties = shares.map_or_else(Vec::new, |shares| shares.tie.iter().collect());
        self.places = Places {
            winner: columns.winner.as_ref().and_then(at),
            other_order: columns.other_order.as_ref().and_then(at),
            shares: shares.and_then(|shares| Some([at(&shares.left)?, at(&shares.right)?])),
            ties: ties.into_iter().filter_map(at).collect(),
            tie: columns.tie.as_ref().and_then(at),
            weight: columns.weight.as_ref().and_then(at),
            group: columns.group.as_ref().and_then(at),
            again: columns.again.as_ref().and_then(at),
        };
        let in_file = |name: &&String| names.iter().position(|known| known == *name);
        let chosen = wanted.iter().filter_map(in_file).collect();
        // It is compared, and says nothing by itself.
        let is_again = |name: &&String| columns.again.as_ref() == Some(*name);
        let is_unused =
            |name: &&String| !name.is_empty() && (!wanted.contains(name) || is_again(name));
        self.tally.unused = names.iter().filter(is_unused).cloned().collect();
        self.columns = Some(columns);
        Ok(chosen)
    }

    fn row(&mut self, place: Place, cells: Result<&[Option<&str>], String>) -> Result<()> {
        let taken = cells
            .map_err(|problem| (NO_ROW, problem))
            .and_then(|cells| self.take(place, cells));
        match taken {
            Ok(()) => Ok(()),
            Err((reason, problem)) => self.leave_out(place, reason, &problem),
        }
    }
}

impl<'a> Pass<'a> {
    fn new(path: &'a Path, asked: &'a Asked, rule: Rule, keep: Keep) -> Self {
        Self {
            path,
            asked,
            rule,
            keep,
            columns: None,
            places: Places::default(),
            builder: Builder::new(keep),
            survey: Survey::default(),
            tally: Reading::default(),
            again: Again::default(),
        }
    }

    fn take(&mut self, place: Place, cells: &[Option<&str>]) -> Result<(), Fail> {
        let Some(columns) = &self.columns else {
            return Ok(());
        };
        let is_needed = |place: &usize| Some(*place) != self.places.again;
        let mut lacking = (0..cells.len()).filter(|place| cells[*place].is_none());
        if let Some(place) = lacking.find(is_needed) {
            let problem = format!("`{}` is neither text nor a number", columns.wanted()[place]);
            return Err((NO_ROW, problem));
        }
        let cell = |place: usize| cells[place].unwrap_or_default();
        let (left, right) = (cell(0), cell(1));
        for (name, column) in [(left, &columns.left), (right, &columns.right)] {
            if name.is_empty() {
                return Err((
                    "rows without an item",
                    format!("column `{column}` is empty"),
                ));
            }
        }
        if left == right {
            return Err((
                "an item against itself",
                format!("`{left}` is compared with itself"),
            ));
        }
        let weight = match self.places.weight.map(cell) {
            Some(text) => decimal(text)
                .filter(|weight: &f64| weight.is_finite() && *weight > 0.0)
                .ok_or_else(|| {
                    let problem = format!("weight `{text}` is not a positive number");
                    ("weights that are no positive number", problem)
                })?,
            None => 1.0,
        };
        let said = match (self.places.winner, self.places.shares) {
            (Some(winner), _) => {
                let mut read = |place: usize, column: &Option<String>| {
                    let survey = &mut self.survey;
                    let said = self.rule.read(columns, survey, cell(place), [left, right]);
                    said.map_err(|fault| match fault {
                        Fault::Empty => {
                            let column = column.as_deref().unwrap_or_default();
                            let value = cell(place);
                            let problem =
                                format!("`{value}` in column `{column}` is not an outcome");
                            ("rows without an outcome", problem)
                        }
                        Fault::Unknown(problem) => ("outcomes that are none", problem),
                    })
                };
                let said = read(winner, &columns.winner)?;
                match self.places.other_order {
                    None => said,
                    Some(other) => {
                        let other = read(other, &columns.other_order)?;
                        let flips = self.tally.flips.get_or_insert(0);
                        match (said, other) {
                            (Said::Open, _) | (_, Said::Open) => Said::Open,
                            (one, other) if one == other => one,
                            _ => {
                                *flips += 1;
                                Said::Decided(Outcome::Tie, 1.0)
                            }
                        }
                    }
                }
            }
            (None, Some(shares)) => self.shares(&cell, shares)?,
            (None, None) => Said::Decided(Outcome::Left, 1.0),
        };
        let said = match self.places.tie.map(cell) {
            Some(text) if is_yes(text)? => Said::Decided(Outcome::Tie, 1.0),
            _ => said,
        };
        if let (Some(again), Said::Decided(Outcome::Left, _)) = (self.places.again, said) {
            self.again.add(columns, cell(again), [left, right], place);
        }
        let group = self.places.group.map(cell);
        // Rows that are shared are resampled as a whole, and with them all others of their file.
        let own = (self.keep.groups && group.is_none() && self.may_share())
            .then(|| format!("row {}", self.builder.rows()));
        let group = group.or(own.as_deref());
        match said {
            Said::Open => {}
            Said::Decided(outcome, games) => {
                match outcome {
                    Outcome::Left => self.tally.left_won += 1,
                    Outcome::Right => self.tally.right_won += 1,
                    Outcome::Tie => self.tally.ties += 1,
                }
                self.builder
                    .add(left, right, outcome, weight * games, group);
            }
            Said::Shared(shares) => {
                self.tally.shares += 1;
                self.builder.add_shares(left, right, shares, weight, group);
            }
        }
        Ok(())
    }

    fn may_share(&self) -> bool {
        self.places.shares.is_some() || self.rule.is_scale()
    }

    /// The shares of left, right and ties, which add up to 1.
    fn shares<'c>(
        &self,
        cell: &impl Fn(usize) -> &'c str,
        [left, right]: [usize; 2],
    ) -> Result<Said, Fail> {
        let share = |place: usize| -> Result<f64, Fail> {
            let text = cell(place);
            let share = match text.to_lowercase().as_str() {
                "" | "false" => Some(0.0),
                "true" => Some(1.0),
                text => text.replace(',', ".").parse().ok(),
            };
            share
                .filter(|share| (0.0..=1.0).contains(share))
                .ok_or_else(|| {
                    let problem = format!("`{text}` is not the share of a side, from 0 to 1");
                    ("outcomes that are none", problem)
                })
        };
        let mut shares = [share(left)?, share(right)?, 0.0];
        for place in &self.places.ties {
            shares[2] += share(*place)?;
        }
        let sum: f64 = shares.iter().sum();
        if sum.total_cmp(&0.0).is_eq() {
            let problem = "none of the sides has a share".to_owned();
            return Err(("rows without an outcome", problem));
        }
        if (sum - 1.0).abs() > ROUNDING {
            let problem = format!("the shares of the sides add up to {sum}, not to 1");
            return Err(("outcomes that are none", problem));
        }
        Ok(Said::of_shares(shares.map(|share| share / sum)))
    }

    fn leave_out(&mut self, place: Place, reason: &'static str, problem: &str) -> Result<()> {
        if self.asked.invalid == Invalid::Error {
            return Err(match place {
                Place::Line(line) => Error::data_line(self.path, line, problem),
                Place::Row(_) => Error::data(self.path, format!("{place}: {problem}")),
            }
            .with_hint("`--invalid drop` leaves such rows out and counts them"));
        }
        let dropped = &mut self.tally.dropped;
        match dropped.iter_mut().find(|dropped| dropped.reason == reason) {
            Some(dropped) => dropped.rows += 1,
            None => dropped.push(Dropped {
                reason,
                rows: 1,
                example: format!("{place}: {problem}"),
            }),
        }
        Ok(())
    }

    fn decide(&self) -> Result<Rule> {
        let Some(columns) = self
            .columns
            .as_ref()
            .filter(|columns| columns.winner.is_some())
        else {
            return Ok(self.rule);
        };
        self.survey.decide(self.rule, columns).map_err(|open| {
            let (problem, hint) = open.in_words(columns);
            Error::data(self.path, problem).with_hint(hint)
        })
    }

    fn finish(mut self) -> Result<Comparisons> {
        if let Some(problem) = self.again.contradiction() {
            return Err(Error::data(self.path, problem).with_hint(
                "mend the rows; or name the items and the outcome with `--left`, `--right` and `--winner`, or leave the column out",
            ));
        }
        self.tally
            .dropped
            .sort_by_key(|dropped| std::cmp::Reverse(dropped.rows));
        let (left_out, used) = (self.tally.left_out(), self.builder.rows());
        if self.asked.invalid == Invalid::Few && 10 * left_out >= left_out + used && left_out > 0 {
            return Err(too_many(self.path, &self.tally.dropped, left_out + used));
        }
        let Some(columns) = self.columns.filter(|_| used > 0) else {
            return Err(Error::data(self.path, "there are no comparisons in it"));
        };
        self.tally.outcomes = self.survey.meanings();
        self.tally.values = columns
            .winner
            .as_ref()
            .map(|_| self.survey.values(self.rule));
        let mut comparisons = self.builder.finish(columns);
        comparisons.reading = Some(self.tally);
        Ok(comparisons)
    }
}

/// A tenth of the rows, or more, cannot be used.
fn too_many(path: &Path, dropped: &[Dropped], rows: u64) -> Error {
    let examples = dropped.iter().fold(String::new(), |text, dropped| {
        format!(
            "{text}\n  - {} ({}): {}",
            dropped.reason, dropped.rows, dropped.example
        )
    });
    let left_out: u64 = dropped.iter().map(|dropped| dropped.rows).sum();
    Error::data(
        path,
        format!("{left_out} of {rows} rows cannot be used:{examples}"),
    )
    .with_hint("`--invalid drop` leaves them out all the same")
}
