//! Inputs at the ends of the number range, and inputs that are refused.

use preftune::losses::brain::{SampleLogps, brain};
use preftune::losses::dpo::{cdpo, dpo, hinge, rdpo};
use preftune::losses::f_dpo::{Divergence, EXPONENT_CAP, f_dpo};
use preftune::losses::ipo::ipo;
use preftune::losses::kto::kto;
use preftune::losses::odds::{asft, asft_align_tempered, orpo};
use preftune::losses::pair::{Pair, mean};
use preftune::losses::pro::{Gaps, RankedLogps, pro};
use preftune::losses::simpo::simpo;
use preftune::losses::sppo::sppo_hard;
use preftune::ops::stable::{expm1_capped, log1mexp};
use preftune::ops::token_kl::token_kl;
use tch::{Kind, Tensor};

use super::{
    Loss, against, assert_near, both, evaluate, list, loss, pair, policy, row, two_ranked, values,
};

#[test]
fn pro_of_wide_gaps_is_exact() {
    let wide = RankedLogps {
        policy: list(&[-3.0, -4.0]),
        lengths: list(&[1.0, 1.0]),
        rewards: list(&[10.0, 0.0]),
    };
    let value = values(&pro(&wide, Gaps::Rewards))[0];
    assert!((value - 4.5398899217730104e-05).abs() < 1e-14, "{value}");
}

#[test]
fn stable_functions_give_the_worked_values() {
    for (x, expected) in [
        (-1e-8, -18.420680748952364),
        (-1e-3, -6.908255237315471),
        (-0.5, -0.9327521295671886),
        (-0.7, -0.6863410028083852),
        (-5.0, -0.006760749449488557),
        (-40.0, -4.248354255291589e-18),
        (-800.0, 0.0),
    ] {
        let actual = values(&log1mexp(&row(&[x])))[0];
        assert!(
            (actual - expected).abs() <= 1e-14 * expected.abs(),
            "log1mexp({x}) is {actual}"
        );
    }
    let (value, gradient) = evaluate(&loss!(|x| expm1_capped(&x[0], 20.0)), &[row(&[100.0])]);
    assert_near("value", values(&value)[0], 39298380828.193016 - 1.0, 1e-15);
    assert_near("slope", values(&gradient[0])[0], 485165195.4097903, 1e-14);
}

#[test]
fn extreme_inputs_give_finite_losses_and_gradients() {
    let ends = [
        (1000.0, 0.0),
        (-1000.0, 0.0),
        (0.0, 1000.0),
        (0.0, -1000.0),
        (-100.0, -100.0),
        (1000.0, -1000.0),
        (-1000.0, 1000.0),
    ];
    let at = |policy: &[Tensor]| against(policy, 0.0, 0.0);
    let divergence = |divergence| loss!(|p| f_dpo(&at(p), divergence, 0.1, EXPONENT_CAP));
    let losses: Vec<(&str, Loss)> = vec![
        ("dpo", loss!(|p| dpo(&at(p), 0.1))),
        ("cdpo", loss!(|p| cdpo(&at(p), 0.1, 0.1))),
        ("rdpo", loss!(|p| rdpo(&at(p), 0.1, 0.1))),
        ("hinge", loss!(|p| hinge(&at(p), 0.1))),
        ("ipo", loss!(|p| ipo(&at(p), None, 0.1))),
        ("forward", divergence(Divergence::ForwardKl)),
        ("js", divergence(Divergence::JensenShannon)),
        ("alpha", divergence(Divergence::Alpha(0.7))),
        ("sppo_hard", loss!(|p| sppo_hard(&at(p), 1e-3))),
        (
            "simpo",
            loss!(|p| simpo(
                &Pair {
                    chosen: p[0].shallow_clone(),
                    rejected: p[1].shallow_clone()
                },
                10.0,
                0.5
            )),
        ),
        (
            "kto",
            loss!(|p| {
                let yes = Tensor::from_slice(&[true]);
                kto(&p[0], &yes, &p[1].detach(), 0.1, 1.0, 1.0)
            }),
        ),
        (
            "pro",
            loss!(|p| {
                let policy = Tensor::stack(&[&p[0], &p[1]], 1);
                pro(&two_ranked(&[policy], 10.0), Gaps::Rewards)
            }),
        ),
        (
            "brain",
            loss!(|p| {
                let samples = SampleLogps {
                    policy: Tensor::stack(&[&p[0], &p[1]], 1),
                    prior: Tensor::zeros([1, 2], (Kind::Double, tch::Device::Cpu)),
                    proposal: Tensor::zeros([1, 2], (Kind::Double, tch::Device::Cpu)),
                };
                brain(&samples, &list(&[100.0, -100.0]), 0.01)
            }),
        ),
    ];
    for (what, loss) in &losses {
        for (chosen, rejected) in ends {
            assert_finite(what, loss, &[row(&[chosen]), row(&[rejected])]);
        }
    }
    // A response far below the reference is still pulled back.
    let (_, gradients) = evaluate(
        &divergence(Divergence::ForwardKl),
        &[row(&[-100.0]), row(&[0.0])],
    );
    assert!(values(&gradients[0])[0] < -1e6);
}

#[test]
fn nearly_certain_responses_give_finite_losses_and_gradients() {
    let mean = |policy: &[Tensor]| Pair {
        chosen: policy[0].shallow_clone(),
        rejected: policy[1].shallow_clone(),
    };
    let losses: Vec<(&str, Loss)> = vec![
        ("asft", loss!(|p| asft(&mean(p), 1.0, 1.0))),
        (
            "asft_align_tempered",
            loss!(|p| asft_align_tempered(&mean(p), 0.5)),
        ),
        ("orpo", loss!(|p| orpo(&mean(p), 0.1))),
    ];
    for (what, loss) in &losses {
        for end in [0.0, -1e-300, -1e-8, -1e-6, -0.69, -0.7, -40.0, -800.0] {
            for other in [0.0, -1e-8, -2.0, -1000.0] {
                for kind in [Kind::Double, Kind::Float] {
                    let inputs = [row(&[end]).to_kind(kind), row(&[other]).to_kind(kind)];
                    assert_finite(what, loss, &inputs);
                    let [first, second] = inputs;
                    assert_finite(what, loss, &[second, first]);
                }
            }
        }
    }
}

#[test]
fn tokens_that_underflow_give_finite_divergences_and_gradients() {
    for kind in [Kind::Float, Kind::Double] {
        for gap in [200.0, 2000.0] {
            let reference = row(&[0.0, -gap]).to_kind(kind);
            let loss = loss!(|p| token_kl(&p[0], &reference));
            assert_finite("token_kl", &loss, &[row(&[0.0, -1.0]).to_kind(kind)]);
            assert_finite("token_kl", &loss, &[row(&[-gap, 0.0]).to_kind(kind)]);
        }
    }
}

#[track_caller]
fn assert_finite(what: &str, loss: &Loss, inputs: &[Tensor]) {
    let (value, gradients) = evaluate(loss, inputs);
    for number in gradients.iter().chain([&value]).flat_map(values) {
        assert!(number.is_finite(), "{what} at {inputs:?}: {number}");
    }
}

#[test]
fn a_response_without_tokens_counts_as_one_token() {
    assert_eq!(
        values(&mean(&row(&[0.0, -6.0]), &row(&[0.0, 3.0]))),
        [0.0, -2.0]
    );
    let same = against(&policy(), -12.0, -20.0);
    let none = both(0.0, 0.0);
    assert_eq!(values(&ipo(&same, Some(&none), 0.5)), [1.0]);
}

#[test]
#[should_panic(expected = "below one half")]
fn half_of_all_labels_flipped_is_refused() {
    let _ = rdpo(&pair(&policy()), 0.1, 0.5);
}

#[test]
#[should_panic(expected = "the same tokens")]
fn logits_of_other_shapes_are_refused() {
    let _ = token_kl(
        &Tensor::zeros([2, 3], (Kind::Float, tch::Device::Cpu)),
        &Tensor::zeros([1, 3], (Kind::Float, tch::Device::Cpu)),
    );
}
