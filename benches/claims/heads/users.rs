//! Users who disagree: PAL finds the planted groups and predicts users better than one model for all, also users it has
//! not seen, from a few of their choices (arXiv 2406.08469).

use preftune::data::preferences::Pair;
use preftune::models::heads::{Head, HeadKind, IdealPoint, IdealPointConfig, Network, Prototypes};
use preftune::ops::stable::sigmoid;
use preftune::rewards::ideal_point::squared_distance;
use preftune::trainer::reward::{Pairs, fit_users};
use tch::{Device, Kind, Tensor, no_grad};

use crate::common::{
    Data, Recipe, Report, differences, estimate, fit, metric, normal, numbers, pair, seeds,
    uniforms,
};

const WIDTH: i64 = 8;
const ITEMS: usize = 400;
/// As in the split of TL;DR by length: seven prefer the longer summary, three the shorter.
const MAJORITY: f64 = 0.7;
const SEEN: usize = 20;
const UNSEEN: usize = 20;
const TRAINED: usize = 30;
const JUDGED: usize = 40;
const FEW: [usize; 5] = [1, 2, 5, 10, 20];

pub fn run() -> Report {
    let runs: Vec<Run> = seeds().map(one).collect();
    let of = |value: &dyn Fn(&Run) -> f64| -> Vec<f64> { runs.iter().map(value).collect() };
    let mut report = Report::new(&["users", "one model for all", "PAL-A, 2 prototypes"]);
    let (all, own) = (of(&|run| run.seen.0), of(&|run| run.seen.1));
    report.row(&[
        "seen".to_owned(),
        estimate(&all).show(),
        estimate(&own).show(),
    ]);
    report.claim("better on seen users", differences(&own, &all).low > 0.0);
    for (at, few) in FEW.iter().enumerate() {
        let (all, own) = (of(&|run| run.unseen_all), of(&|run| run.unseen[at]));
        let name = format!("unseen, {few} choices");
        report.row(&[name, estimate(&all).show(), estimate(&own).show()]);
        if *few >= 5 {
            let what = format!("better on unseen users from {few} choices");
            report.claim(&what, differences(&own, &all).low > 0.0);
        }
    }
    let index = estimate(&of(&|run| run.rand));
    report.claim(
        &format!(
            "the planted groups are found (adjusted Rand index {})",
            index.show()
        ),
        index.low >= 0.9,
    );
    report
}

struct Run {
    /// Accuracy of one model and of PAL.
    seen: (f64, f64),
    unseen_all: f64,
    /// By the number of choices.
    unseen: Vec<f64>,
    rand: f64,
}

fn one(seed: u64) -> Run {
    let responses = normal(seed, "items", &[ITEMS as i64, WIDTH]);
    let ideals = normal(seed, "ideals", &[2, WIDTH]);
    let distance = |item: usize, group: usize| {
        let item = responses.get(item as i64).unsqueeze(0);
        squared_distance(&item, &ideals.get(group as i64).unsqueeze(0)).double_value(&[0])
    };
    let liking: Vec<[f64; 2]> = (0..ITEMS)
        .map(|item| [distance(item, 0), distance(item, 1)])
        .collect();
    let users = SEEN + UNSEEN;
    // The share is exact, so that every seed has both groups among seen and unseen users.
    let group = |user: usize| usize::from((user % 10) as f64 >= 10.0 * MAJORITY);
    let choices = |user: usize| -> Vec<Pair> {
        let count = TRAINED + JUDGED;
        let draws = uniforms(seed, &format!("user {user}"), 3 * count);
        let one = |draws: &[f64]| {
            let items = [draws[0], draws[1]].map(|draw| (draw * ITEMS as f64) as usize);
            let lead = liking[items[1]][group(user)] - liking[items[0]][group(user)];
            let first = draws[2] < sigmoid(lead);
            let [one, two] = if first { items } else { [items[1], items[0]] };
            let mut pair = pair(one, two);
            pair.user = Some(format!("{user:03}"));
            pair
        };
        draws
            .chunks(3)
            .map(one)
            .filter(|pair| pair.chosen != pair.rejected)
            .collect()
    };
    let all: Vec<Vec<Pair>> = (0..users).map(choices).collect();
    let split = |range: std::ops::Range<usize>| -> (Vec<Pair>, Vec<Pair>) {
        let train = all[range.clone()]
            .iter()
            .flat_map(|pairs| pairs[..TRAINED].to_vec());
        let judged = all[range]
            .iter()
            .flat_map(|pairs| pairs[TRAINED..].to_vec());
        (train.collect(), judged.collect())
    };
    let (train, held_out) = split(0..SEEN);
    let data = Data {
        responses,
        train,
        held_out,
        users: (0..SEEN).map(|user| format!("{user:03}")).collect(),
    };
    let (homogeneous, for_all) = model(&data, 1, seed);
    let (pal, for_each) = model(&data, 2, seed);
    let (few, judged) = split(SEEN..users);
    let unseen = FEW.iter().map(|count| {
        let mut first: Vec<Pair> = Vec::new();
        for pairs in few.chunks_by_user() {
            first.extend_from_slice(&pairs[..*count]);
        }
        adapted(&pal, &data, &first, &judged)
    });
    let truth: Vec<usize> = (0..SEEN).map(group).collect();
    Run {
        seen: (for_all, for_each),
        unseen_all: adapted(&homogeneous, &data, &few, &judged),
        unseen: unseen.collect(),
        rand: adjusted_rand(&truth, &clusters(&pal)),
    }
}

trait ByUser {
    fn chunks_by_user(&self) -> Vec<&[Pair]>;
}

impl ByUser for Vec<Pair> {
    fn chunks_by_user(&self) -> Vec<&[Pair]> {
        self.chunk_by(|one, two| one.user == two.user).collect()
    }
}

/// A model with this number of prototypes and its accuracy on seen users.
fn model(data: &Data, count: i64, seed: u64) -> (std::rc::Rc<Head>, f64) {
    let own = IdealPointConfig {
        width: WIDTH,
        count,
        prototypes: Prototypes::Points,
        users: data.users.clone(),
    };
    let recipe = Recipe {
        model: &format!("task = \"ideal_point\"\nwidth = {WIDTH}\nprototypes = {count}"),
        kind: HeadKind::IdealPoint(own),
        hidden: &[],
        steps: 800,
        learning_rate: 1e-2,
        weight_decay: 0.0,
        seed,
    };
    let (head, metrics) = fit(data, recipe);
    (head, metric(&metrics, "accuracy"))
}

fn points(head: &Head) -> &IdealPoint {
    let Network::IdealPoint(points) = head.network() else {
        panic!("an ideal-point head");
    };
    points
}

/// Accuracy on `judged` pairs of users whose weights are fitted to `few`.
fn adapted(head: &Head, data: &Data, few: &[Pair], judged: &[Pair]) -> f64 {
    let points = points(head);
    let users = fit_users(points, &data.embeddings(), few).unwrap();
    let names: Vec<String> = users.iter().map(|(name, _)| name.clone()).collect();
    let weights: Vec<f64> = users
        .iter()
        .flat_map(|(_, user)| user.weights.clone())
        .collect();
    let weights = Tensor::from_slice(&weights)
        .to_kind(Kind::Float)
        .view([-1, points.config().count]);
    let pairs = Pairs::new(judged, &names, Device::Cpu);
    no_grad(|| {
        let ideal = IdealPoint::ideal(
            &weights.index_select(0, &pairs.users),
            &points.prototypes(None),
        );
        let from = |rows: &Tensor| {
            squared_distance(&points.items(&data.responses.index_select(0, rows)), &ideal)
        };
        let right = from(&pairs.chosen).lt_tensor(&from(&pairs.rejected));
        right
            .to_kind(Kind::Float)
            .mean(Kind::Float)
            .double_value(&[])
    })
}

/// The prototype that weighs most, by user.
fn clusters(head: &Head) -> Vec<usize> {
    let points = points(head);
    let users = Tensor::arange(
        points.config().users.len() as i64,
        (Kind::Int64, Device::Cpu),
    );
    let first = numbers(&points.weights(&users).select(1, 0));
    first
        .into_iter()
        .map(|weight| usize::from(weight < 0.5))
        .collect()
}

/// Adjusted Rand index of two partitions into two parts (Hubert and Arabie 1985).
fn adjusted_rand(one: &[usize], other: &[usize]) -> f64 {
    let choose = |count: f64| count * (count - 1.0) / 2.0;
    let count = |i: usize, j: usize| {
        one.iter()
            .zip(other)
            .filter(|(a, b)| **a == i && **b == j)
            .count() as f64
    };
    let table = [[count(0, 0), count(0, 1)], [count(1, 0), count(1, 1)]];
    let cells: f64 = table.iter().flatten().map(|cell| choose(*cell)).sum();
    let rows: f64 = table.iter().map(|row| choose(row[0] + row[1])).sum();
    let columns: f64 = (0..2).map(|j| choose(table[0][j] + table[1][j])).sum();
    let expected = rows * columns / choose(one.len() as f64);
    let most = 0.5 * (rows + columns);
    if most > expected {
        (cells - expected) / (most - expected)
    } else {
        1.0
    }
}
