//! What somebody has said of two items, and what it counts as a game between them.

use std::collections::HashMap;

use super::records::Choice;
use crate::ranking::Outcome;

/// Two items as they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Number of the left one.
    pub left: usize,
    /// Number of the right one.
    pub right: usize,
    /// `true` if the pair comes again, with sides exchanged.
    pub repeat: bool,
}

impl Pair {
    /// The two, in an order that the sides do not change.
    pub fn key(self) -> (usize, usize) {
        (self.left.min(self.right), self.left.max(self.right))
    }
}

/// A key that was not taken back.
#[derive(Clone, Debug)]
pub struct Said {
    /// Number of the key.
    pub number: u64,
    /// What was shown.
    pub pair: Pair,
    /// What was said.
    pub choice: Choice,
    /// Who said it.
    pub judge: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Said {
    /// The result of the pair as seen from the left; `None` where nothing was said.
    pub fn outcome(&self) -> Option<Outcome> {
        match self.choice {
            Choice::Left => Some(Outcome::Left),
            Choice::Right => Some(Outcome::Right),
            Choice::Tie | Choice::BothBad => Some(Outcome::Tie),
            Choice::Skip => None,
        }
    }

    /// The better item; `None` where there is none.
    pub fn winner(&self) -> Option<usize> {
        match self.outcome()? {
            Outcome::Left => Some(self.pair.left),
            Outcome::Right => Some(self.pair.right),
            Outcome::Tie => None,
        }
    }
}

/// A result with its weight: what one judge says of one pair counts as one game, however often they were asked.
pub struct Game<'a> {
    /// Which key it is.
    pub said: &'a Said,
    /// The result as seen from the left.
    pub outcome: Outcome,
    /// One over the number of keys of this judge for this pair.
    pub weight: f64,
}

/// The games that keys stand for, in their order; skipped pairs are none.
pub fn games<'a>(said: impl Iterator<Item = &'a Said> + Clone) -> Vec<Game<'a>> {
    let mut times: HashMap<(&str, (usize, usize)), usize> = HashMap::new();
    let decided = said.filter_map(|one| Some((one, one.outcome()?)));
    for (one, _) in decided.clone() {
        *times.entry((&one.judge, one.pair.key())).or_default() += 1;
    }
    let game = |(said, outcome): (&'a Said, Outcome)| Game {
        said,
        outcome,
        weight: 1.0 / times[&(said.judge.as_str(), said.pair.key())] as f64,
    };
    decided.map(game).collect()
}
