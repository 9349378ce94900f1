//! Worked values and gradients (PyTorch 2.11) of objectives on pairs and on single responses.

use std::f64::consts::LN_2;

use preftune::losses::dno::{dno, dno_prct};
use preftune::losses::dpo::{cdpo, dpo, hinge, rdpo};
use preftune::losses::f_dpo::Divergence;
use preftune::losses::gpo::{TARGET_CLAMP, gpo, gpo_length_normalised};
use preftune::losses::inpo::{inpo, inpo_expected};
use preftune::losses::ipo::ipo;
use preftune::losses::kto::{kto, reference_point};
use preftune::losses::odds::{asft, asft_align, asft_align_tempered, odds_ratio, orpo};
use preftune::losses::sft::sft;
use preftune::losses::simpo::simpo;
use preftune::losses::sppo::{sppo, sppo_hard};
use tch::Tensor;

use super::{Loss, assert_near, assert_worked, both, f, lengths, loss, means, pair, policy, row};

#[test]
fn functions_of_the_margin_give_the_worked_values() {
    // loss, value, gradient for the chosen response; that of the rejected one is its opposite
    let table: Vec<(&str, Loss, f64, f64)> = vec![
        (
            "dpo 0.1",
            loss!(|p| dpo(&pair(p), 0.1)),
            0.584745156704,
            -0.04427521454014444,
        ),
        (
            "dpo 1",
            loss!(|p| dpo(&pair(p), 1.0)),
            0.09554546459796295,
            -0.0911229610148562,
        ),
        (
            "cdpo 0.1",
            loss!(|p| cdpo(&pair(p), 0.1, 0.1)),
            0.607745156704,
            -0.03427521454014445,
        ),
        (
            "cdpo 0.2",
            loss!(|p| cdpo(&pair(p), 0.1, 0.2)),
            0.630745156704,
            -0.024275214540144446,
        ),
        (
            "rdpo 0.1",
            loss!(|p| rdpo(&pair(p), 0.1, 0.1)),
            0.555995156704,
            -0.05677521454014444,
        ),
        (
            "rdpo 0.2",
            loss!(|p| rdpo(&pair(p), 0.1, 0.2)),
            0.508078490037,
            -0.07760854787347778,
        ),
        ("hinge 0.1", loss!(|p| hinge(&pair(p), 0.1)), 0.77, -0.1),
        ("hinge 1", loss!(|p| hinge(&pair(p), 1.0)), 0.0, 0.0),
        ("ipo 0.1", loss!(|p| ipo(&pair(p), None, 0.1)), 7.29, -5.4),
        (
            "dno",
            loss!(|p| dno(&pair(p), &both(0.8, 0.25), 0.1, 1.0)),
            0.668893970771,
            -0.007688773641224523,
        ),
        (
            "dno_prct",
            loss!(|p| dno_prct(&pair(p), 0.1)),
            0.584745156704,
            -0.04427521454014444,
        ),
        (
            "inpo 0.1",
            loss!(|p| inpo(&pair(p), &both(-12.8, -19.5), 0.1, 0.1 / 3.0)),
            11.334444444444,
            -6.7333333333333325,
        ),
        (
            "inpo 0.005",
            loss!(|p| inpo(&pair(p), &both(-12.8, -19.5), 0.005, 0.005 / 3.0)),
            9676.001111111109,
            -196.73333333333332,
        ),
        (
            "inpo_expected",
            loss!(|p| inpo_expected(
                &pair(p),
                &both(-12.8, -19.5),
                &both(0.8, 0.25),
                0.1,
                0.1 / 3.0
            )),
            14.951111111111,
            -7.7333333333333325,
        ),
    ];
    for (what, loss, value, gradient) in table {
        assert_worked(what, &loss, &policy(), value, &[gradient, -gradient]);
    }
}

#[test]
fn functions_of_two_ratios_give_the_worked_values() {
    let table: Vec<(&str, Loss, f64, [f64; 2])> = vec![
        (
            "ipo by tokens 0.1",
            loss!(|p| ipo(&pair(p), Some(&lengths()), 0.1)),
            21.6225,
            [-1.55, 1.1625],
        ),
        (
            "ipo by tokens 1",
            loss!(|p| ipo(&pair(p), Some(&lengths()), 1.0)),
            0.0225,
            [-0.05, 0.0375],
        ),
        (
            "reverse",
            f(Divergence::ReverseKl),
            0.584745156704,
            [-0.04427521454014444, 0.04427521454014444],
        ),
        (
            "forward",
            f(Divergence::ForwardKl),
            0.598030351979,
            [-0.010043229814220666, 0.10017300660267195],
        ),
        (
            "js",
            f(Divergence::JensenShannon),
            0.645837717992,
            [-0.008679383069610054, 0.03282738459514469],
        ),
        (
            "alpha 0.3",
            f(Divergence::Alpha(0.3)),
            0.593109396968,
            [-0.028527079368731043, 0.05687488125549735],
        ),
        (
            "alpha 0.5",
            f(Divergence::Alpha(0.5)),
            0.596388864368,
            [-0.021218844803068255, 0.06701320520885776],
        ),
        (
            "alpha 0.7",
            f(Divergence::Alpha(0.7)),
            0.598091619316,
            [-0.015752098621695285, 0.07880477584655916],
        ),
    ];
    for (what, loss, value, gradients) in table {
        assert_worked(what, &loss, &policy(), value, &gradients);
    }
}

#[test]
fn functions_with_a_target_for_each_ratio_give_the_worked_values() {
    let win = || both(0.8, 0.25);
    let score = || both(3.2, -2.4);
    let table: Vec<(&str, Loss, f64, [f64; 2])> = vec![
        (
            "sppo 0.1",
            loss!(|p| sppo(&pair(p), &win(), 0.1)),
            2.57,
            [-1.5, 1.7],
        ),
        (
            "sppo 0.001",
            loss!(|p| sppo(&pair(p), &win(), 0.001)),
            75601.445,
            [-298.5, 249.2],
        ),
        (
            "sppo of one pair, twice",
            loss!(|p| sppo(&pair(p), &both(0.9, 0.1), 0.1) * 2.0),
            16.49,
            [-5.0, 6.4],
        ),
        (
            "sppo_hard 0.1",
            loss!(|p| sppo_hard(&pair(p), 0.1)),
            14.945,
            [-3.5, 4.2],
        ),
        (
            "sppo_hard 0.001",
            loss!(|p| sppo_hard(&pair(p), 0.001)),
            248851.445,
            [-498.5, 499.2],
        ),
        (
            "gpo 1",
            loss!(|p| gpo(&pair(p), &score(), 1.0, TARGET_CLAMP)),
            2.725,
            [-1.7, 1.6],
        ),
        (
            "gpo 0.1",
            loss!(|p| gpo(&pair(p), &score(), 0.1, TARGET_CLAMP)),
            734.245,
            [-30.5, 23.2],
        ),
        (
            "gpo by tokens",
            loss!(|p| gpo_length_normalised(
                &pair(p),
                &lengths(),
                &score(),
                1.0,
                TARGET_CLAMP,
                1.0
            )),
            6.99625,
            [-0.49166666666666664, 0.2875],
        ),
    ];
    for (what, loss, value, gradients) in table {
        assert_worked(what, &loss, &policy(), value, &gradients);
    }
}

#[test]
fn functions_of_means_and_of_single_responses_give_the_worked_values() {
    let table: Vec<(&str, Loss, f64, [f64; 2])> = vec![
        (
            "asft_align",
            loss!(|p| asft_align(&means(p))),
            2.085650483742,
            [-1.0 / 6.0, 0.011178186229231503],
        ),
        (
            "asft 1",
            loss!(|p| asft(&means(p), 1.0, 1.0)),
            4.085650483742,
            [-1.0 / 3.0, 0.011178186229231503],
        ),
        (
            "asft 0.5",
            loss!(|p| asft(&means(p), 0.5, 1.0)),
            3.042825241871,
            [-0.25, 0.005589093114615752],
        ),
        (
            "asft_align_tempered",
            loss!(|p| asft_align_tempered(&means(p), 0.5)),
            1.522260519771,
            [-0.06905622997317044, 0.015674199565936787],
        ),
        (
            "odds_ratio",
            loss!(|p| odds_ratio(&means(p))),
            0.451931603998,
            [-0.07008541338938755, 0.04951470236356039],
        ),
        (
            "orpo",
            loss!(|p| orpo(&means(p), 0.1)),
            2.045193160400,
            [-0.17367520800560543, 0.004951470236356039],
        ),
        (
            "simpo 2",
            loss!(|p| simpo(&means(p), 2.0, 0.5)),
            LN_2,
            [-1.0 / 6.0, 0.125],
        ),
        (
            "simpo 2.5",
            loss!(|p| simpo(&means(p), 2.5, 0.55)),
            0.757599035317,
            [-0.22133723890573176, 0.16600292917929882],
        ),
        (
            "kto",
            loss!(|p| example_kto(p, 1.0)),
            2.0 * 0.471283253067,
            [-0.024894671799691806, 0.024937604019289197],
        ),
        (
            "kto with undesirable 1.5",
            loss!(|p| example_kto(p, 1.5)),
            2.0 * 0.590038456197,
            [-0.024894671799691806, 2.0 * 0.018703203014466898],
        ),
        (
            "sft of both sums",
            loss!(|p| sft(&Tensor::cat(&[&p[0], &p[1]], 0))),
            32.0,
            [-1.0, -1.0],
        ),
    ];
    for (what, loss, value, gradients) in table {
        assert_worked(what, &loss, &policy(), value, &gradients);
    }
}

/// The chosen response as desirable, the rejected one as undesirable.
fn example_kto(policy: &[Tensor], undesirable_weight: f64) -> Tensor {
    let ratios = pair(policy).ratios();
    let ratio = Tensor::cat(&[ratios.chosen, ratios.rejected], 0);
    let desirable = Tensor::from_slice(&[true, false]);
    let point = reference_point(&row(&[0.4, -0.1, 0.3]));
    assert_near("reference point", point.double_value(&[]), 0.2, 1e-12);
    kto(&ratio, &desirable, &point, 0.1, 1.0, undesirable_weight)
}
