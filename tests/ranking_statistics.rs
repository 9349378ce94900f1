//! What goes with a ranking: resampling, win rates, cycles, calibration, confidences; against closed forms and
//! plain counting.

use std::fs;
use std::path::Path;

use preftune::Error;
use preftune::ranking::bootstrap::{bootstrap, ranks};
use preftune::ranking::bradley_terry::fit;
use preftune::ranking::calibration::calibration;
use preftune::ranking::confidence::{auroc, selective_accuracy, selective_auc};
use preftune::ranking::standard_errors::sandwich;
use preftune::ranking::transitivity::{Triads, triads};
use preftune::ranking::{Counts, Game, Outcome, Pair, Ties};

use crate::ranking::{NO_PRIOR, assert_near, counts_of, four_times, game, gaussian, read_all};
use crate::support::shared;

#[test]
fn average_win_rates_count_opponents_and_not_games() {
    let pairs = vec![
        Pair::with(0, 1, 100.0, 0.0, 0.0),
        Pair::with(0, 2, 0.0, 1.0, 1.0),
    ];
    let counts = Counts::new(4, pairs).unwrap();
    assert_near(&counts.average_win_rates(), &[0.625, 0.0, 0.75, 0.5], 1e-15);
}

#[test]
fn cyclic_triads_are_counted_as_by_hand() {
    let beats = |list: &[(u32, u32)]| {
        let games: Vec<Game> = list
            .iter()
            .map(|&(winner, loser)| game(winner, loser, Outcome::Left))
            .collect();
        triads(&counts_of(5, &games))
    };
    let circle = beats(&[(0, 1), (1, 2), (2, 0)]);
    assert_eq!(
        circle,
        Triads {
            decided: 1,
            cyclic: 1
        }
    );
    assert_near(&[circle.intransitivity().unwrap()], &[1.0], 0.0);
    let order = beats(&[(0, 1), (1, 2), (0, 2)]);
    assert_eq!(
        order,
        Triads {
            decided: 1,
            cyclic: 0
        }
    );
    let chain = beats(&[(0, 1), (1, 2), (2, 3)]);
    assert_eq!(
        chain,
        Triads {
            decided: 0,
            cyclic: 0
        }
    );
    assert_eq!(chain.intransitivity(), None);
    // Everybody beats the next two of five: the regular tournament has the most circles, (n^3 - n) / 24.
    let regular: Vec<(u32, u32)> = (0..5)
        .flat_map(|i| [(i, (i + 1) % 5), (i, (i + 2) % 5)])
        .collect();
    assert_eq!(
        beats(&regular),
        Triads {
            decided: 10,
            cyclic: 5
        }
    );
}

#[test]
fn triads_agree_with_all_triples_of_a_random_graph() {
    // About half of all pairs met, with results that follow nothing.
    let pairs = (0..60_u32).flat_map(|i| {
        (0..i).filter_map(move |j| {
            let noise = i
                .wrapping_mul(2654435761_u32.wrapping_mul(j + 7))
                .wrapping_mul(40503)
                >> 16;
            let (wins, losses) = (noise % 4, noise / 4 % 4);
            (noise / 16 % 2 == 0).then(|| Pair::with(i, j, f64::from(wins), f64::from(losses), 1.0))
        })
    });
    let pairs: Vec<Pair> = pairs.collect();
    let counts = Counts::new(60, pairs.clone()).unwrap();
    let mut sign = vec![vec![0_i8; 60]; 60];
    for pair in counts.pairs() {
        let (i, j) = (pair.first as usize, pair.second as usize);
        sign[i][j] = if pair.wins > pair.losses {
            1
        } else if pair.wins < pair.losses {
            -1
        } else {
            0
        };
        sign[j][i] = -sign[i][j];
    }
    let mut expected = Triads {
        decided: 0,
        cyclic: 0,
    };
    for i in 0..60 {
        for j in i + 1..60 {
            for k in j + 1..60 {
                let (a, b, c) = (sign[i][j], sign[j][k], sign[k][i]);
                expected.decided += u64::from(a != 0 && b != 0 && c != 0);
                expected.cyclic += u64::from(a != 0 && a == b && b == c);
            }
        }
    }
    println!("{expected:?}");
    assert!(expected.cyclic > 0 && expected.decided > expected.cyclic);
    assert_eq!(triads(&counts), expected);
    // Among many items without games they are counted another way.
    let counts = Counts::new(20_000, pairs).unwrap();
    assert_eq!(triads(&counts), expected);
}

#[test]
fn calibration_sees_both_sides_of_the_truth() {
    let pairs = vec![
        Pair::with(0, 1, 7.0, 3.0, 0.0),
        Pair::with(0, 2, 9.0, 1.0, 0.0),
    ];
    let counts = Counts::new(3, pairs).unwrap();
    let table = calibration(&counts, |_, j| if j == 1 { 0.72 } else { 0.73 });
    assert_eq!(table.bins.len(), 1);
    assert_near(&[table.bins[0].predicted], &[0.725], 1e-12);
    assert_near(
        &[table.bins[0].observed, table.bins[0].games],
        &[0.8, 20.0],
        1e-12,
    );
    assert_near(&[table.expected_error], &[0.075], 1e-12);
    let certain = calibration(&counts, |_, _| 0.0);
    assert_near(&[certain.bins[0].observed], &[0.2], 1e-12);
}

#[test]
fn confidences_are_scored_with_equal_ones_in_one_block() {
    let confidence = [0.9, 0.8, 0.8, 0.6, 0.4, 0.3];
    let correct = [true, false, true, true, false, true];
    let accuracy = selective_accuracy(&confidence, &correct).unwrap();
    let expected = [1.0, 0.75, 2.0 / 3.0, 0.75, 0.6, 2.0 / 3.0];
    assert_near(&accuracy, &expected, 1e-14);
    assert_near(
        &[selective_auc(&confidence, &correct).unwrap()],
        &[0.738888888888889],
        1e-14,
    );
    assert_near(&[auroc(&confidence, &correct).unwrap()], &[0.5625], 1e-14);
    // The order of the input does not matter, nor does the sign of zero.
    let (mut backwards, mut answers) = (confidence, correct);
    backwards.reverse();
    answers.reverse();
    assert_near(
        &selective_accuracy(&backwards, &answers).unwrap(),
        &expected,
        1e-14,
    );
    assert_near(&[auroc(&[0.0, -0.0], &[true, false]).unwrap()], &[0.5], 0.0);
    assert!(auroc(&[0.1, 0.2], &[true, true]).is_err());
    assert!(selective_auc(&[], &[]).is_err());
    assert!(selective_auc(&[0.1], &[true, false]).is_err());
    assert!(selective_auc(&[f64::NAN], &[true]).is_err());
}

#[test]
fn ranks_of_equals_are_equal() {
    assert_eq!(ranks(&[1.0, 3.0, 1.0, 2.0, 0.0]), [3, 1, 3, 2, 5]);
}

/// Ten rows of every game of the four items.
fn four_file(folder: &Path) -> std::path::PathBuf {
    let mut text = String::from("left,right,winner\n");
    for pair in four_times(10.0).pairs() {
        for (winner, games) in [
            ("left", pair.wins),
            ("right", pair.losses),
            ("tie", pair.ties),
        ] {
            let row = format!("item{},item{},{winner}\n", pair.first, pair.second);
            text += &row.repeat(games as usize);
        }
    }
    let path = folder.join("four.csv");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn resampled_rows_spread_like_sandwich_errors() {
    let folder = tempfile::tempdir().unwrap();
    let comparisons = read_all(&four_file(folder.path()), true);
    assert_eq!((comparisons.rows, comparisons.groups), (620, 0));
    assert_eq!(comparisons.games.len(), 14);
    let counts = comparisons.counts().unwrap();
    let start = fit(&counts, Ties::Half, NO_PRIOR, None).unwrap();
    let refit =
        |counts: &Counts| fit(counts, Ties::Half, NO_PRIOR, Some(&start)).map(|fit| fit.theta);
    let resampled = bootstrap(&comparisons, &counts, 4000, 3, refit, || ()).unwrap();
    let errors = sandwich(&counts, &start).unwrap();
    for (item, error) in errors.iter().enumerate() {
        let mean = resampled.strengths.iter().map(|fit| fit[item]).sum::<f64>() / 4000.0;
        let square = |fit: &Vec<f64>| (fit[item] - mean).powi(2);
        let deviation = (resampled.strengths.iter().map(square).sum::<f64>() / 4000.0).sqrt();
        println!("item {item}: bootstrap {deviation:.4}, sandwich {error:.4}");
        assert!((deviation / error - 1.0).abs() < 0.06);
        assert!((mean - start.theta[item]).abs() < 0.02);
        let [low, high] = resampled.interval(item);
        assert!((high - low - 2.0 * 1.96 * error).abs() < 0.3 * error);
    }
    assert!(resampled.above(0, 3) > 0.999);
    let ranks = resampled.ranks();
    let best: f64 = (0..4).map(|item| ranks.best(item)).sum();
    assert_near(&[best], &[1.0], 1e-12);
    assert_eq!(ranks.interval(3), [4, 4]);
    let again = bootstrap(&comparisons, &counts, 4000, 3, refit, || ()).unwrap();
    assert_eq!(again.strengths, resampled.strengths);
}

#[test]
fn resamples_without_a_fit_are_counted_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("few.csv");
    let refit = |counts: &Counts| fit(counts, Ties::Half, NO_PRIOR, None).map(|fit| fit.theta);
    let run = |rows: &str| {
        fs::write(&path, format!("winner,loser\n{rows}")).unwrap();
        let comparisons = read_all(&path, true);
        let counts = comparisons.counts().unwrap();
        bootstrap(&comparisons, &counts, 500, 0, refit, || ())
    };
    let some = run(&("a,b\n".repeat(20) + &"b,a\n".repeat(2))).unwrap();
    // No win of b: e^-2 of the resamples.
    println!("{} of 500 failed", some.failed);
    assert!((some.failed as f64 / 500.0 - 0.135).abs() < 0.05);
    assert_eq!(some.strengths.len(), 500 - some.failed);
    let error = run("a,b\nb,a\n").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("of 500 resamples cannot be ranked"),
        "{error}"
    );
    assert!(matches!(error, Error::Hinted { .. }));
}

#[test]
fn whole_prompts_are_resampled_with_wider_intervals_than_rows() {
    let Some(path) = shared("pairwise/llmfao.csv") else {
        return;
    };
    let width = |groups| {
        let comparisons = read_all(&path, groups);
        let counts = comparisons.counts().unwrap();
        let start = fit(&counts, Ties::Half, gaussian(0.1), None).unwrap();
        let refit = |counts: &Counts| {
            fit(counts, Ties::Half, gaussian(0.1), Some(&start)).map(|fit| fit.theta)
        };
        let resampled = bootstrap(&comparisons, &counts, 100, 1, refit, || ()).unwrap();
        let widths = (0..59).map(|item| {
            let [low, high] = resampled.interval(item);
            high - low
        });
        widths.sum::<f64>() / 59.0
    };
    let (by_prompt, by_row) = (width(true), width(false));
    println!("mean interval by prompt {by_prompt:.3}, by row {by_row:.3}");
    assert!(by_prompt > 1.2 * by_row);
}
