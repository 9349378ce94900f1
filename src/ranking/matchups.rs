//! Who is to meet whom: every item plays the same number of games, opponents are drawn at random, nobody is met twice
//! while there is somebody new.

use std::collections::HashSet;

use super::draws::Draws;

/// Attempts at a round of new opponents before one with old ones is taken.
const ATTEMPTS: usize = 100;

/// Pairs of `0..items` in which each item occurs `games` times, or, of an odd number of items, `games` or one more.
///
/// The union of random perfect matchings, one a round: with three rounds or more it hangs together except with a small
/// chance, and strengths of items that never met are compared through few others. Where an item is to meet half of the
/// others or more, the rounds are those of a round robin, which repeats no pair until all have met.
pub fn plan(items: usize, games: usize, seed: u64) -> Vec<(usize, usize)> {
    if items < 2 {
        return Vec::new();
    }
    // Of an odd number one has a bye: it meets an item that does not exist, and nobody has two byes.
    let places = items.next_multiple_of(2);
    let rounds = games + items % 2;
    let mut draws = Draws::new(seed, 0);
    let matchings = if 2 * rounds >= places {
        round_robin(places, rounds, &mut draws)
    } else {
        random(places, rounds, &mut draws)
    };
    matchings
        .into_iter()
        .filter(|&(left, right)| left < items && right < items)
        .collect()
}

/// The circle method: one place is fixed, the others turn by one each round.
fn round_robin(places: usize, rounds: usize, draws: &mut Draws) -> Vec<(usize, usize)> {
    let cycle = places - 1;
    let mut names: Vec<usize> = (0..places).collect();
    let mut order: Vec<usize> = (0..cycle).collect();
    draws.shuffle(&mut names);
    draws.shuffle(&mut order);
    let mut pairs = Vec::with_capacity(rounds * places / 2);
    for round in 0..rounds {
        let turn = order[round % cycle];
        pairs.push((names[cycle], names[turn]));
        for step in 1..places / 2 {
            let (left, right) = ((turn + step) % cycle, (turn + cycle - step) % cycle);
            pairs.push((names[left], names[right]));
        }
    }
    pairs
}

fn random(places: usize, rounds: usize, draws: &mut Draws) -> Vec<(usize, usize)> {
    let mut met = HashSet::new();
    let mut pairs = Vec::with_capacity(rounds * places / 2);
    for _ in 0..rounds {
        let mut round = None;
        for _ in 0..ATTEMPTS {
            let mut order: Vec<usize> = (0..places).collect();
            draws.shuffle(&mut order);
            round = matching(&mut order, &met);
            if round.is_some() {
                break;
            }
        }
        let round = round.unwrap_or_else(|| {
            let mut order: Vec<usize> = (0..places).collect();
            draws.shuffle(&mut order);
            order
                .chunks_exact(2)
                .map(|pair| (pair[0], pair[1]))
                .collect()
        });
        met.extend(
            round
                .iter()
                .map(|&(left, right)| (left.min(right), left.max(right))),
        );
        pairs.extend(round);
    }
    pairs
}

/// Pairs neighbours of a random order, swapping in the next one who is new; none where the last ones have met.
fn matching(order: &mut [usize], met: &HashSet<(usize, usize)>) -> Option<Vec<(usize, usize)>> {
    let mut pairs = Vec::with_capacity(order.len() / 2);
    for left in (0..order.len()).step_by(2) {
        let one = order[left];
        let new = (left + 1..order.len()).find(|&place| {
            let other = order[place];
            !met.contains(&(one.min(other), one.max(other)))
        })?;
        order.swap(left + 1, new);
        pairs.push((one, order[left + 1]));
    }
    Some(pairs)
}
