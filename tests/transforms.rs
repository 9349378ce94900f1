//! Transforms of rewards against worked values (float64), their limits, and bad input.

use preftune::rewards::transform::{
    ENOUGH_SAMPLES, Prompt, Reference, Transform, all_good, log_sigmoid, log_sigmoid_slope,
    optimal_policy, references, weighted_sum,
};

const SAMPLES: [f64; 8] = [-1.2, 0.3, 0.8, 1.1, 2.5, -0.4, 0.9, 1.6];

#[track_caller]
fn close(actual: f64, expected: f64) {
    let error = (actual - expected).abs();
    assert!(
        error < 1e-12,
        "{actual} is not {expected}: off by {error:e}"
    );
}

fn prompt(samples: &[f64]) -> Prompt {
    Prompt {
        samples: samples.to_vec(),
        canonical: None,
    }
}

/// The reference value of one prompt with enough samples.
fn reference(text: &str) -> f64 {
    references(text.parse().unwrap(), &[prompt(&SAMPLES)], ENOUGH_SAMPLES).unwrap()[0]
}

#[test]
fn log_sigmoid_gives_the_worked_values() {
    close(log_sigmoid(2.0, 1.0), -0.313261687518223);
    close(log_sigmoid(0.0, 1.0), -1.31326168751822);
    close(log_sigmoid(-3.0, 1.0), -4.01814992791781);
    close(log_sigmoid(8.0, 1.0), -0.000911466453774245);
    close(log_sigmoid_slope(2.0, 1.0), 0.268941421369995);
}

#[test]
fn log_sigmoid_keeps_its_digits_at_both_ends() {
    close(log_sigmoid(1000.0, 0.0), 0.0);
    close(log_sigmoid(-1000.0, 0.0), -1000.0);
    let far = log_sigmoid(50.0, 0.0);
    assert!((far / -(-50.0_f64).exp() - 1.0).abs() < 1e-15, "{far:e}");
    for reward in [-800.0, -3.0, 0.0, 2.0, 30.0] {
        let step = 1e-5;
        let slope = (log_sigmoid(reward + step, 1.0) - log_sigmoid(reward - step, 1.0)) / 2e-5;
        assert!((slope - log_sigmoid_slope(reward, 1.0)).abs() < 1e-8);
    }
}

#[test]
fn reference_values_of_samples_are_the_worked_ones() {
    close(reference("mean"), 0.7);
    close(reference("gaussian:0.85"), 1.81386456418207);
    close(reference("quantile:0.85"), 1.575);
    close(reference("fixed:0.25"), 0.25);
    // Half of a normal distribution is below its mean.
    close(reference("gaussian:0.5"), 0.7);
}

#[test]
fn a_canonical_reference_is_the_reward_of_that_answer() {
    let prompts = [1.5, -2.0].map(|canonical| Prompt {
        samples: vec![0.0],
        canonical: Some(canonical),
    });
    let values = references(Reference::Canonical, &prompts, ENOUGH_SAMPLES).unwrap();
    assert_eq!(values, [1.5, -2.0]);
    let error = references(Reference::Canonical, &[prompt(&SAMPLES)], 8).unwrap_err();
    assert!(error.to_string().contains("prompt 0"), "{error}");
}

#[test]
fn with_few_samples_a_reference_is_pulled_towards_that_of_all_prompts() {
    let prompts = [prompt(&[4.0, 6.0]), prompt(&SAMPLES)];
    let all = (10.0 + SAMPLES.iter().sum::<f64>()) / 10.0;
    let values = references(Reference::Mean, &prompts, 8).unwrap();
    close(values[0], 0.25 * 5.0 + 0.75 * all);
    close(values[1], 0.7);
    // Without the pull, each prompt stands for itself.
    let values = references(Reference::Mean, &prompts, 0).unwrap();
    close(values[0], 5.0);
    // What is not made of samples is not pulled.
    let values = references(Reference::Fixed(3.0), &prompts, 8).unwrap();
    assert_eq!(values, [3.0, 3.0]);
    // A quantile is pulled towards the quantile of all samples.
    let pooled: Vec<f64> = prompts.iter().flat_map(|p| p.samples.clone()).collect();
    let choice = Reference::Quantile(0.85);
    let all = references(choice, &[prompt(&pooled)], 0).unwrap()[0];
    let values = references(choice, &prompts, 8).unwrap();
    close(values[0], 0.25 * 5.7 + 0.75 * all);
}

#[test]
fn prompts_without_rewards_or_with_broken_ones_are_refused() {
    let none = references(Reference::Mean, &[prompt(&SAMPLES), prompt(&[])], 8).unwrap_err();
    assert!(
        none.to_string().contains("prompt 1 has no samples"),
        "{none}"
    );
    let broken = references(Reference::Mean, &[prompt(&[0.0, f64::NAN])], 8).unwrap_err();
    assert!(broken.to_string().contains("not finite"), "{broken}");
}

#[test]
fn all_good_is_a_logical_and() {
    let one = [(1.4, 0.8), (-0.5, 0.3)];
    let two = [(0.6, 0.8), (0.5, 0.3)];
    close(all_good(&one), -1.60858861643366);
    close(all_good(&one).exp(), 0.200169931350881);
    close(all_good(&two), -1.39627773876318);
    close(all_good(&two).exp(), 0.24751657271186);
    // However good the one property is, the other one bounds the whole.
    assert!(all_good(&[(1e6, 0.8), (-0.5, 0.3)]) <= log_sigmoid(-0.5, 0.3));
    close(weighted_sum(&[(1.4, 1.0), (-0.5, 1.0)]), 0.9);
    close(weighted_sum(&[(1.4, 0.5), (-0.5, 2.0)]), -0.3);
}

#[test]
fn the_optimal_policy_gives_the_worked_values() {
    let (base, rewards) = ([0.5, 0.3, 0.2], [0.0, 1.0, 4.0]);
    let centred = rewards.map(|reward| log_sigmoid(reward, 1.0));
    let cases = [
        (
            optimal_policy(&base, &centred, 1.0),
            [0.283104853683352, 0.315799089899809, 0.401096056416839],
        ),
        (
            optimal_policy(&base, &rewards, 1.0),
            [0.0408659843555664, 0.0666511576054967, 0.892482858038937],
        ),
        (
            optimal_policy(&base, &centred, 0.5),
            [0.123579211315964, 0.25628387780733, 0.620136910876705],
        ),
    ];
    for (policy, expected) in cases {
        for (actual, expected) in policy.into_iter().zip(expected) {
            close(actual, expected);
        }
    }
    let extreme = optimal_policy(&base, &[0.0, 2000.0, 0.0], 1.0);
    assert_eq!(extreme, [0.0, 1.0, 0.0]);
}

#[test]
fn the_simpler_transforms_do_what_they_say() {
    let deviation = 1.07470926301023;
    close(
        Transform::Standardise.apply(0.7 + deviation, 9.0, &SAMPLES),
        1.0,
    );
    close(Transform::Standardise.apply(3.0, 9.0, &[2.0, 2.0]), 0.0);
    let clip = Transform::Clip(1.5);
    close(clip.apply(9.0, 1.0, &[]), 1.5);
    close(clip.apply(-9.0, 1.0, &[]), -1.5);
    close(clip.apply(1.25, 1.0, &[]), 0.25);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    close(
        Transform::Par.apply(1.0, 9.0, &[0.0, 3.0]),
        f64::midpoint(sigmoid(1.0), sigmoid(-2.0)),
    );
    close(
        Transform::LogSigmoid.apply(2.0, 1.0, &[]),
        -0.313261687518223,
    );
}

#[test]
fn choices_are_read_from_text_and_nonsense_is_refused() {
    assert_eq!("par".parse(), Ok(Transform::Par));
    assert_eq!("clip:2".parse(), Ok(Transform::Clip(2.0)));
    assert_eq!("quantile:0.9".parse(), Ok(Reference::Quantile(0.9)));
    for text in [
        "clip", "clip:0", "clip:-1", "clip:NaN", "sigmoid", "par:1", "",
    ] {
        assert!(text.parse::<Transform>().is_err(), "{text}");
    }
    for text in [
        "quantile",
        "quantile:1",
        "quantile:0",
        "quantile:NaN",
        "gaussian:85",
        "fixed:inf",
        "mean:1",
        "photos",
        "",
    ] {
        assert!(text.parse::<Reference>().is_err(), "{text}");
    }
}
