//! Log-sigmoid-centred rewards against raw ones for two properties that are to hold together, at equal divergence from
//! the base policy (arXiv 2402.00742).

use preftune::rewards::transform::{
    Prompt, Reference, all_good, optimal_policy, references, weighted_sum,
};

use crate::common::{Report, differences, estimate, normals, seeds, uniforms};

const PROMPTS: usize = 40;
const ANSWERS: usize = 64;
const DIVERGENCES: [f64; 3] = [0.5, 1.0, 2.0];

pub fn run() -> Report {
    let mut report = Report::new(&["KL", "sum of rewards: both good", "log-sigmoid: both good"]);
    for divergence in DIVERGENCES {
        let (raw, transformed): (Vec<f64>, Vec<f64>) =
            seeds().map(|seed| one(divergence, seed)).unzip();
        report.row(&[
            format!("{divergence}"),
            estimate(&raw).show(),
            estimate(&transformed).show(),
        ]);
        let gain = differences(&transformed, &raw);
        report.claim(
            &format!(
                "more answers are good in both at KL {divergence} (by {})",
                gain.show()
            ),
            gain.low > 0.0,
        );
    }
    report
}

/// Share of answers that are good in both properties, under both policies, mean over prompts.
fn one(divergence: f64, seed: u64) -> (f64, f64) {
    let count = PROMPTS * ANSWERS;
    // Rewards differ from quality by noise, and one answer in thirty has a reward far above what it deserves.
    let property = |name: &str| -> (Vec<f64>, Vec<f64>) {
        let quality = normals(seed, name, count);
        let noise = normals(seed, &format!("{name} noise"), count);
        let fooled = uniforms(seed, &format!("{name} fooled"), count);
        let reward = (0..count).map(|at| {
            quality[at] + 0.3 * noise[at] + if fooled[at] < 1.0 / 30.0 { 4.0 } else { 0.0 }
        });
        let reward = reward.collect();
        (quality, reward)
    };
    let (help, help_reward) = property("help");
    let (harm, harm_reward) = property("harm");
    let levels = |rewards: &[f64]| -> Vec<f64> {
        let prompts: Vec<Prompt> = rewards
            .chunks(ANSWERS)
            .map(|samples| Prompt {
                samples: samples.to_vec(),
                canonical: None,
            })
            .collect();
        references(Reference::Quantile(0.85), &prompts, 0).unwrap()
    };
    let (help_level, harm_level) = (levels(&help_reward), levels(&harm_reward));
    let base = vec![1.0 / ANSWERS as f64; ANSWERS];
    let (mut raw, mut transformed) = (0.0, 0.0);
    let levels = help_level.iter().zip(&harm_level).enumerate();
    for (prompt, (&help_level, &harm_level)) in levels {
        let range = prompt * ANSWERS..(prompt + 1) * ANSWERS;
        let good: Vec<bool> = range
            .clone()
            .map(|at| help[at] > 0.5 && harm[at] > 0.5)
            .collect();
        let sums: Vec<f64> = range
            .clone()
            .map(|at| weighted_sum(&[(help_reward[at], 1.0), (harm_reward[at], 1.0)]))
            .collect();
        let both: Vec<f64> = range
            .map(|at| all_good(&[(help_reward[at], help_level), (harm_reward[at], harm_level)]))
            .collect();
        raw += share(&tilted(&base, &sums, divergence), &good);
        transformed += share(&tilted(&base, &both, divergence), &good);
    }
    (raw / PROMPTS as f64, transformed / PROMPTS as f64)
}

fn share(policy: &[f64], good: &[bool]) -> f64 {
    policy
        .iter()
        .zip(good)
        .filter(|(_, good)| **good)
        .map(|(share, _)| share)
        .sum()
}

/// The optimal policy whose divergence from the base is `divergence`: `gamma` by bisection.
fn tilted(base: &[f64], rewards: &[f64], divergence: f64) -> Vec<f64> {
    let (mut low, mut high) = (1e-3_f64, 1e3_f64);
    for _ in 0..60 {
        let gamma = (low * high).sqrt();
        let policy = optimal_policy(base, rewards, gamma);
        let terms = policy.iter().zip(base).filter(|(p, _)| **p > 0.0);
        let reached: f64 = terms.map(|(p, q)| p * (p / q).ln()).sum();
        if reached > divergence {
            low = gamma;
        } else {
            high = gamma;
        }
    }
    optimal_policy(base, rewards, high)
}
