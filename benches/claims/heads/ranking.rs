//! Relative judgements against absolute scores: for the ranking of systems (arXiv 2406.00179), and as confidences of
//! answers (arXiv 2502.01126).

use preftune::ops::stable::sigmoid;
use preftune::ranking::confidence::selective_auc;
use preftune::ranking::{Counts, Outcome, Pair, Prior, Ties, bradley_terry, matchups};

use crate::common::{Report, differences, estimate, kendall, normals, seeds, uniforms};

const SYSTEMS: usize = 12;
const QUESTIONS: usize = 40;
const ITEMS: usize = 200;
const GAMES: usize = 10;

/// Rankings from scores 1 to 5 and from side-by-side judgements of one judge, one of each for an answer.
pub fn systems() -> Report {
    let mut report = Report::new(&["judge", "tau, mean of scores", "tau, Bradley-Terry"]);
    for (name, drift, compressed) in [
        ("steady scale", 0.0, 1.0),
        ("scale drifts from call to call", 2.0, 1.0),
        ("drifts, and nearly all get 4 or 5", 2.0, 0.4),
    ] {
        let (absolute, relative): (Vec<f64>, Vec<f64>) =
            seeds().map(|seed| rank(drift, compressed, seed)).unzip();
        report.row(&[
            name.to_owned(),
            estimate(&absolute).show(),
            estimate(&relative).show(),
        ]);
        if drift > 0.0 {
            let gain = differences(&relative, &absolute);
            report.claim(
                &format!(
                    "relative judgements recover the ranking better: {name} (by {})",
                    gain.show()
                ),
                gain.low > 0.0,
            );
        }
    }
    report
}

/// Kendall's tau with the planted strengths of both rankings, from as many calls of the judge.
fn rank(drift: f64, compressed: f64, seed: u64) -> (f64, f64) {
    let strengths: Vec<f64> = normals(seed, "strengths", SYSTEMS)
        .iter()
        .map(|s| 0.5 * s)
        .collect();
    let calls = QUESTIONS * SYSTEMS;
    let answers = normals(seed, "answers", calls);
    let quality = |question: usize, system: usize| {
        strengths[system] + 0.7 * answers[question * SYSTEMS + system]
    };
    let (noise, scale) = (
        normals(seed, "noise", 2 * calls),
        normals(seed, "scale", calls),
    );
    let mut scores = vec![0.0; SYSTEMS];
    for question in 0..QUESTIONS {
        for (system, score) in scores.iter_mut().enumerate() {
            let call = question * SYSTEMS + system;
            let seen = quality(question, system) + 0.5 * noise[call] + drift * scale[call];
            *score += (4.5 - 1.5 * compressed + compressed * seen)
                .round()
                .clamp(1.0, 5.0);
        }
    }
    // The drift of a call is the same for both answers in it; each is seen with its own noise.
    let mut pairs = Vec::new();
    let mut call = 0;
    for question in 0..QUESTIONS {
        // Two match-ups of each system are one call for each system.
        for (left, right) in matchups::plan(SYSTEMS, 2, seed * 1000 + question as u64) {
            let see = |system: usize, call: usize| quality(question, system) + 0.5 * noise[call];
            let lead = see(left, call) - see(right, calls + call);
            call += 1;
            pairs.push(game(left, right, lead > 0.0));
        }
    }
    let counts = Counts::new(SYSTEMS, pairs).unwrap();
    let fit = bradley_terry::fit(&counts, Ties::Half, Prior::default(), None).unwrap();
    (
        kendall(&scores, &strengths),
        kendall(&fit.theta, &strengths),
    )
}

fn game(left: usize, right: usize, left_wins: bool) -> Pair {
    let mut pair = Pair::new(left as u32, right as u32);
    pair.add(
        if left_wins {
            Outcome::Left
        } else {
            Outcome::Right
        },
        1.0,
    );
    pair
}

/// Selective AUC of confidences of simulated answerers.
pub fn confidence() -> Report {
    let by_seed: Vec<[f64; 4]> = seeds().map(answerer).collect();
    let of = |score: usize| -> Vec<f64> { by_seed.iter().map(|all| all[score]).collect() };
    let names = [
        "direct, in steps of .1",
        "agreement of 10 samples",
        "relative, 10 match-ups",
        "true probability",
    ];
    let mut report = Report::new(&["confidence", "selective AUC"]);
    for (score, name) in names.iter().enumerate() {
        report.row(&[(*name).to_owned(), estimate(&of(score)).show()]);
    }
    let gain = differences(&of(2), &of(0));
    report.claim(
        &format!(
            "relative confidence is better than direct (by {})",
            gain.show()
        ),
        gain.low > 0.0,
    );
    report
}

fn answerer(seed: u64) -> [f64; 4] {
    // Whether an answer is right is a coin with a bias that the answerer knows in part.
    let logits: Vec<f64> = normals(seed, "logits", ITEMS)
        .iter()
        .map(|z| 0.5 + 1.5 * z)
        .collect();
    let luck = uniforms(seed, "luck", ITEMS);
    let correct: Vec<bool> = (0..ITEMS)
        .map(|item| luck[item] < sigmoid(logits[item]))
        .collect();
    let felt: Vec<f64> = logits
        .iter()
        .zip(normals(seed, "felt", ITEMS))
        .map(|(logit, noise)| logit + 0.5 * noise)
        .collect();
    // Said aloud, nearly everything is .8 or .9, with a slip of the tongue.
    let slips = normals(seed, "slips", ITEMS);
    let direct: Vec<f64> = (0..ITEMS)
        .map(|item| (sigmoid(2.0 + 0.4 * felt[item] + 0.4 * slips[item]) * 10.0).round() / 10.0)
        .collect();
    // Samples agree with the answer as often as it is felt to be right.
    let samples: Vec<f64> = (0..ITEMS)
        .map(|item| {
            let draws = uniforms(seed, &format!("samples {item}"), GAMES);
            draws
                .iter()
                .filter(|draw| **draw < sigmoid(felt[item]))
                .count() as f64
        })
        .collect();
    let plan = matchups::plan(ITEMS, GAMES, seed);
    let choices = uniforms(seed, "choices", plan.len());
    let pairs = plan.iter().zip(choices).map(|(&(left, right), draw)| {
        game(
            left,
            right,
            draw < sigmoid(1.5 * (felt[left] - felt[right])),
        )
    });
    let counts = Counts::new(ITEMS, pairs.collect()).unwrap();
    let relative = bradley_terry::fit(&counts, Ties::Half, Prior::default(), None)
        .unwrap()
        .theta;
    [direct, samples, relative, logits].map(|score| selective_auc(&score, &correct).unwrap())
}
