//! Fits and statistics of comparisons against values computed with numpy and torch in double precision, against
//! closed forms, and on graphs that have no answer.

use std::path::Path;

use preftune::ranking::bradley_terry::{elo, fit};
use preftune::ranking::centrality::rank_centrality;
use preftune::ranking::comparisons::Keep;
use preftune::ranking::connectivity::components;
use preftune::ranking::elo::{averaged, online};
use preftune::ranking::read::Asked;
use preftune::ranking::standard_errors::{sandwich, wald};
use preftune::ranking::{Comparisons, Counts, Game, Outcome, Pair, Prior, Ties, read};

use crate::support::shared;

pub const NO_PRIOR: Prior = Prior::None;

pub fn gaussian(precision: f64) -> Prior {
    Prior::Gaussian { precision }
}

#[track_caller]
pub fn assert_near(actual: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(expected) {
        let error = (actual - expected).abs();
        assert!(
            error <= tolerance * expected.abs().max(1.0),
            "{actual} for {expected}: off by {error:e}"
        );
    }
}

/// Four items that all met, with ties between 0 and 2 and between 1 and 3.
fn four() -> Counts {
    four_times(1.0)
}

pub fn four_times(factor: f64) -> Counts {
    let pair =
        |i, j, wins, losses, ties| Pair::with(i, j, factor * wins, factor * losses, factor * ties);
    let pairs = vec![
        pair(0, 1, 7.0, 3.0, 0.0),
        // Half of the pairs from the other side.
        pair(2, 0, 6.0, 4.0, 3.0),
        pair(0, 3, 9.0, 1.0, 0.0),
        pair(2, 1, 2.0, 6.0, 0.0),
        pair(1, 3, 5.0, 4.0, 2.0),
        pair(3, 2, 2.0, 8.0, 0.0),
    ];
    Counts::new(4, pairs).unwrap()
}

/// 0 always beats 1; 2, 3 and 4 played among themselves.
fn disconnected() -> Counts {
    let pairs = vec![
        Pair::with(0, 1, 5.0, 0.0, 0.0),
        Pair::with(2, 3, 3.0, 1.0, 0.0),
        Pair::with(3, 4, 2.0, 2.0, 0.0),
    ];
    Counts::new(5, pairs).unwrap()
}

pub fn game(left: u32, right: u32, outcome: Outcome) -> Game {
    Game {
        left,
        right,
        outcome,
        weight: 1.0,
        group: 0,
        times: 1,
    }
}

/// Three items, each game won by the left one.
fn six_games() -> Vec<Game> {
    [(0, 1), (1, 2), (0, 2), (2, 1), (0, 1), (2, 0)]
        .map(|(winner, loser)| game(winner, loser, Outcome::Left))
        .to_vec()
}

pub fn counts_of(items: usize, games: &[Game]) -> Counts {
    let pairs = games.iter().map(|game| {
        let mut pair = Pair::new(game.left, game.right);
        pair.add(game.outcome, game.weight);
        pair
    });
    Counts::new(items, pairs.collect()).unwrap()
}

/// Games on a ring and across it whose results follow strengths, for any number of items.
fn many(items: u32) -> Counts {
    let strength = |item: u32| f64::from(item * 7919 % 101) / 50.0;
    let pairs = (0..items).flat_map(|item| {
        [1, 2, items / 3, items / 2 - 1].map(|distance| {
            let other = (item + distance) % items;
            let share = 1.0 / (1.0 + (strength(other) - strength(item)).exp());
            let wins = (20.0 * share).round().clamp(1.0, 19.0);
            Pair::with(item, other, wins, 20.0 - wins, f64::from(item % 3))
        })
    });
    Counts::new(items as usize, pairs.collect()).unwrap()
}

#[test]
fn maximum_likelihood_is_that_of_numpy() {
    let fit = fit(&four(), Ties::Half, NO_PRIOR, None).unwrap();
    let theta = [
        0.524357160514475,
        0.0275823769650207,
        0.253515751265533,
        -0.805455288745029,
    ];
    assert_near(&fit.theta, &theta, 1e-12);
    assert_near(&[fit.log_likelihood], &[-38.5999073076326], 1e-12);
    assert_near(&fit.probabilities(0, 1)[..1], &[0.621701094549071], 1e-12);
    let elos: Vec<f64> = fit.theta.iter().map(|theta| elo(*theta)).collect();
    let expected = [
        1091.09016854316,
        1004.79154964547,
        1044.04019674007,
        860.078085071297,
    ];
    assert_near(&elos, &expected, 1e-12);
    assert!(fit.iterations <= 8 && fit.gradient < 1e-9);
}

#[test]
fn priors_pull_towards_zero_as_in_numpy() {
    let theta = |prior| fit(&four(), Ties::Half, prior, None).unwrap().theta;
    let tenth = [
        0.517868183999102,
        0.0274038106578223,
        0.249822356148528,
        -0.795094350805452,
    ];
    assert_near(&theta(gaussian(0.1)), &tenth, 1e-12);
    let one = [
        0.467195317469934,
        0.0260563143372089,
        0.221495141061144,
        -0.714746772868287,
    ];
    assert_near(&theta(gaussian(1.0)), &one, 1e-12);
    let opponent = [
        0.502282211165834,
        0.0205814915057573,
        0.238059171096673,
        -0.787880294882373,
    ];
    let games = Prior::VirtualOpponent { games: 0.5 };
    assert_near(&theta(games), &opponent, 1e-12);
}

#[test]
fn standard_errors_are_those_of_numpy() {
    let fit = fit(&four(), Ties::Half, NO_PRIOR, None).unwrap();
    let expected = [
        0.282336806298745,
        0.291041701955762,
        0.284327002422241,
        0.309714203566246,
    ];
    assert_near(&wald(&four(), &fit).unwrap(), &expected, 1e-11);
    let expected = [
        0.253658495345669,
        0.29656982379164,
        0.275187030323551,
        0.28732505781281,
    ];
    assert_near(&sandwich(&four(), &fit).unwrap(), &expected, 1e-11);
}

#[test]
fn davidson_is_that_of_numpy() {
    let fit = fit(&four(), Ties::Davidson, NO_PRIOR, None).unwrap();
    let theta = [
        0.576869658438478,
        0.0306489714343582,
        0.279158806180643,
        -0.886677436053479,
    ];
    assert_near(&fit.theta, &theta, 1e-12);
    assert_near(&[fit.nu.unwrap()], &[0.191960176914201], 1e-12);
    assert_near(&[fit.log_likelihood], &[-52.1046351673336], 1e-12);
    let sum: f64 = fit.probabilities(0, 3).iter().sum();
    assert_near(&[sum], &[1.0], 1e-15);
}

#[test]
fn rao_kupper_is_that_of_torch() {
    let fit = fit(&four(), Ties::RaoKupper, NO_PRIOR, None).unwrap();
    let theta = [
        0.5473688950882228,
        -0.011429572882284723,
        0.29246266832401435,
        -0.8284019905299529,
    ];
    assert_near(&fit.theta, &theta, 1e-9);
    assert_near(&[fit.nu.unwrap()], &[1.2060228457570024], 1e-9);
    assert_near(&[fit.log_likelihood], &[-51.951084484075935], 1e-12);
    let sum: f64 = fit.probabilities(0, 3).iter().sum();
    assert_near(&[sum], &[1.0], 1e-15);
}

#[test]
fn two_items_get_the_observed_shares_under_every_model_of_ties() {
    let counts = Counts::new(2, vec![Pair::with(0, 1, 10.0, 4.0, 6.0)]).unwrap();
    for ties in [Ties::Davidson, Ties::RaoKupper] {
        let fit = fit(&counts, ties, NO_PRIOR, None).unwrap();
        assert_near(&fit.probabilities(0, 1), &[0.5, 0.2, 0.3], 1e-10);
    }
    let dropped = fit(&counts, Ties::Drop, NO_PRIOR, None).unwrap();
    let logit = (10.0_f64 / 4.0).ln();
    assert_near(&dropped.theta, &[logit / 2.0, -logit / 2.0], 1e-12);
}

#[test]
fn dropping_ties_gives_the_strengths_of_choix() {
    let fit = fit(&four(), Ties::Drop, NO_PRIOR, None).unwrap();
    let choix = [0.55184488, 0.07782423, 0.23131615, -0.86098526];
    assert_near(&fit.theta, &choix, 1e-8);
}

#[test]
fn without_ties_every_model_is_plain_bradley_terry() {
    let counts = four().without_ties();
    let plain = fit(&counts, Ties::Half, NO_PRIOR, None).unwrap();
    for (ties, nu) in [(Ties::Davidson, 0.0), (Ties::RaoKupper, 1.0)] {
        let other = fit(&counts, ties, NO_PRIOR, None).unwrap();
        assert_near(&other.theta, &plain.theta, 1e-15);
        assert_near(&[other.nu.unwrap()], &[nu], 0.0);
        assert_near(
            &other.probabilities(0, 1),
            &plain.probabilities(0, 1),
            1e-15,
        );
    }
}

#[test]
fn disconnected_and_undefeated_items_need_a_prior() {
    let counts = disconnected();
    let parts = components(&counts);
    assert_eq!(parts.strong, [vec![2, 3, 4], vec![0], vec![1]]);
    assert_eq!(parts.weak, [vec![2, 3, 4], vec![0, 1]]);
    let theta = |prior| fit(&counts, Ties::Half, prior, None).unwrap().theta;
    let tenth = [
        1.6796375226848,
        -1.6796375226848,
        0.664079355436674,
        -0.347852345994362,
        -0.316227009442311,
    ];
    assert_near(&theta(gaussian(0.1)), &tenth, 1e-12);
    let opponent = [
        1.37810218201427,
        -1.37810218201427,
        0.592739792553961,
        -0.322159274947643,
        -0.257994128694212,
    ];
    let games = Prior::VirtualOpponent { games: 0.5 };
    assert_near(&theta(games), &opponent, 1e-12);
    let error = fit(&counts, Ties::Half, NO_PRIOR, None).unwrap_err();
    assert!(error.to_string().contains("3 components"), "{error}");
    assert!(error.hint().unwrap().contains("--prior 0.1"));
    let error = rank_centrality(&counts).unwrap_err();
    assert!(error.to_string().contains("3 components"), "{error}");
}

#[test]
fn a_likelihood_without_maximum_is_an_error_and_not_a_large_number() {
    // Ties connect the items, but with no loss of the first, Davidson's likelihood rises for ever.
    let counts = Counts::new(2, vec![Pair::with(0, 1, 3.0, 0.0, 2.0)]).unwrap();
    for ties in [Ties::Davidson, Ties::RaoKupper] {
        let error = fit(&counts, ties, NO_PRIOR, None).unwrap_err();
        println!("{error}");
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("did not converge"));
        assert!(error.hint().unwrap().contains("--prior"));
        fit(&counts, ties, gaussian(0.1), None).unwrap();
    }
}

#[test]
fn bad_priors_and_counts_are_refused() {
    for amount in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        for prior in [gaussian(amount), Prior::VirtualOpponent { games: amount }] {
            assert!(fit(&four(), Ties::Half, prior, None).is_err(), "{prior:?}");
        }
    }
    let ties = Counts::new(2, vec![Pair::with(0, 1, 0.0, 0.0, 5.0)]).unwrap();
    let error = fit(&ties, Ties::Davidson, gaussian(0.1), None).unwrap_err();
    assert!(error.to_string().contains("every comparison is a tie"));
    let alike = fit(&ties, Ties::Half, gaussian(0.1), None).unwrap().theta;
    assert!(alike.iter().all(|theta| theta.abs() < 1e-12), "{alike:?}");
    for pair in [
        Pair::with(0, 0, 1.0, 0.0, 0.0),
        Pair::with(0, 2, 1.0, 0.0, 0.0),
        Pair::with(0, 1, f64::NAN, 0.0, 0.0),
        Pair::with(0, 1, -1.0, 0.0, 0.0),
    ] {
        assert!(Counts::new(2, vec![pair]).is_err(), "{pair:?}");
    }
    assert!(Counts::new(1, Vec::new()).is_err());
}

#[test]
fn conjugate_gradients_find_what_cholesky_finds() {
    // 198 items are factorised; with three more that lost once to each other the same games go another way.
    let small = many(198);
    let mut pairs = small.pairs().to_vec();
    pairs
        .extend([(198, 199), (199, 200), (200, 198)].map(|(i, j)| Pair::with(i, j, 1.0, 1.0, 0.0)));
    let large = Counts::new(201, pairs).unwrap();
    for ties in [Ties::Half, Ties::Davidson, Ties::RaoKupper] {
        let dense = fit(&small, ties, gaussian(0.1), None).unwrap();
        let sparse = fit(&large, ties, gaussian(0.1), None).unwrap();
        if ties == Ties::Half {
            assert_near(&sparse.theta[..198], &dense.theta, 1e-10);
            assert_near(&sparse.theta[198..], &[0.0; 3], 1e-12);
        }
        assert!(sparse.gradient < 1e-9, "{ties:?}");
    }
    // Without a prior the optimum is where every item scores what it is expected to.
    let ring = many(301);
    let fitted = fit(&ring, Ties::Half, NO_PRIOR, None).unwrap();
    let mut surplus = vec![0.0; 301];
    for pair in ring.pairs() {
        let (i, j) = (pair.first as usize, pair.second as usize);
        let more = pair.score() - pair.games() * fitted.probabilities(i, j)[0];
        surplus[i] += more;
        surplus[j] -= more;
    }
    assert_near(&surplus, &vec![0.0; 301], 1e-9);
    assert_near(&[fitted.theta.iter().sum()], &[0.0], 1e-9);
}

#[test]
fn weights_scale_evidence_and_extreme_counts_converge() {
    let once = fit(&four(), Ties::Half, NO_PRIOR, None).unwrap();
    for factor in [1e-9, 1e9] {
        let scaled = fit(&four_times(factor), Ties::Half, NO_PRIOR, None).unwrap();
        assert_near(&scaled.theta, &once.theta, 1e-9);
    }
    // A million wins to one.
    let counts = Counts::new(2, vec![Pair::with(0, 1, 1e6, 1.0, 0.0)]).unwrap();
    let lopsided = fit(&counts, Ties::Half, NO_PRIOR, None).unwrap();
    assert_near(&[lopsided.theta[0]], &[0.5 * 1e6_f64.ln()], 1e-9);
}

#[test]
fn a_warm_start_arrives_at_the_same_fit() {
    let cold = fit(&four(), Ties::Davidson, gaussian(0.1), None).unwrap();
    let warm = fit(&four(), Ties::Davidson, gaussian(0.1), Some(&cold)).unwrap();
    assert_near(&warm.theta, &cold.theta, 1e-13);
    assert!(warm.iterations <= 1, "{}", warm.iterations);
}

#[test]
fn a_chain_of_many_items_overflows_no_stack() {
    let items = 200_000;
    let chain = (1..items).map(|item| Pair::with(item - 1, item, 1.0, 0.0, 0.0));
    let counts = Counts::new(items as usize, chain.collect()).unwrap();
    let parts = components(&counts);
    assert_eq!((parts.strong.len(), parts.weak.len()), (items as usize, 1));
}

#[test]
fn elo_is_that_of_numpy_and_depends_on_the_order() {
    let games = six_games();
    let large = online(3, games.clone(), 400.0);
    let expected = [940.018881512191, 712.146091704938, 1347.83502678287];
    assert_near(&large, &expected, 1e-12);
    let small = online(3, games.clone(), 32.0);
    let expected = [1025.68426711466, 969.429861194316, 1004.88587169102];
    assert_near(&small, &expected, 1e-12);
    // The average over orders puts the item with three wins of four first, which one order did not.
    let average = averaged(3, &games, 400.0, 500, 7).unwrap();
    assert!(average.mean[0] > average.mean[2] && average.mean[2] > average.mean[1]);
    assert_near(&[average.mean.iter().sum::<f64>()], &[3000.0], 1e-12);
    assert!(average.deviation.iter().all(|deviation| *deviation > 50.0));
    let again = averaged(3, &games, 400.0, 500, 7).unwrap();
    assert_eq!(again.mean, average.mean);
    assert_eq!(averaged(3, &games, 32.0, 0, 7).unwrap().mean, small);
    assert!(averaged(3, &games, f64::NAN, 1, 7).is_err());
}

#[test]
fn part_g_games_rank_as_in_numpy() {
    let counts = counts_of(3, &six_games());
    let theta = |prior| fit(&counts, Ties::Half, prior, None).unwrap().theta;
    let mle = [0.756307612615964, -0.756307612615965, 0.0];
    assert_near(&theta(NO_PRIOR), &mle, 1e-12);
    let map = [0.749034968844615, -0.749034968844614, 0.0];
    assert_near(&theta(gaussian(0.01)), &map, 1e-12);
    let shares = rank_centrality(&counts).unwrap();
    assert_near(&shares, &[5.0 / 9.0, 1.0 / 9.0, 3.0 / 9.0], 1e-14);
}

#[test]
fn rank_centrality_is_that_of_numpy_by_elimination_and_by_iteration() {
    let expected = [
        0.385073240632629,
        0.258847256129922,
        0.26309839719775,
        0.0929811060396985,
    ];
    assert_near(&rank_centrality(&four()).unwrap(), &expected, 1e-13);
    // 1200 items are iterated: a circle of equal items, of which the first wins two of three games.
    let items = 1200;
    let pairs = (1..items).map(|item| Pair::with(0, item, 2.0, 1.0, 0.0));
    let counts = Counts::new(items as usize, pairs.collect()).unwrap();
    let shares = rank_centrality(&counts).unwrap();
    let other = 1.0 / (f64::from(items - 1) + 2.0);
    assert_near(&shares[..2], &[2.0 * other, other], 1e-9);
}

pub fn read_all(path: &Path, groups: bool) -> Comparisons {
    let keep = Keep {
        order: false,
        groups,
    };
    read::read(path, &Asked::default(), keep).unwrap()
}

#[test]
fn people_comparing_language_models_rank_them_as_in_numpy() {
    let Some(path) = shared("pairwise/llmfao.csv") else {
        return;
    };
    let comparisons = read_all(&path, true);
    assert_eq!(
        (
            comparisons.rows,
            comparisons.items.len(),
            comparisons.groups
        ),
        (8931, 59, 13)
    );
    let counts = comparisons.counts().unwrap();
    let top = |ties, prior| {
        let fit = fit(&counts, ties, prior, None).unwrap();
        let mut order: Vec<usize> = (0..59).collect();
        order.sort_by(|&i, &j| fit.theta[j].total_cmp(&fit.theta[i]));
        let names: Vec<&str> = order[..3]
            .iter()
            .map(|&i| comparisons.items[i].as_str())
            .collect();
        let theta: Vec<f64> = order[..3].iter().map(|&i| fit.theta[i]).collect();
        (names.join("; "), theta, fit.nu)
    };
    let (names, theta, _) = top(Ties::Half, gaussian(0.1));
    assert_eq!(names, "GPT 4; Platypus-2 Instruct (70B); command");
    assert_near(
        &theta,
        &[0.9873560664542566, 0.6454337880315024, 0.6332991746399314],
        1e-10,
    );
    let (_, theta, _) = top(Ties::Half, NO_PRIOR);
    assert_near(
        &theta,
        &[0.9908746459780394, 0.6473069676579349, 0.6341839273698855],
        1e-10,
    );
    let (names, theta, _) = top(Ties::Drop, gaussian(0.1));
    assert_eq!(names, "GPT 4; ReMM SLERP L2 13B; Platypus-2 Instruct (70B)");
    assert_near(
        &theta,
        &[1.2477533101180782, 1.1021274776131382, 1.0280156504092801],
        1e-10,
    );
    let (_, theta, nu) = top(Ties::Davidson, gaussian(0.1));
    assert_near(
        &theta,
        &[1.7398161271411114, 1.1298997944420686, 1.1097842520803443],
        1e-10,
    );
    assert_near(&[nu.unwrap()], &[1.4784365160791824], 1e-10);
    let (names, theta, nu) = top(Ties::RaoKupper, gaussian(0.1));
    assert_eq!(names, "GPT 4; command; Platypus-2 Instruct (70B)");
    assert_near(
        &theta,
        &[1.2645436100051821, 0.796162649338028, 0.787713521318251],
        1e-9,
    );
    assert_near(&[nu.unwrap()], &[2.5654152691895042], 1e-9);
}

#[test]
fn true_skill_agrees_with_its_paper_and_with_the_better_player() {
    use preftune::ranking::true_skill;
    // A first win without ties: with s^2 = (25/3)^2 + (25/300)^2, c^2 = 2 (25/6)^2 + 2 s^2 and v = phi(0) / Phi(0), means
    // move by v s^2 / c = 4.20546, and deviations become s (1 - v^2 s^2 / c^2)^(1/2) = 7.19482.
    let logits = 1.702 / (2.0_f64.sqrt() * 25.0 / 6.0);
    let skills = true_skill::averaged(2, &[game(0, 1, Outcome::Left)], 0, 0).unwrap();
    assert_near(&skills.mean, &[4.20546 * logits, -4.20546 * logits], 1e-5);
    assert_near(&skills.deviation, &[7.19482 * logits; 2], 1e-5);
    let games: Vec<Game> = (0..60)
        .map(|at| {
            game(
                0,
                1,
                if at % 3 == 0 {
                    Outcome::Right
                } else {
                    Outcome::Left
                },
            )
        })
        .collect();
    let skills = true_skill::averaged(2, &games, 20, 0).unwrap();
    // The odds are 2 to 1.
    let gap = skills.mean[0] - skills.mean[1];
    assert!((gap - 2.0_f64.ln()).abs() < 0.25, "{gap}");
    let mut weighted = games;
    weighted[0].weight = 0.5;
    let error = true_skill::averaged(2, &weighted, 0, 0).unwrap_err();
    assert!(error.to_string().contains("have weights"), "{error}");
}
