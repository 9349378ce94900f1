//! Comparisons as read: names interned to numbers, equal rows counted once, so that memory follows the number of
//! different results and not the number of rows.

use std::collections::HashMap;

use super::columns::Columns;
use super::counts::{Counts, Pair};
use super::read::Reading;
use crate::error::Result;

/// Result of one comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The left item is better.
    Left,
    /// The right item is better.
    Right,
    /// Neither is.
    Tie,
}

impl Outcome {
    /// The same result with the sides exchanged.
    #[must_use]
    pub fn flipped(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
            Self::Tie => Self::Tie,
        }
    }

    /// The left item's points: 1, 0 or one half.
    pub fn score(self) -> f64 {
        match self {
            Self::Left => 1.0,
            Self::Right => 0.0,
            Self::Tie => 0.5,
        }
    }
}

/// One comparison, or several that are equal in everything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Game {
    /// Number of the left item.
    pub left: u32,
    /// Number of the right item, another one.
    pub right: u32,
    /// Who won.
    pub outcome: Outcome,
    /// How many games each row stands for, positive.
    pub weight: f64,
    /// The question that was asked; resampled as a whole. 0 where groups are not kept.
    pub group: u32,
    /// How many rows are like this.
    pub times: u64,
}

/// The parts of the rows that are kept apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Every row by itself, in the order of the file (online Elo needs it).
    pub order: bool,
    /// The group of a row (resampling by group needs it).
    pub groups: bool,
}

/// All comparisons of a file.
#[derive(Clone, Debug)]
pub struct Comparisons {
    /// Names, in the order in which they are met.
    pub items: Vec<String>,
    /// Games; equal ones are counted unless their order is kept.
    pub games: Vec<Game>,
    /// Number of groups; 0 where there is no such column or groups are not kept.
    pub groups: usize,
    /// Rows read.
    pub rows: u64,
    /// Which columns they came from.
    pub columns: Columns,
    /// How the rows of a file were understood; none of judgements that were asked for.
    pub reading: Option<Reading>,
}

impl Comparisons {
    /// `true` if nobody won anything.
    pub fn are_ties(&self) -> bool {
        self.games.iter().all(|game| game.outcome == Outcome::Tie)
    }

    /// Wins, losses and ties of every pair.
    pub fn counts(&self) -> Result<Counts> {
        let pairs = self.games.iter().map(|game| {
            let amount = game.weight * game.times as f64;
            let mut pair = Pair::new(game.left, game.right);
            pair.add(game.outcome, amount);
            pair
        });
        Counts::new(self.items.len(), pairs.collect())
    }
}

/// Collects rows.
pub(super) struct Builder {
    keep: Keep,
    items: Interner,
    groups: Interner,
    games: Vec<Game>,
    /// Number of games at which equal ones are merged next.
    full: usize,
    rows: u64,
}

/// Rows that are kept before equal ones are merged for the first time: 32 MiB.
const BUFFER: usize = 1 << 20;

impl Builder {
    pub(super) fn new(keep: Keep) -> Self {
        Self {
            keep,
            items: Interner::default(),
            groups: Interner::default(),
            games: Vec::new(),
            full: BUFFER,
            rows: 0,
        }
    }

    /// Rows so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds a checked row with one result.
    pub(super) fn add(
        &mut self,
        left: &str,
        right: &str,
        outcome: Outcome,
        weight: f64,
        group: Option<&str>,
    ) {
        self.rows += 1;
        self.game(left, right, outcome, weight, group);
    }

    /// Adds a checked row of which left, right and neither have these shares.
    pub(super) fn add_shares(
        &mut self,
        left: &str,
        right: &str,
        shares: [f64; 3],
        weight: f64,
        group: Option<&str>,
    ) {
        self.rows += 1;
        let outcomes = [Outcome::Left, Outcome::Right, Outcome::Tie];
        for (outcome, share) in outcomes.into_iter().zip(shares) {
            if share > 0.0 {
                self.game(left, right, outcome, weight * share, group);
            }
        }
    }

    fn game(
        &mut self,
        left: &str,
        right: &str,
        outcome: Outcome,
        weight: f64,
        group: Option<&str>,
    ) {
        let group = match group {
            Some(name) if self.keep.groups => self.groups.number(name),
            _ => 0,
        };
        let mut game = Game {
            left: self.items.number(left),
            right: self.items.number(right),
            outcome,
            weight,
            group,
            times: 1,
        };
        if self.keep.order {
            self.games.push(game);
            return;
        }
        if game.left > game.right {
            std::mem::swap(&mut game.left, &mut game.right);
            game.outcome = outcome.flipped();
        }
        if self.games.len() >= self.full {
            self.merge();
            self.full = BUFFER.max(2 * self.games.len());
        }
        self.games.push(game);
    }

    /// Counts equal games once. Sorting is faster than a hash table here, which would miss the cache at every row,
    /// and leaves the games of a pair together.
    fn merge(&mut self) {
        let key = |game: &Game| {
            let pair = (u64::from(game.left) << 32) | u64::from(game.right);
            (pair, game.group, game.outcome, game.weight.to_bits())
        };
        self.games.sort_by_key(key);
        self.games.dedup_by(|next, kept| {
            let same = key(next) == key(kept);
            if same {
                kept.times += next.times;
            }
            same
        });
    }

    pub(super) fn finish(mut self, columns: Columns) -> Comparisons {
        if !self.keep.order {
            self.merge();
        }
        Comparisons {
            items: self.items.names,
            games: self.games,
            groups: self.groups.names.len(),
            rows: self.rows,
            columns,
            reading: None,
        }
    }
}

/// Names to numbers, counted from 0 in order of appearance.
#[derive(Default)]
struct Interner {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Interner {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = self.names.len() as u32;
        self.numbers.insert(name.to_owned(), number);
        self.names.push(name.to_owned());
        number
    }
}
