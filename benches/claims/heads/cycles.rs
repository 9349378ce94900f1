//! General preference models hold cycles that no scalar reward can, and are its equal where there are none
//! (arXiv 2410.02197).

use preftune::models::heads::{GeneralPreferenceConfig, HeadKind};

use crate::common::{
    Data, Estimate, Recipe, Report, differences, estimate, fit, metric, normal, normals, numbers,
    pair, scalar, seeds,
};

const WIDTH: i64 = 12;
const PROMPTS: usize = 150;

/// Largest difference of accuracies that counts as none.
const EQUAL: f64 = 0.02;

pub fn run() -> Report {
    let mut report = Report::new(&["data", "Bradley-Terry", "general preference, 2 planes"]);
    for length in [3, 5] {
        let (scalar, general) = both(&[], |seed| cycle(length, seed));
        report.row(&row(&format!("cycles of {length}"), &scalar, &general));
        report.claim(
            &format!("all pairs of {length}-cycles by the general model, with every seed"),
            general.iter().all(|accuracy| *accuracy >= 1.0),
        );
        let Estimate { low, high, .. } = estimate(&scalar);
        report.claim(
            &format!("Bradley-Terry stays within 0.05 of chance on {length}-cycles"),
            low > 0.45 && high < 0.55,
        );
    }
    for (heads, hidden) in [("linear heads", &[][..]), ("a hidden layer", &[32])] {
        let (scalar, general) = both(hidden, transitive);
        report.row(&row(&format!("transitive, {heads}"), &scalar, &general));
        let gap = differences(&general, &scalar);
        report.claim(
            &format!(
                "equal on transitive data, {heads} (difference {:+.3} [{:+.3}, {:+.3}], to lie within {EQUAL})",
                gap.mean, gap.low, gap.high
            ),
            gap.low > -EQUAL && gap.high < EQUAL,
        );
    }
    report
}

fn row(name: &str, scalar: &[f64], general: &[f64]) -> [String; 3] {
    [
        name.to_owned(),
        estimate(scalar).show(),
        estimate(general).show(),
    ]
}

/// Held-out accuracies of both models, with these hidden layers, by seed.
fn both(hidden: &[i64], data: impl Fn(u64) -> Data) -> (Vec<f64>, Vec<f64>) {
    let accuracy = |data: &Data, general: bool, seed: u64| {
        let own = GeneralPreferenceConfig {
            planes: 2,
            unit: true,
            gate: None,
            tau: 0.1,
        };
        let (model, kind) = if general {
            (
                "task = \"general_preference\"\nplanes = 2",
                HeadKind::GeneralPreference(own),
            )
        } else {
            ("task = \"bradley_terry\"", scalar())
        };
        let recipe = Recipe {
            model,
            kind,
            hidden,
            steps: 300,
            learning_rate: 3e-3,
            weight_decay: 0.01,
            seed,
        };
        metric(&fit(data, recipe).1, "accuracy")
    };
    seeds()
        .map(|seed| {
            let data = data(seed);
            (accuracy(&data, false, seed), accuracy(&data, true, seed))
        })
        .unzip()
}

/// For each prompt one answer of each of `length` kinds, each of which beats the next and the last the first.
fn cycle(length: usize, seed: u64) -> Data {
    let kinds = normal(seed, "kinds", &[1, length as i64, WIDTH]);
    let prompts = normal(seed, "prompts", &[PROMPTS as i64, 1, WIDTH]) * 0.2;
    let noise = normal(seed, "noise", &[PROMPTS as i64, length as i64, WIDTH]) * 0.2;
    let responses = (kinds + prompts + noise).view([-1, WIDTH]);
    let of_prompt = |prompt: usize| {
        (0..length).map(move |kind| {
            pair(
                prompt * length + kind,
                prompt * length + (kind + 1) % length,
            )
        })
    };
    let split = PROMPTS * 4 / 5;
    Data {
        responses,
        train: (0..split).flat_map(of_prompt).collect(),
        held_out: (split..PROMPTS).flat_map(of_prompt).collect(),
        users: Vec::new(),
    }
}

/// Pairs of answers to a planted reward, drawn by its Bradley-Terry probability; what is held out is the truth.
fn transitive(seed: u64) -> Data {
    let count = 2 * 600;
    let responses = normal(seed, "responses", &[count as i64, WIDTH]);
    let weights = normal(seed, "weights", &[WIDTH]);
    let rewards = numbers(&responses.matmul(&weights));
    let luck = normals(seed, "luck", count / 2);
    let judged = |first: usize, noise: f64| {
        if rewards[first] + noise > rewards[first + 1] {
            pair(first, first + 1)
        } else {
            pair(first + 1, first)
        }
    };
    let split = count / 2 * 2 / 3;
    Data {
        responses,
        train: (0..split).map(|at| judged(2 * at, luck[at])).collect(),
        held_out: (split..count / 2).map(|at| judged(2 * at, 0.0)).collect(),
        users: Vec::new(),
    }
}
