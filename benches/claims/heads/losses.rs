//! What strengths of preferences are worth: Bradley-Terry, with a margin, scaled, and regression on ratings
//! (HelpSteer2-Preference, arXiv 2410.01257), on a planted reward with two amounts of noise.

use preftune::data::preferences::{Pair, Rating};
use preftune::models::heads::Head;
use tch::Tensor;

use crate::common::{
    Data, Recipe, Report, differences, estimate, fit, fit_ratings, normal, normals, numbers, pair,
    scalar, seeds,
};

const WIDTH: i64 = 24;
const PAIRS: usize = 300;
const JUDGED: usize = 1000;
const NOISE: [f64; 2] = [0.5, 1.5];
const METHODS: [(&str, &str); 4] = [
    ("Bradley-Terry", "task = \"bradley_terry\""),
    ("margin", "task = \"margin_bradley_terry\""),
    ("scaled", "task = \"scaled_bradley_terry\""),
    (
        "regression",
        "task = \"regression\"\nattributes = [\"rating\"]",
    ),
];

pub fn run() -> Report {
    let mut report = Report::new(&[
        "annotators' noise",
        "Bradley-Terry",
        "margin",
        "scaled",
        "regression",
    ]);
    for noise in NOISE {
        let by_seed: Vec<[f64; 4]> = seeds().map(|seed| accuracies(noise, seed)).collect();
        let of = |method: usize| -> Vec<f64> { by_seed.iter().map(|all| all[method]).collect() };
        let cells = (0..4).map(|method| estimate(&of(method)).show());
        let cells: Vec<String> = std::iter::once(format!("{noise}")).chain(cells).collect();
        report.row(&cells);
        for (other, name) in [(0, "plain"), (1, "with a margin"), (3, "regression")] {
            let gain = differences(&of(2), &of(other));
            report.claim(
                &format!(
                    "scaled is better than {name} with noise {noise} (by {})",
                    gain.show()
                ),
                gain.low > 0.0,
            );
        }
    }
    report
}

/// Accuracies on pairs without noise, by method.
fn accuracies(noise: f64, seed: u64) -> [f64; 4] {
    let count = 2 * (PAIRS + JUDGED);
    let responses = normal(seed, "responses", &[count as i64, WIDTH]);
    let weights = normal(seed, "weights", &[WIDTH]) / (WIDTH as f64).sqrt();
    let rewards = numbers(&responses.matmul(&weights));
    // An annotator sees each response with noise, rates it 0 to 4, and prefers by what was seen.
    let seen: Vec<f64> = rewards
        .iter()
        .zip(normals(seed, "annotator", count))
        .map(|(reward, luck)| reward + noise * luck)
        .collect();
    let judged = |values: &[f64], first: usize| -> Pair {
        let lead = values[first] - values[first + 1];
        let mut pair = if lead > 0.0 {
            pair(first, first + 1)
        } else {
            pair(first + 1, first)
        };
        pair.strength = (lead.abs() / (0.5 + 0.5 * noise)).ceil().clamp(1.0, 3.0);
        pair
    };
    let data = Data {
        responses,
        train: (0..PAIRS).map(|at| judged(&seen, 2 * at)).collect(),
        held_out: (PAIRS..PAIRS + JUDGED)
            .map(|at| judged(&rewards, 2 * at))
            .collect(),
        users: Vec::new(),
    };
    let ratings: Vec<Rating> = (0..2 * PAIRS)
        .map(|row| Rating {
            row,
            values: vec![(2.0 + seen[row]).round().clamp(0.0, 4.0)],
            held_out: None,
        })
        .collect();
    METHODS.map(|(name, model)| {
        let recipe = Recipe {
            model,
            kind: scalar(),
            hidden: &[],
            steps: 300,
            learning_rate: 1e-2,
            weight_decay: 0.1,
            seed,
        };
        let head = match name {
            "regression" => fit_ratings(&data.responses, &ratings, recipe),
            _ => fit(&data, recipe).0,
        };
        accuracy(&head, &data)
    })
}

fn accuracy(head: &Head, data: &Data) -> f64 {
    let weight = head
        .parameters()
        .into_iter()
        .find(|(name, _)| name == "reward.0.weight");
    let weight: Tensor = weight.unwrap().1;
    let rewards = numbers(&data.responses.matmul(&weight.tr()));
    let right = data
        .held_out
        .iter()
        .filter(|pair| rewards[pair.chosen] > rewards[pair.rejected]);
    right.count() as f64 / data.held_out.len() as f64
}
