//! The bootstrap over subjects.

use preftune::eval::bootstrap::{Bootstrap, mean};
use preftune::ops::random::{derive_seed, uniform};

/// Nearly normal draws: the sum of twelve uniform ones less six.
fn normal(seed: u64, counters: &[u64]) -> f64 {
    let draw = |part| uniform(derive_seed(seed, "test", &[counters, &[part]].concat()));
    (0..12).map(draw).sum::<f64>() - 6.0
}

fn singles(values: impl IntoIterator<Item = f64>) -> Vec<Vec<f64>> {
    values.into_iter().map(|value| vec![value]).collect()
}

#[test]
fn mean_weighs_clusters_and_not_values() {
    let mean = mean(&[vec![1.0, 1.0, 1.0], vec![4.0]]);
    assert!((mean - 2.5).abs() < 1e-12);
}

#[test]
fn one_cluster_has_no_interval() {
    assert_eq!(Bootstrap::default().interval(&[vec![1.0, 2.0]]), None);
    assert_eq!(Bootstrap::default().interval(&[]), None);
}

#[test]
fn two_clusters_give_their_range() {
    // Resampled means are 0, 1/2 and 1 with probabilities 1/4, 1/2, 1/4.
    let clusters = singles([0.0, 1.0]);
    assert_eq!(Bootstrap::default().interval(&clusters), Some((0.0, 1.0)));
    let half = Bootstrap {
        level: 0.4,
        ..Bootstrap::default()
    };
    assert_eq!(half.interval(&clusters), Some((0.5, 0.5)));
}

#[test]
fn equal_clusters_have_no_width() {
    let interval = Bootstrap::default().interval(&singles([0.25; 7]));
    assert_eq!(interval, Some((0.25, 0.25)));
}

#[test]
fn same_seed_gives_the_same_interval_and_another_one_nearly() {
    let clusters = singles((0..30).map(|subject| normal(5, &[subject])));
    let interval = |seed| {
        let bootstrap = Bootstrap {
            seed,
            ..Bootstrap::default()
        };
        bootstrap.interval(&clusters).unwrap()
    };
    assert_eq!(interval(3), interval(3));
    let (one, two) = (interval(3), interval(4));
    assert_ne!(one, two);
    assert!((one.0 - two.0).abs() < 0.05 && (one.1 - two.1).abs() < 0.05);
}

#[test]
fn interval_shifts_and_scales_with_the_values() {
    let values: Vec<f64> = (0..12).map(|subject| normal(6, &[subject])).collect();
    let bootstrap = Bootstrap::default();
    let (low, high) = bootstrap.interval(&singles(values.clone())).unwrap();
    let moved = singles(values.iter().map(|value| 3.0 * value + 10.0));
    let (moved_low, moved_high) = bootstrap.interval(&moved).unwrap();
    assert!((moved_low - (3.0 * low + 10.0)).abs() < 1e-12);
    assert!((moved_high - (3.0 * high + 10.0)).abs() < 1e-12);
}

#[test]
fn interval_is_that_of_normal_theory_where_there_are_many_clusters() {
    let values: Vec<f64> = (0..400).map(|subject| normal(7, &[subject])).collect();
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / count;
    let expected = 2.0 * 1.959_964 * (variance / count).sqrt();
    let (low, high) = Bootstrap::default().interval(&singles(values)).unwrap();
    let width = high - low;
    println!("width {width:.4}, normal theory {expected:.4}");
    assert!((width / expected - 1.0).abs() < 0.06);
    assert!((f64::midpoint(low, high) - mean).abs() < 0.05 * expected);
}

#[test]
fn interval_covers_the_truth_about_as_often_as_it_says() {
    let trials = 400;
    let bootstrap = Bootstrap {
        resamples: 400,
        ..Bootstrap::default()
    };
    let covered = (0..trials)
        .filter(|&trial| {
            let values = (0..30).map(|subject| normal(8, &[trial, subject]));
            let (low, high) = bootstrap.interval(&singles(values)).unwrap();
            low <= 0.0 && 0.0 <= high
        })
        .count();
    let share = covered as f64 / trials as f64;
    println!("covered {share:.3}");
    // 400 trials have a standard error of .011; the percentile interval of 30 clusters is slightly narrow.
    assert!((0.90..0.98).contains(&share));
}

#[test]
fn drawing_prompts_anew_widens_the_interval() {
    let clusters: Vec<Vec<f64>> = (0..10)
        .map(|subject| (0..5).map(|prompt| normal(9, &[subject, prompt])).collect())
        .collect();
    let width = |within| {
        let bootstrap = Bootstrap {
            within,
            ..Bootstrap::default()
        };
        let (low, high) = bootstrap.interval(&clusters).unwrap();
        high - low
    };
    assert!(width(true) > 1.1 * width(false));
}
