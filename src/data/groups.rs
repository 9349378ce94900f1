//! Holding out a share of some examples by group: what stands on one side of the split stands on the other never.

use std::collections::{HashMap, HashSet};

use sha2::{Digest as _, Sha256};

use crate::ops::random::{derive_seed, uniform};

/// How many groups there are on each side of a split, and on both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// Groups to learn from.
    pub train: usize,
    /// Groups that are held out.
    pub held_out: usize,
    /// Held-out groups that are learnt from too.
    pub shared: usize,
}

impl Overlap {
    /// Of the keys of both sides.
    pub fn count(
        train: impl Iterator<Item = String>,
        held_out: impl Iterator<Item = String>,
    ) -> Self {
        let (train, held_out): (HashSet<_>, HashSet<_>) = (train.collect(), held_out.collect());
        Self {
            train: train.len(),
            held_out: held_out.len(),
            shared: held_out.intersection(&train).count(),
        }
    }

    /// In words, of groups that are called so: "prompts".
    pub fn in_words(&self, groups: &str) -> String {
        let Self {
            train,
            held_out,
            shared,
        } = self;
        let both = match shared {
            0 => "none on both sides".to_owned(),
            shared => format!(
                "{shared} on both sides: what is measured on these is partly learnt by heart"
            ),
        };
        format!("{train} {groups} to learn from, {held_out} held out, {both}")
    }
}

/// Splits examples as the data say or, where they say nothing, holds out a share of their groups drawn by `seed`.
///
/// Examples that have a key in common, be it through others, are one group: the same prompt, the same image. The share is
/// of the examples, as near as whole groups come to it and of one group at least. Examples of a group of which some say
/// where they belong go with the first that does.
pub fn split<T>(
    all: Vec<T>,
    says: impl Fn(&T) -> Option<bool>,
    keys: impl Fn(&T) -> Vec<String>,
    seed: u64,
    share: f64,
) -> (Vec<T>, Vec<T>) {
    let keys: Vec<Vec<String>> = all.iter().map(keys).collect();
    let of = groups(&keys);
    let count = of.iter().max().map_or(0, |last| last + 1);
    let mut groups: Vec<Group> = (0..count).map(|_| Group::default()).collect();
    for ((example, keys), &group) in all.iter().zip(&keys).zip(&of) {
        let group = &mut groups[group];
        let said = says(example);
        group.said = group.said.or(said);
        group.size += usize::from(said.is_none());
        for key in keys {
            group.draw = group.draw.min(draw(seed, key));
        }
    }
    let drawn = draw_groups(&groups, share);
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for (example, group) in all.into_iter().zip(of) {
        let held = says(&example)
            .or(groups[group].said)
            .unwrap_or(drawn[group]);
        if held {
            held_out.push(example);
        } else {
            train.push(example);
        }
    }
    (train, held_out)
}

struct Group {
    /// Where the data say that it belongs.
    said: Option<bool>,
    /// Examples of which the data say nothing.
    size: usize,
    /// Its place in the order of drawing, 0 to 1.
    draw: f64,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            said: None,
            size: 0,
            draw: f64::INFINITY,
        }
    }
}

/// The place of a key in the order of drawing: the same wherever the key stands in the file.
fn draw(seed: u64, key: &str) -> f64 {
    let hash = Sha256::digest(key);
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    uniform(derive_seed(seed, "held out", &[u64::from_le_bytes(first)]))
}

/// Which groups are held out.
fn draw_groups(groups: &[Group], share: f64) -> Vec<bool> {
    let mut held = vec![false; groups.len()];
    let mut order: Vec<usize> = (0..groups.len())
        .filter(|&group| groups[group].said.is_none())
        .collect();
    if share <= 0.0 || groups.len() < 2 {
        return held;
    }
    order.sort_by(|&one, &other| groups[one].draw.total_cmp(&groups[other].draw));
    let examples: usize = order.iter().map(|&group| groups[group].size).sum();
    let wanted = (share * examples as f64).round() as usize;
    let mut taken = 0;
    for &group in &order {
        if taken + groups[group].size <= wanted {
            taken += groups[group].size;
            held[group] = true;
        }
    }
    // Where all groups are larger than the share, the smallest is the nearest to it.
    if taken == 0
        && let Some(&smallest) = order.iter().min_by_key(|&&group| groups[group].size)
    {
        held[smallest] = true;
    }
    held
}

/// The group of each example, numbered in the order of their first ones. One without a key is a group of its own.
fn groups(keys: &[Vec<String>]) -> Vec<usize> {
    let mut parent: Vec<usize> = (0..keys.len()).collect();
    let mut first: HashMap<&str, usize> = HashMap::new();
    for (example, keys) in keys.iter().enumerate() {
        for key in keys {
            let other = *first.entry(key).or_insert(example);
            let (one, other) = (root(&mut parent, example), root(&mut parent, other));
            parent[one.max(other)] = one.min(other);
        }
    }
    let mut numbers = HashMap::new();
    (0..keys.len())
        .map(|example| {
            let next = numbers.len();
            *numbers.entry(root(&mut parent, example)).or_insert(next)
        })
        .collect()
}

fn root(parent: &mut [usize], mut example: usize) -> usize {
    while parent[example] != example {
        parent[example] = parent[parent[example]];
        example = parent[example];
    }
    example
}
