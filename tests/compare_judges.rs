//! Simulated judges of known noise on planted rankings: what the order of pairs saves, and whether intervals hold.
//! `PREFTUNE_WRITE=1 cargo test -- --ignored pairs_by_information_over_sizes` writes benches/results/compare.md.

use std::fmt::Write as _;
use std::path::PathBuf;

use preftune::data::text::Text;
use preftune::jobs::compare::items::{Content, Group, Item, Items};
use preftune::jobs::compare::order::{Asked, Order, belief, pairs};
use preftune::jobs::compare::records::Choice;
use preftune::jobs::compare::said::{Pair, Said, games};
use preftune::ops::random::{derive_seed, permutation, uniform};
use preftune::ranking::agreement::{nominal_alpha, wilson};
use preftune::ranking::bradley_terry::{self, Prior};
use preftune::ranking::{Counts, Ties, posterior, win_rate};

fn items(count: usize) -> Items {
    let item = |number: usize| Item {
        id: number.to_string(),
        source: 0,
        path: PathBuf::from(number.to_string()),
        content: Content::Image {
            width: 1,
            height: 1,
        },
        hash: Vec::new(),
    };
    Items {
        sources: vec!["all".to_owned()],
        runs: vec![None],
        items: (0..count).map(item).collect(),
        groups: vec![Group {
            prompt: Text::Plain("a dog".to_owned()),
            variables: serde_json::Map::new(),
            items: (0..count).collect(),
        }],
        notes: Vec::new(),
    }
}

fn draw(seed: u64, purpose: &str, place: u64) -> f64 {
    uniform(derive_seed(seed, purpose, &[place]))
}

/// A number of a normal distribution.
fn normal(seed: u64, place: u64) -> f64 {
    let (one, other) = (
        1.0 - draw(seed, "radius", place),
        draw(seed, "angle", place),
    );
    (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos()
}

/// A judge who goes by strengths of this spread in logits; the less it is, the more noise.
struct Judge {
    seed: u64,
    strengths: Vec<f64>,
}

impl Judge {
    fn new(seed: u64, count: usize, spread: f64) -> Self {
        let strengths = (0..count)
            .map(|item| spread * normal(seed, item as u64))
            .collect();
        Self { seed, strengths }
    }

    fn said(&self, number: usize, pair: Pair) -> Said {
        let difference = self.strengths[pair.left] - self.strengths[pair.right];
        let wins = draw(self.seed, "answer", number as u64) < 1.0 / (1.0 + (-difference).exp());
        Said {
            number: number as u64,
            pair,
            choice: if wins { Choice::Left } else { Choice::Right },
            judge: "judge".to_owned(),
            seconds: 1.0,
        }
    }

    /// Kendall's tau of what is believed with the truth.
    fn tau(&self, said: &[Said]) -> f64 {
        let all: Vec<usize> = (0..self.strengths.len()).collect();
        let belief = belief(&games(said.iter()), &all).unwrap();
        let found = belief.strengths();
        let signs = pairs(&all).map(|(one, other)| {
            let known = found[one] - found[other];
            (known * (self.strengths[one] - self.strengths[other])).signum()
                * f64::from(known.abs() > 1e-9)
        });
        let count = all.len() * (all.len() - 1) / 2;
        signs.sum::<f64>() / count as f64
    }

    /// Tau after each key where the order of the session chooses.
    fn by_information(&self, items: &Items) -> (Vec<f64>, Vec<Said>) {
        let order = Order::new(items, self.seed);
        let (mut said, mut taus) = (Vec::new(), Vec::new());
        loop {
            let asked = Asked {
                own: said.iter().collect(),
                others: Vec::new(),
            };
            // What comes again measures the judge, not the items.
            let Some(pair) = order.next(&asked).unwrap() else {
                break;
            };
            let repeat = pair.repeat;
            said.push(self.said(said.len(), pair));
            if !repeat {
                taus.push(self.tau(&said));
            }
        }
        (taus, said)
    }

    /// Tau after each key where pairs come in an order drawn at random, until all have met.
    fn at_random(&self) -> Vec<f64> {
        let all: Vec<usize> = (0..self.strengths.len()).collect();
        let all: Vec<(usize, usize)> = pairs(&all).collect();
        let mut said: Vec<Said> = Vec::new();
        let order = permutation(derive_seed(self.seed, "random", &[]), all.len());
        let tau = |place: usize| {
            let (left, right) = all[place];
            said.push(self.said(
                said.len(),
                Pair {
                    left,
                    right,
                    repeat: false,
                },
            ));
            self.tau(&said)
        };
        order.into_iter().map(tau).collect()
    }
}

/// Keys after which the mean of these curves is this high; none where it never is.
fn keys_to(curves: &[Vec<f64>], target: f64) -> Option<usize> {
    let keys = curves.iter().map(Vec::len).min().unwrap();
    (0..keys)
        .find(|&key| mean(curves, key) >= target)
        .map(|key| key + 1)
}

fn mean(curves: &[Vec<f64>], key: usize) -> f64 {
    curves.iter().map(|curve| curve[key]).sum::<f64>() / curves.len() as f64
}

/// Keys of a plan by information, tau after them, keys at random for as much, and tau after all pairs.
fn measure(count: usize, spread: f64, judges: u64) -> (usize, f64, usize, usize, f64) {
    let items = items(count);
    let judges = (0..judges).map(|seed| Judge::new(seed, count, spread));
    let curves: Vec<(Vec<f64>, Vec<f64>)> = judges
        .map(|judge| (judge.by_information(&items).0, judge.at_random()))
        .collect();
    let (chosen, random): (Vec<_>, Vec<_>) = curves.into_iter().unzip();
    let keys = chosen[0].len();
    let tau = mean(&chosen, keys - 1);
    let all = random[0].len();
    let round_robin = mean(&random, all - 1);
    (
        keys,
        tau,
        keys_to(&random, tau).unwrap_or(all),
        all,
        round_robin,
    )
}

#[test]
fn pairs_by_information_need_fewer_keys_than_random_ones() {
    let (keys, tau, random, all, round_robin) = measure(16, 4.0, 10);
    println!(
        "{keys} keys by information: tau {tau:.3}; at random {random} keys; all {all} pairs: {round_robin:.3}"
    );
    assert_eq!((keys, all), (64, 120));
    assert!(
        random * 10 > keys * 12,
        "{random} keys at random, {keys} by information"
    );
    assert!(tau > round_robin - 0.05);
}

#[test]
#[ignore = "minutes; writes a table"]
fn pairs_by_information_over_sizes() {
    let mut text = "# Pairs by hand: what the order of pairs saves, and whether intervals hold\n\n\
         `PREFTUNE_WRITE=1 cargo test -- --ignored pairs_by_information_over_sizes` makes this page in minutes. Judges are \
         simulated on planted rankings, 20 of each row of 8 and 16 images, 6 of 32; figures are their means. Strengths are normal \
         with the spread of the row, in logits: a judge of spread 2 has much noise, one of 4 little. The plan by information is \
         n log2 n keys; what comes again for self-agreement is not counted. Keys at random are those until Kendall's tau is as \
         high; all pairs where it never is.\n\n\
         | images | spread | keys by information | Kendall's tau | keys at random for as much | all pairs | tau of all pairs |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for (count, judges) in [(8, 20), (16, 20), (32, 6)] {
        for spread in [2.0, 4.0] {
            let (keys, tau, random, all, round_robin) = measure(count, spread, judges);
            writeln!(
                text,
                "| {count} | {spread} | {keys} | {tau:.3} | {random} | {all} | {round_robin:.3} |"
            )
            .unwrap();
        }
    }
    text += &intervals(200);
    println!("{text}");
    if std::env::var_os("PREFTUNE_WRITE").is_some() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/results/compare.md");
        std::fs::write(path, text).unwrap();
    }
}

/// Of runs in which somebody stops as soon as a win rate looks settled, the share whose interval holds the true one: by the
/// session's interval and by one for a number of keys that was fixed before.
fn settled_coverage(runs: u64, rate: f64, ties: f64) -> (f64, f64, f64) {
    let (mut held, mut naive, mut keys) = (0, 0, 0);
    for run in 0..runs {
        let seed = 1000 + run;
        let value = |key: u64| {
            if draw(seed, "tie", key) < ties {
                0.5
            } else {
                f64::from(draw(seed, "win", key) < rate)
            }
        };
        let truth = ties * 0.5 + (1.0 - ties) * rate;
        let holds = |[low, high]: [f64; 2]| low <= truth && truth <= high;
        let leaves_out = |[low, high]: [f64; 2]| low > 0.5 || high < 0.5;
        let (mut values, mut fixed) = (Vec::new(), None);
        for key in 0..150 {
            values.push(value(key));
            let wins = values.iter().sum::<f64>().round() as usize;
            let interval = wilson(wins, values.len()).unwrap();
            if key >= 9 && fixed.is_none() && leaves_out(interval) {
                fixed = Some(interval);
            }
            if key % 5 == 4 && leaves_out(win_rate::interval(&values, 0.95)) {
                break;
            }
        }
        held += u64::from(holds(win_rate::interval(&values, 0.95)));
        naive += u64::from(fixed.is_none_or(holds));
        keys += values.len();
    }
    let share = |count: u64| count as f64 / runs as f64;
    (share(held), share(naive), keys as f64 / runs as f64)
}

/// Shares of true strengths inside the intervals of rankings whose pairs were chosen by information, over runs.
fn ranking_coverage(runs: u64, count: usize) -> f64 {
    let items = items(count);
    let (mut held, mut all) = (0_usize, 0_usize);
    for run in 0..runs {
        // Strengths as the belief before any key has them.
        let judge = Judge::new(5000 + run, count, 10.0_f64.sqrt());
        let said = judge.by_information(&items).1;
        let pairs = games(said.iter());
        let pairs = pairs
            .iter()
            .map(|game| {
                let mut pair = preftune::ranking::Pair::new(
                    game.said.pair.left as u32,
                    game.said.pair.right as u32,
                );
                pair.add(game.outcome, game.weight);
                pair
            })
            .collect();
        let counts = Counts::new(count, pairs).unwrap();
        let fit = bradley_terry::fit(&counts, Ties::Half, Prior::default(), None).unwrap();
        let intervals = posterior::intervals(&counts, &fit, 0.95).unwrap();
        let middle = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        for (strength, [low, high]) in judge.strengths.iter().zip(intervals) {
            let truth = strength - middle(&judge.strengths);
            held += usize::from(low <= truth && truth <= high);
            all += 1;
        }
    }
    held as f64 / all as f64
}

fn share_coverage(runs: u64, rate: f64, keys: u64) -> f64 {
    let held = (0..runs).filter(|run| {
        let hits = (0..keys)
            .filter(|key| draw(9000 + run, "left", *key) < rate)
            .count();
        let [low, high] = wilson(hits, keys as usize).unwrap();
        low <= rate && rate <= high
    });
    held.count() as f64 / runs as f64
}

fn intervals(runs: u64) -> String {
    let mut text = format!(
        "\n## Whether intervals hold\n\nShare of {runs} simulated sessions whose interval of 95 % holds the truth. Sessions stop as soon \
         as the win rate looks settled, or after 150 keys.\n\n| what | truth | held | mean keys |\n| --- | --- | --- | --- |\n"
    );
    for (rate, ties) in [(0.5, 0.0), (0.5, 0.3), (0.65, 0.2), (0.8, 0.1)] {
        let truth = ties * 0.5 + (1.0 - ties) * rate;
        let (held, naive, keys) = settled_coverage(runs, rate, ties);
        writeln!(
            text,
            "| win rate, {:.0} % ties | {truth:.2} | {held:.3} | {keys:.0} |",
            100.0 * ties
        )
        .unwrap();
        writeln!(text, "| the same by an interval for a fixed number of keys (Wilson) | {truth:.2} | {naive:.3} | |").unwrap();
    }
    for (rate, keys) in [(0.5, 100), (0.6, 100), (0.9, 20)] {
        writeln!(
            text,
            "| share of the left side | {rate} | {:.3} | {keys} |",
            share_coverage(runs, rate, keys)
        )
        .unwrap();
    }
    for count in [4, 8] {
        writeln!(
            text,
            "| strengths of {count} images | | {:.3} | |",
            ranking_coverage(runs, count)
        )
        .unwrap();
    }
    text
}

#[test]
fn intervals_hold_the_truth_in_95_of_100_sessions_that_stop_when_it_looks_settled() {
    for (rate, ties) in [(0.5, 0.0), (0.65, 0.2)] {
        let (held, naive, keys) = settled_coverage(200, rate, ties);
        println!(
            "rate {rate}, ties {ties}: {held:.3} held, by Wilson's {naive:.3}, {keys:.0} keys"
        );
        assert!(held >= 0.95);
        if ties < 0.1 {
            assert!(
                naive < 0.9,
                "who watches is misled by an interval for a fixed number of keys"
            );
        }
    }
    let left = share_coverage(200, 0.6, 100);
    let strengths = ranking_coverage(200, 4);
    println!("left side {left:.3}, strengths {strengths:.3}");
    assert!(left >= 0.92 && strengths >= 0.93);
}

#[test]
fn alpha_is_that_of_the_published_example() {
    // Krippendorff (2011), section C: four observers, twelve units, values a to e as 0 to 4.
    let units = [
        vec![0, 0, 0],
        vec![1, 1, 2, 1],
        vec![2, 2, 2, 2],
        vec![2, 2, 2, 2],
        vec![1, 1, 1, 1],
        vec![0, 1, 2, 3],
        vec![3, 3, 3, 3],
        vec![0, 0, 1, 0],
        vec![1, 1, 1, 1],
        vec![4, 4, 4],
        vec![0, 0],
        vec![2],
    ];
    let alpha = nominal_alpha(&units).unwrap();
    assert!((alpha - 0.743).abs() < 0.001, "{alpha}");
    assert_eq!(nominal_alpha(&[vec![0], vec![1]]), None);
    assert_eq!(nominal_alpha(&[vec![1, 1], vec![1, 1]]), None);
    assert!((nominal_alpha(&[vec![0, 1], vec![1, 0]]).unwrap() + 0.5).abs() < 1e-9);
}

#[test]
fn an_interval_of_no_games_says_nothing_and_one_of_many_is_narrow() {
    let [low, high] = win_rate::interval(&[], 0.95);
    assert!(low <= 0.0 && high >= 1.0);
    let values: Vec<f64> = (0..1000)
        .map(|key| f64::from(u8::from(key % 10 < 7)))
        .collect();
    let [low, high] = win_rate::interval(&values, 0.95);
    assert!(
        low > 0.63 && low < 0.7 && high > 0.7 && high < 0.77,
        "{low} {high}"
    );
    let [low, high] = wilson(7, 10).unwrap();
    assert!((low - 0.3968).abs() < 1e-3 && (high - 0.8922).abs() < 1e-3);
}
