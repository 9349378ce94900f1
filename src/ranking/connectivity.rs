//! The connection of items by games: strengths across parts that games do not connect say nothing.

use super::counts::Counts;

/// Parts of the graph of games, each a sorted list of items; larger parts first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Components {
    /// Items that lead to each other along "has beaten or tied". One part: the maximum likelihood exists
    /// (Ford 1957).
    pub strong: Vec<Vec<usize>>,
    /// Items that played each other, directly or through others. Two parts: nothing at all compares them.
    pub weak: Vec<Vec<usize>>,
}

impl Components {
    /// Number of the strong part of every item. `[items]`
    pub fn strong_of(&self, items: usize) -> Vec<usize> {
        let mut of = vec![0; items];
        for (number, part) in self.strong.iter().enumerate() {
            for &item in part {
                of[item] = number;
            }
        }
        of
    }
}

/// Strong and weak components of the counts.
pub fn components(counts: &Counts) -> Components {
    let beats = Edges::new(counts, |pair| {
        [pair.score() > 0.0, pair.score() < pair.games()]
    });
    let played = Edges::new(counts, |pair| [pair.games() > 0.0; 2]);
    Components {
        strong: strongly_connected(&beats),
        weak: strongly_connected(&played),
    }
}

/// Whom every item points to.
struct Edges {
    starts: Vec<usize>,
    targets: Vec<u32>,
}

impl Edges {
    /// `directions` says whether there is an edge from the first to the second item of a pair, and back.
    fn new(counts: &Counts, directions: impl Fn(&super::Pair) -> [bool; 2]) -> Self {
        let mut starts = vec![0; counts.items() + 1];
        let edges = || {
            counts.pairs().iter().flat_map(|pair| {
                let [forth, back] = directions(pair);
                let forth = forth.then_some((pair.first, pair.second));
                forth
                    .into_iter()
                    .chain(back.then_some((pair.second, pair.first)))
            })
        };
        for (from, _) in edges() {
            starts[from as usize + 1] += 1;
        }
        for item in 0..counts.items() {
            starts[item + 1] += starts[item];
        }
        let mut next = starts.clone();
        let mut targets = vec![0; starts[counts.items()]];
        for (from, to) in edges() {
            targets[next[from as usize]] = to;
            next[from as usize] += 1;
        }
        Self { starts, targets }
    }

    fn targets_of(&self, item: usize) -> &[u32] {
        &self.targets[self.starts[item]..self.starts[item + 1]]
    }
}

/// Tarjan's algorithm (1972) with a stack of its own: a chain of a million items must not overflow the thread's.
fn strongly_connected(edges: &Edges) -> Vec<Vec<usize>> {
    const UNSEEN: usize = usize::MAX;
    let n = edges.starts.len() - 1;
    let mut order = vec![UNSEEN; n];
    let mut lowest = vec![0; n];
    let mut open = vec![false; n];
    let mut stack = Vec::new();
    let mut parts = Vec::new();
    let mut seen = 0;
    for root in 0..n {
        if order[root] != UNSEEN {
            continue;
        }
        // Items on the way from the root, each with how many of its edges were followed.
        let mut path = vec![(root, 0)];
        while let Some((item, followed)) = path.last_mut() {
            let item = *item;
            if *followed == 0 {
                (order[item], lowest[item], open[item]) = (seen, seen, true);
                seen += 1;
                stack.push(item);
            }
            if let Some(&next) = edges.targets_of(item).get(*followed) {
                *followed += 1;
                let next = next as usize;
                if order[next] == UNSEEN {
                    path.push((next, 0));
                } else if open[next] {
                    lowest[item] = lowest[item].min(order[next]);
                }
                continue;
            }
            path.pop();
            if let Some(&(before, _)) = path.last() {
                lowest[before] = lowest[before].min(lowest[item]);
            }
            if lowest[item] == order[item] {
                let first = stack.iter().rposition(|&other| other == item);
                let mut part = stack.split_off(first.unwrap_or_default());
                for &other in &part {
                    open[other] = false;
                }
                part.sort_unstable();
                parts.push(part);
            }
        }
    }
    parts.sort_by(|one, other| other.len().cmp(&one.len()).then(one.cmp(other)));
    parts
}
