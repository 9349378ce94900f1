//! Rewards and labels against worked values of the RPO paper's formulas (float64).

use preftune::rewards::bradley_terry::{
    NEAR_DUPLICATE, entropy_bits, near_duplicates, probability, sample, statistics,
};
use preftune::rewards::harmonic::{
    check_lambda, image_cosine, image_similarity, lambda_harmonic, text_cosine, text_similarity,
    unit,
};
use preftune::rewards::oracle::{leave_one_out, real_to_real};
use tch::{Kind, Tensor};

#[track_caller]
fn close(actual: f64, expected: f64) {
    assert!(
        (actual - expected).abs() < 1e-12,
        "{actual} is not {expected}"
    );
}

fn normalised(rows: &[[f64; 3]]) -> Tensor {
    let rows = Tensor::from_slice2(rows);
    let length = rows.square().sum_dim_intlist(-1, true, Kind::Double).sqrt();
    rows / length
}

#[test]
fn lambda_harmonic_gives_the_worked_values() {
    close(lambda_harmonic(0.9, 0.01, 0.5), 0.0197802197802198);
    close(lambda_harmonic(0.7, 0.21, 0.5), 0.323076923076923);
    for (lambda, reward) in [(0.3, 0.709), (0.5, 0.755), (0.7, 0.807)] {
        assert!((lambda_harmonic(0.9, 0.65, lambda) - reward).abs() < 5e-4);
    }
}

#[test]
fn rewards_of_features_give_the_worked_values() {
    let image = normalised(&[[1.0, 2.0, 2.0]]);
    let references = normalised(&[[1.0, 2.0, 2.5], [0.0, 3.0, 1.0]]);
    let text = normalised(&[[2.0, 0.0, 1.0]]);
    let similarity = image_similarity(&image, &references)[0];
    let alignment = text_similarity(&image, &text)[0];
    close(similarity, 0.959270508177869);
    close(alignment, 0.798142396999972);
    close(
        image_cosine(&image, &references)[0],
        2.0 * 0.959270508177869 - 1.0,
    );
    close(text_cosine(&image, &text)[0], 2.0 * 0.798142396999972 - 1.0);
    for (lambda, reward) in [
        (0.3, 0.840495668039763),
        (0.5, 0.871319950493919),
        (0.7, 0.904491200880322),
    ] {
        close(lambda_harmonic(similarity, alignment, lambda), reward);
    }
}

#[test]
fn lambda_harmonic_is_exact_at_the_ends_and_finite_at_zero() {
    for (image, text) in [(0.85, 0.62), (0.0, 0.3), (1.0, 0.0), (0.1 + 0.2, 0.7)] {
        assert_eq!(lambda_harmonic(image, text, 0.0).to_bits(), text.to_bits());
        assert_eq!(lambda_harmonic(image, text, 1.0).to_bits(), image.to_bits());
    }
    let nothing = lambda_harmonic(0.0, 0.9, 0.3);
    assert!(nothing.is_finite() && (0.0..1e-7).contains(&nothing));
    assert!(lambda_harmonic(-1e-17, 0.0, 0.5) >= 0.0);
}

#[test]
fn the_pull_of_lambda_is_the_derivative() {
    // d r / d image = lambda r^2 / image^2, and likewise for the text.
    let (image, text, step) = (0.9, 0.65, 1e-6);
    for (lambda, by_image, by_text) in [
        (0.3, 0.186, 0.833),
        (0.5, 0.352, 0.674),
        (0.7, 0.563, 0.462),
    ] {
        let change = |i: f64, t: f64| {
            (lambda_harmonic(image + i, text + t, lambda)
                - lambda_harmonic(image - i, text - t, lambda))
                / (2.0 * step)
        };
        assert!((change(step, 0.0) - by_image).abs() < 1e-3);
        assert!((change(0.0, step) - by_text).abs() < 1e-3);
    }
}

#[test]
fn lambda_outside_its_range_is_refused() {
    for lambda in [0.0, 0.5, 1.0] {
        check_lambda(lambda).unwrap();
    }
    for lambda in [-0.1, 1.000001, f64::NAN, f64::INFINITY] {
        assert_eq!(check_lambda(lambda).unwrap_err().exit_code(), 2);
    }
}

#[test]
fn features_in_single_precision_lose_nothing_more() {
    let image = normalised(&[[1.0, 2.0, 2.0], [0.3, -1.0, 0.2]]);
    let references = normalised(&[[1.0, 2.0, 2.5], [0.0, 3.0, 1.0], [-1.0, 0.1, 4.0]]);
    let exact = image_cosine(&image, &references);
    let single = image_cosine(
        &image.to_kind(Kind::Float),
        &references.to_kind(Kind::Float),
    );
    for (exact, single) in exact.iter().zip(single) {
        assert!((exact - single).abs() < 1e-7);
    }
    // One prompt for all images, or one each.
    let one = text_cosine(&image, &references.narrow(0, 0, 1));
    let each = text_cosine(&image, &references.narrow(0, 0, 2));
    close(one[0], each[0]);
    assert!((one[1] - each[1]).abs() > 0.1);
}

#[test]
fn references_are_compared_with_the_others_alone() {
    let references = normalised(&[[1.0, 2.0, 2.5], [0.0, 3.0, 1.0], [-1.0, 0.1, 4.0]]);
    let rest = |skip: i64| {
        let others: Vec<i64> = (0..3).filter(|&index| index != skip).collect();
        references.index_select(0, &Tensor::from_slice(&others))
    };
    let values = leave_one_out(&references).unwrap();
    for (index, value) in values.iter().enumerate() {
        let itself = references.narrow(0, index as i64, 1);
        close(*value, image_cosine(&itself, &rest(index as i64))[0]);
    }
    close(
        real_to_real(&references).unwrap(),
        values.iter().sum::<f64>() / 3.0,
    );
    let single = references.narrow(0, 0, 1);
    assert!(leave_one_out(&single).is_none() && real_to_real(&single).is_none());
}

#[test]
fn label_probability_gives_the_worked_values() {
    let (reference, generated) = (unit(0.18), unit(0.27));
    close(probability(reference, generated, 1.0), 0.488751898053145);
    for (tau, expected) in [(0.1, 0.389), (0.02, 0.0953), (0.01, 0.0110)] {
        assert!((probability(reference, generated, tau) - expected).abs() < 5e-4);
    }
    close(probability(0.4, 0.4, 1e-9), 0.5);
    close(probability(0.9, 0.1, 1e-9), 1.0);
    close(probability(0.1, 0.9, 1e-9), 0.0);
}

#[test]
fn sampled_labels_follow_their_probability_and_their_seed() {
    for expected in [0.0, 0.11, 0.489, 1.0] {
        let draws: Vec<f64> = (0..20_000)
            .map(|index| {
                let seed = preftune::ops::random::derive_seed(7, "label", &[index]);
                assert_eq!(
                    sample(expected, seed).to_bits(),
                    sample(expected, seed).to_bits()
                );
                sample(expected, seed)
            })
            .collect();
        assert!(draws.iter().all(|label| [0.0, 1.0].contains(label)));
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        assert!((mean - expected).abs() < 0.015, "{mean} for {expected}");
    }
}

#[test]
fn entropy_is_one_bit_for_a_coin_and_none_for_a_certainty() {
    close(entropy_bits(0.5), 1.0);
    close(entropy_bits(0.0), 0.0);
    close(entropy_bits(1.0), 0.0);
    close(entropy_bits(0.11), 0.499915958164528);
}

#[test]
fn statistics_tell_coin_flips_from_preferences() {
    let rewards = [(0.59, 0.635), (0.6, 0.6), (0.9, 0.1), (0.5, 0.51)];
    let coins = statistics(&rewards, 1.0);
    assert_eq!(coins.pairs, 4);
    close(coins.coin_flips, 0.75);
    close(coins.mean_gap, (-0.045 + 0.8 - 0.01) / 4.0);
    assert!(coins.mean_entropy_bits > 0.9);
    let counted: usize = coins.histogram.iter().map(|bar| bar.count).sum();
    assert_eq!(counted, 4);
    assert_eq!(coins.histogram.len(), 8);
    close(coins.histogram[0].from, -0.045);
    close(coins.histogram[7].to, 0.8);
    assert_eq!(coins.histogram[7].count, 1);
    let clear = statistics(&rewards, 0.001);
    close(clear.coin_flips, 0.25);
    assert!(clear.mean_entropy_bits < 0.3);
    let same = statistics(&[(0.5, 0.5), (0.4, 0.4)], 1.0);
    assert_eq!(same.histogram.len(), 1);
    assert_eq!(same.histogram[0].count, 2);
    close(same.gap_deviation, 0.0);
}

#[test]
fn near_duplicates_name_the_most_similar_earlier_image() {
    let features = normalised(&[
        [1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0],
        [1.0, 0.15, 0.0],
        [0.02, 1.0, 0.0],
        [0.0, 0.0, 1.0],
        [1.0, 0.16, 0.0],
    ]);
    assert_eq!(
        near_duplicates(&features, NEAR_DUPLICATE),
        [(2, 0), (3, 1), (5, 2)]
    );
    assert!(near_duplicates(&features.narrow(0, 0, 1), NEAR_DUPLICATE).is_empty());
    assert!(near_duplicates(&features, 1.0 + 1e-9).is_empty());
}

#[test]
fn what_is_kept_of_a_class_and_the_reward_that_counts_it_have_the_worked_values() {
    use preftune::rewards::specific::{class_kept, hypervolume, specific};
    let near = |actual: f64, expected: f64| assert!((actual - expected).abs() < 1e-12, "{actual}");
    near(class_kept(0.372, 0.306), 1.0 - 0.066 / 0.694);
    near(class_kept(0.2, 0.306), 1.0);
    near(class_kept(1.0, 0.306), 0.0);
    near(class_kept(1.0, 1.0), 1.0);
    near(
        specific(0.8, 0.75, 0.9, 0.5),
        3.0 / (1.0 / 0.8 + 1.0 / 0.75 + 1.0 / 0.9),
    );
    // All of the class kept, and lambda at an end: two thirds of one side.
    near(
        specific(0.8, 0.75, 1.0, 1.0),
        1.0 / (2.0 / 3.0 / 0.8 + 1.0 / 3.0),
    );
    near(
        specific(0.8, 0.75, 1.0, 0.0),
        1.0 / (2.0 / 3.0 / 0.75 + 1.0 / 3.0),
    );
    assert!(specific(0.8, 0.75, 0.0, 0.5) < 1e-7);
    near(hypervolume(0.585, 0.603, 0.905), 0.585 * 0.603 * 0.905);
    near(hypervolume(-0.1, 0.6, 1.0), 0.0);
}
