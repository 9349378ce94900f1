//! Wins, losses and ties of every pair that met: all that the fits need, so that their cost does not depend on the
//! number of games.

use super::comparisons::Outcome;
use crate::error::{Error, Result};

/// The results of two items against each other, in games (weights count as games).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The item with the smaller number.
    pub first: u32,
    /// The other.
    pub second: u32,
    /// Games that `first` won.
    pub wins: f64,
    /// Games that `second` won.
    pub losses: f64,
    /// Games that neither won.
    pub ties: f64,
    swapped: bool,
}

impl Pair {
    /// A pair without games; results are added as seen from `left`.
    pub fn new(left: u32, right: u32) -> Self {
        Self {
            first: left.min(right),
            second: left.max(right),
            wins: 0.0,
            losses: 0.0,
            ties: 0.0,
            swapped: left > right,
        }
    }

    /// Adds `amount` games with this outcome, as seen from the left item that the pair was made with.
    pub fn add(&mut self, outcome: Outcome, amount: f64) {
        match (outcome, self.swapped) {
            (Outcome::Tie, _) => self.ties += amount,
            (Outcome::Left, false) | (Outcome::Right, true) => self.wins += amount,
            (Outcome::Left, true) | (Outcome::Right, false) => self.losses += amount,
        }
    }

    /// The pair with these results, as seen from `left`.
    #[must_use]
    pub fn with(left: u32, right: u32, wins: f64, losses: f64, ties: f64) -> Self {
        let mut pair = Self::new(left, right);
        pair.add(Outcome::Left, wins);
        pair.add(Outcome::Right, losses);
        pair.add(Outcome::Tie, ties);
        pair
    }

    /// All games of the pair.
    pub fn games(&self) -> f64 {
        self.wins + self.losses + self.ties
    }

    /// Wins of `first` with half of the ties.
    pub fn score(&self) -> f64 {
        self.wins + 0.5 * self.ties
    }

    pub(super) fn clear(&mut self) {
        (self.wins, self.losses, self.ties) = (0.0, 0.0, 0.0);
    }

    fn key(&self) -> (u32, u32) {
        (self.first, self.second)
    }
}

/// Pairs that met, each once, sorted by their numbers.
#[derive(Clone, Debug)]
pub struct Counts {
    items: usize,
    pairs: Vec<Pair>,
}

impl Counts {
    /// Merges what is known of each pair.
    ///
    /// An error if there are fewer than two items, a pair names an item outside `0..items` or an item against itself,
    /// or a number of games is negative or not finite.
    pub fn new(items: usize, mut pairs: Vec<Pair>) -> Result<Self> {
        if items < 2 {
            return Err(Error::config(format!(
                "{items} item: a ranking needs at least two"
            )));
        }
        for pair in &mut pairs {
            pair.swapped = false;
            if pair.first == pair.second || pair.second as usize >= items {
                return Err(Error::config(format!(
                    "item {} against item {} among {items} items: not a comparison",
                    pair.first, pair.second
                )));
            }
            if [pair.wins, pair.losses, pair.ties]
                .iter()
                .any(|games| !games.is_finite() || *games < 0.0)
            {
                return Err(Error::config(format!(
                    "item {} against item {}: {} wins, {} losses, {} ties are not numbers of games",
                    pair.first, pair.second, pair.wins, pair.losses, pair.ties
                )));
            }
        }
        pairs.sort_unstable_by_key(Pair::key);
        pairs.dedup_by(|next, kept| {
            let same = next.key() == kept.key();
            if same {
                kept.wins += next.wins;
                kept.losses += next.losses;
                kept.ties += next.ties;
            }
            same
        });
        Ok(Self { items, pairs })
    }

    /// Number of items.
    pub fn items(&self) -> usize {
        self.items
    }

    /// The pairs, sorted.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Where a pair is in [`pairs`](Self::pairs).
    pub fn position(&self, left: u32, right: u32) -> Option<usize> {
        let key = (left.min(right), left.max(right));
        self.pairs.binary_search_by_key(&key, Pair::key).ok()
    }

    /// Games of every item. `[items]`
    pub fn games(&self) -> Vec<f64> {
        let mut games = vec![0.0; self.items];
        for pair in &self.pairs {
            games[pair.first as usize] += pair.games();
            games[pair.second as usize] += pair.games();
        }
        games
    }

    /// Ties over all pairs.
    pub fn ties(&self) -> f64 {
        self.pairs.iter().map(|pair| pair.ties).sum()
    }

    /// Won and lost games over all pairs.
    pub fn decided(&self) -> f64 {
        self.pairs.iter().map(|pair| pair.wins + pair.losses).sum()
    }

    /// The same games without the ties.
    #[must_use]
    pub fn without_ties(&self) -> Self {
        let mut counts = self.clone();
        for pair in &mut counts.pairs {
            pair.ties = 0.0;
        }
        counts.pairs.retain(|pair| pair.games() > 0.0);
        counts
    }

    /// Mean over the opponents of an item of its share of their games, a tie being half a win: an opponent met often
    /// counts as much as one met once. One half for an item without games. `[items]`
    pub fn average_win_rates(&self) -> Vec<f64> {
        let mut rates = vec![0.0; self.items];
        let mut opponents = vec![0.0; self.items];
        for pair in self.pairs.iter().filter(|pair| pair.games() > 0.0) {
            let share = pair.score() / pair.games();
            for (item, share) in [(pair.first, share), (pair.second, 1.0 - share)] {
                rates[item as usize] += share;
                opponents[item as usize] += 1.0;
            }
        }
        for (rate, opponents) in rates.iter_mut().zip(opponents) {
            *rate = if opponents > 0.0 {
                *rate / opponents
            } else {
                0.5
            };
        }
        rates
    }

    /// The same pairs with results filled in anew.
    pub(super) fn refilled(&self, fill: impl FnOnce(&mut [Pair])) -> Self {
        let mut counts = self.clone();
        counts.pairs.iter_mut().for_each(Pair::clear);
        fill(&mut counts.pairs);
        counts
    }
}
