//! Which two items come next, which of them stands on the left, and how many pairs are left.

use std::collections::{HashMap, HashSet};

use super::items::{Group, Items};
use super::said::{Game, Pair, Said, games};
use crate::error::Result;
use crate::ops::random::{derive_seed, permutation, uniform};
use crate::ranking::counts::Counts;
use crate::ranking::information::Belief;

/// Of so many pairs one comes again.
const AGAIN_OF: usize = 10;
/// Keys between a pair and its second time at least, so that it is not remembered.
const APART: usize = 5;

/// What has been said so far.
pub struct Asked<'a> {
    /// By who judges now, in their order.
    pub own: Vec<&'a Said>,
    /// By others.
    pub others: Vec<&'a Said>,
}

/// The order of a session's pairs. It draws nothing that its seed and what was said do not decide: a page that is loaded anew
/// shows the same pair on the same sides.
pub struct Order<'a> {
    items: &'a Items,
    seed: u64,
}

/// Pairs of a group that are worth asking: all of a small one, else so many that a sort would need.
fn planned(items: usize) -> usize {
    let all = items * (items - 1) / 2;
    all.min((items as f64 * (items as f64).log2()).ceil() as usize)
}

type Key = (usize, usize);

impl<'a> Order<'a> {
    /// The order that this seed makes.
    pub fn new(items: &'a Items, seed: u64) -> Self {
        Self { items, seed }
    }

    /// The next pair; `None` where all that is worth asking has been asked.
    ///
    /// # Errors
    /// Strengths cannot be fitted to what was said.
    pub fn next(&self, asked: &Asked) -> Result<Option<Pair>> {
        if let Some(pair) = self.again(asked) {
            return Ok(Some(pair));
        }
        let done = fresh_keys(asked);
        let open = self.open_groups(&done);
        let found = if self.items.compares_sources() {
            self.of_sources(asked, &done, &open)?
        } else {
            self.of_groups(asked, &done, &open)?
        };
        Ok(found.map(|(one, other)| {
            let (left, right) = if self.draw("side", asked.own.len()) < 0.5 {
                (one, other)
            } else {
                (other, one)
            };
            Pair {
                left,
                right,
                repeat: false,
            }
        }))
    }

    /// How many pairs are left, those that come again included.
    pub fn open(&self, asked: &Asked) -> usize {
        let done = fresh_keys(asked);
        let open = self.open_groups(&done);
        let fresh: usize = open.iter().map(|(_, left)| left).sum();
        let decided = decided_fresh(asked).count();
        let repeats = asked.own.iter().filter(|said| said.pair.repeat).count();
        fresh + ((fresh + decided) / AGAIN_OF).saturating_sub(repeats)
    }

    /// A number in `[0, 1)` for a purpose at this place of the order.
    fn draw(&self, purpose: &str, place: usize) -> f64 {
        uniform(derive_seed(self.seed, purpose, &[place as u64]))
    }

    /// A pair that was decided some time ago, with sides exchanged, where it is time for one.
    fn again(&self, asked: &Asked) -> Option<Pair> {
        let repeated: HashSet<Key> = asked
            .own
            .iter()
            .filter(|said| said.pair.repeat)
            .map(|said| said.pair.key())
            .collect();
        let repeats = asked.own.iter().filter(|said| said.pair.repeat).count();
        if decided_fresh(asked).count() < AGAIN_OF * (repeats + 1) {
            return None;
        }
        let old = &asked.own[..asked.own.len().saturating_sub(APART)];
        let known: Vec<&&Said> = old
            .iter()
            .filter(|said| !said.pair.repeat && said.outcome().is_some())
            .filter(|said| !repeated.contains(&said.pair.key()))
            .collect();
        let place = self.draw("again", asked.own.len()) * known.len() as f64;
        let pair = known.get(place as usize)?.pair;
        Some(Pair {
            left: pair.right,
            right: pair.left,
            repeat: true,
        })
    }

    /// Groups with pairs left, in the order of the seed, and how many.
    fn open_groups(&self, done: &HashSet<Key>) -> Vec<(&'a Group, usize)> {
        let order = permutation(
            derive_seed(self.seed, "groups", &[]),
            self.items.groups.len(),
        );
        let left = |place: usize| {
            let group = &self.items.groups[place];
            let asked = pairs(&group.items)
                .filter(|pair| done.contains(pair))
                .count();
            let left = planned(group.items.len()).saturating_sub(asked);
            (left > 0).then_some((group, left))
        };
        order.into_iter().filter_map(left).collect()
    }

    /// Of all groups the pair that says most about the order of its group.
    fn of_groups(
        &self,
        asked: &Asked,
        done: &HashSet<Key>,
        open: &[(&Group, usize)],
    ) -> Result<Option<Key>> {
        let own = games(asked.own.iter().copied());
        let others: HashSet<Key> = asked.others.iter().map(|said| said.pair.key()).collect();
        let is_open = |pair: &Key| !done.contains(pair);
        // Two judges agree or not on pairs that both have seen.
        let is_shared = |pair: &Key| others.contains(pair) && is_open(pair);
        let shared = done.len().is_multiple_of(2)
            && open
                .iter()
                .any(|(group, _)| pairs(&group.items).any(|pair| is_shared(&pair)));
        let mut best: Option<(f64, Vec<Key>)> = None;
        let mut untouched = false;
        for (group, _) in open {
            let touched = pairs(&group.items).any(|pair| done.contains(&pair));
            // All groups of which nothing is known say equally much; the first of them stands for all.
            if !touched && !shared && std::mem::replace(&mut untouched, true) {
                continue;
            }
            let belief = belief(&own, &group.items)?;
            let place: HashMap<usize, usize> = group
                .items
                .iter()
                .enumerate()
                .map(|(place, &item)| (item, place))
                .collect();
            for pair in pairs(&group.items) {
                let is_wanted = if shared {
                    is_shared(&pair)
                } else {
                    is_open(&pair)
                };
                if !is_wanted {
                    continue;
                }
                let gain = belief.gain(place[&pair.0], place[&pair.1]);
                match &mut best {
                    Some((most, found)) if (gain - *most).abs() < 1e-9 => found.push(pair),
                    Some((most, _)) if gain < *most => {}
                    _ => best = Some((gain, vec![pair])),
                }
            }
        }
        Ok(best.map(|(_, found)| {
            let place = self.draw("pair", asked.own.len()) * found.len() as f64;
            found[place as usize]
        }))
    }

    /// Of the sources the two of which least is known, in the first group where they have not met.
    fn of_sources(
        &self,
        asked: &Asked,
        done: &HashSet<Key>,
        open: &[(&Group, usize)],
    ) -> Result<Option<Key>> {
        let source = |item: usize| self.items.items[item].source;
        let own = games(asked.own.iter().copied());
        let games = own.iter().map(|game| {
            (
                game,
                source(game.said.pair.left),
                source(game.said.pair.right),
            )
        });
        let counts = counts(self.items.sources.len(), games)?;
        let belief = Belief::after(&counts)?;
        let mut best: Option<(f64, Key)> = None;
        for (group, _) in open {
            for pair in pairs(&group.items).filter(|pair| !done.contains(pair)) {
                let gain = belief.gain(source(pair.0), source(pair.1));
                if best.is_none_or(|(most, _)| gain > most + 1e-9) {
                    best = Some((gain, pair));
                }
            }
        }
        Ok(best.map(|(_, pair)| pair))
    }
}

/// All pairs of some items, the smaller number first.
pub fn pairs(items: &[usize]) -> impl Iterator<Item = Key> + '_ {
    let with_later = |(place, &one): (usize, &usize)| {
        let later = items[place + 1..].iter();
        later.map(move |&other| (one.min(other), one.max(other)))
    };
    items.iter().enumerate().flat_map(with_later)
}

/// What is believed of these items after these games; games of others do not matter.
pub fn belief(games: &[Game], items: &[usize]) -> Result<Belief> {
    Belief::after(&counts_of(games, items)?)
}

/// Games of these items among themselves, numbered as they stand in `items`.
pub fn counts_of(games: &[Game], items: &[usize]) -> Result<Counts> {
    let place: HashMap<usize, usize> = items
        .iter()
        .enumerate()
        .map(|(place, &item)| (item, place))
        .collect();
    let among = games.iter().filter_map(|game| {
        let Pair { left, right, .. } = game.said.pair;
        Some((game, *place.get(&left)?, *place.get(&right)?))
    });
    counts(items.len(), among)
}

/// Counts of games, each with the numbers of both sides.
pub fn counts<'a>(
    items: usize,
    games: impl Iterator<Item = (&'a Game<'a>, usize, usize)>,
) -> Result<Counts> {
    let pairs = games.map(|(game, left, right)| {
        let mut pair = crate::ranking::Pair::new(left as u32, right as u32);
        pair.add(game.outcome, game.weight);
        pair
    });
    Counts::new(items, pairs.collect())
}

fn decided_fresh<'a>(asked: &'a Asked) -> impl Iterator<Item = &'a &'a Said> {
    let fresh = asked.own.iter().filter(|said| !said.pair.repeat);
    fresh.filter(|said| said.outcome().is_some())
}

fn fresh_keys(asked: &Asked) -> HashSet<Key> {
    let fresh = asked.own.iter().filter(|said| !said.pair.repeat);
    fresh.map(|said| said.pair.key()).collect()
}
