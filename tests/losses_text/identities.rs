//! What ties the objectives together: values at ratio 0, special cases, invariances.

use std::f64::consts::LN_2;

use preftune::losses::brain::{SampleLogps, brain};
use preftune::losses::dno::{dno, dno_prct};
use preftune::losses::dpo::{cdpo, dpo, hinge, rdpo};
use preftune::losses::f_dpo::{Divergence, EXPONENT_CAP, f_dpo};
use preftune::losses::gpo::{TARGET_CLAMP, gpo, gpo_length_normalised};
use preftune::losses::inpo::inpo;
use preftune::losses::ipo::ipo;
use preftune::losses::kto::{kto, reference_point};
use preftune::losses::odds::{asft_align, asft_align_tempered, odds_ratio};
use preftune::losses::pair::{Pair, PairLogps};
use preftune::losses::pro::{Gaps, RankedLogps, pro, pro_sft};
use preftune::losses::simpo::simpo;
use preftune::losses::sppo::{sppo, sppo_hard};
use preftune::losses::tdpo::{tdpo1, tdpo2};
use tch::Tensor;

use super::{
    Loss, REWARDS, against, assert_finite_differences, assert_near, both, evaluate, example_brain,
    f, lengths, list, loss, means, pair, policy, ranked, row, two_ranked, values,
};

#[test]
fn kto_counts_from_no_less_than_zero_and_without_a_gradient() {
    let ratios = row(&[-3.0, 1.0]).set_requires_grad(true);
    let point = reference_point(&ratios);
    assert_eq!(values(&point), [0.0]);
    assert!(!point.requires_grad());
}

#[test]
fn pro_takes_lists_in_any_order_and_many_at_a_time() {
    let ordered = values(&pro(
        &ranked(&[list(&[-12.0, -16.0, -20.0])]),
        Gaps::Rewards,
    ))[0];
    let shuffled = RankedLogps {
        policy: Tensor::from_slice2(&[[-20.0, -12.0, -16.0], [-12.0, -16.0, -20.0]]),
        lengths: Tensor::from_slice2(&[[8.0, 6.0, 8.0], [6.0, 8.0, 8.0]]),
        rewards: Tensor::from_slice2(&[[-1.0, 2.0, 0.5], [9.0, 7.5, 6.0]]),
    };
    for value in values(&pro(&shuffled, Gaps::Rewards)) {
        assert_near("shuffled or shifted rewards", value, ordered, 1e-12);
    }
    for value in values(&pro_sft(&shuffled, 0.05, false)) {
        assert_near("likelihood of the best", value, 2.4, 1e-15);
    }
}

#[test]
fn asft_and_orpo_differ_by_what_the_spec_says() {
    let mean = means(&policy());
    let (p_w, p_l) = ((-2.0f64).exp(), (-2.5f64).exp());
    let expected = values(&asft_align(&mean))[0] + (p_w * (1.0 - p_l) + p_l * (1.0 - p_w)).ln();
    assert_near("identity", values(&odds_ratio(&mean))[0], expected, 1e-14);
    let tempered = values(&asft_align_tempered(&mean, 1.0))[0];
    assert_near(
        "closed form",
        values(&asft_align(&mean))[0],
        tempered,
        1e-14,
    );
}

#[test]
fn tdpo2_differs_from_its_unstopped_form_by_the_chosen_divergence_alone() {
    let inputs = [row(&[0.3]), row(&[0.7])];
    let loss = loss!(|kl| {
        let kl = Pair {
            chosen: kl[0].shallow_clone(),
            rejected: kl[1].shallow_clone(),
        };
        tdpo2(&pair(&policy()), &kl, 0.1, 0.5)
    });
    let (_, gradients) = evaluate(&loss, &inputs);
    assert_eq!(values(&gradients[0]), [0.0]);
    let only = loss!(|kl| loss(&[row(&[0.3]), kl[0].shallow_clone()]));
    assert_finite_differences("tdpo2 of the rejected divergence", &only, &inputs[1..]);
}

#[test]
fn at_ratio_zero_losses_have_their_documented_values() {
    let zero = || against(&policy(), -12.0, -20.0);
    let none = both(0.0, 0.0);
    let win = both(0.8, 0.25);
    let score = both(3.2, -2.4);
    let mut table = vec![
        ("dpo", dpo(&zero(), 0.3), LN_2),
        ("cdpo", cdpo(&zero(), 0.3, 0.4), LN_2),
        ("rdpo", rdpo(&zero(), 0.3, 0.4), LN_2),
        ("hinge", hinge(&zero(), 0.3), 1.0),
        ("ipo", ipo(&zero(), None, 0.2), 0.25 / 0.04),
        ("ipo", ipo(&zero(), Some(&lengths()), 0.2), 0.25 / 0.04),
        ("tdpo1", tdpo1(&zero(), &none, 0.3), LN_2),
        ("tdpo2", tdpo2(&zero(), &none, 0.3, 0.5), LN_2),
        ("sppo_hard", sppo_hard(&zero(), 0.2), 0.25 / 0.04),
        ("sppo", sppo(&zero(), &win, 0.2), (0.09 + 0.0625) / 0.08),
        ("dno", dno(&zero(), &win, 0.3, 1.0), LN_2),
        ("dno_prct", dno_prct(&zero(), 0.3), LN_2),
        ("inpo", inpo(&zero(), &both(-12.0, -20.0), 0.2, 0.1), 6.25),
        (
            "gpo",
            gpo(&zero(), &score, 0.2, TARGET_CLAMP),
            (3.2 * 3.2 + 2.4 * 2.4) / 0.08,
        ),
        ("orpo", odds_ratio(&both(-2.0, -2.0)), LN_2),
        (
            "kto",
            kto(
                &row(&[0.0]),
                &Tensor::from_slice(&[true]),
                &row(&[0.0]),
                0.1,
                1.4,
                1.0,
            ),
            0.7,
        ),
    ];
    for divergence in [
        Divergence::ReverseKl,
        Divergence::ForwardKl,
        Divergence::JensenShannon,
        Divergence::Alpha(0.4),
    ] {
        let value = f_dpo(&zero(), divergence, 0.3, EXPONENT_CAP);
        table.push(("f_dpo", value, LN_2));
    }
    for (what, actual, expected) in table {
        assert_near(what, values(&actual)[0], expected, 1e-14);
    }
}

#[test]
fn special_cases_are_the_same_loss() {
    let one = |policy: &[Tensor], loss: &dyn Fn(&PairLogps) -> Tensor| loss(&pair(policy));
    let twins: Vec<(&str, Loss, Loss)> = vec![
        (
            "cdpo(0) = dpo",
            loss!(|p| one(p, &|p| cdpo(p, 0.1, 0.0))),
            loss!(|p| one(p, &|p| dpo(p, 0.1))),
        ),
        (
            "rdpo(0) = dpo",
            loss!(|p| rdpo(&pair(p), 0.1, 0.0)),
            loss!(|p| dpo(&pair(p), 0.1)),
        ),
        (
            "f-dpo(alpha 0) = dpo",
            f(Divergence::Alpha(0.0)),
            loss!(|p| dpo(&pair(p), 0.1)),
        ),
        (
            "f-dpo(alpha to 0) = dpo",
            f(Divergence::Alpha(1e-13)),
            loss!(|p| dpo(&pair(p), 0.1)),
        ),
        (
            "f-dpo(alpha 1) = forward",
            f(Divergence::Alpha(1.0)),
            f(Divergence::ForwardKl),
        ),
        (
            "dno(z) = cdpo(1 - z)",
            loss!(|p| dno(&pair(p), &both(0.8, 0.25), 0.1, 1.0)),
            loss!(|p| cdpo(&pair(p), 0.1, 1.0 - 0.6341355910108007)),
        ),
        (
            "dno(z to 1) = dpo",
            loss!(|p| dno(&pair(p), &both(50.0, 0.0), 0.1, 1.0)),
            loss!(|p| dpo(&pair(p), 0.1)),
        ),
        (
            "inpo(previous = reference) = ipo",
            loss!(|p| inpo(&pair(p), &both(-13.5, -19.2), 0.1, 0.03)),
            loss!(|p| ipo(&pair(p), None, 0.1)),
        ),
        (
            "gpo of tokens to the power 0 = gpo",
            loss!(|p| gpo_length_normalised(
                &pair(p),
                &lengths(),
                &both(3.2, -2.4),
                1.0,
                TARGET_CLAMP,
                0.0
            )),
            loss!(|p| gpo(&pair(p), &both(3.2, -2.4), 1.0, TARGET_CLAMP)),
        ),
        (
            "sppo(1, 0) = sppo_hard",
            loss!(|p| sppo(&pair(p), &both(1.0, 0.0), 0.1)),
            loss!(|p| sppo_hard(&pair(p), 0.1)),
        ),
        (
            "pro(two, gap 1) = simpo(1, 0)",
            loss!(|p| pro(
                &two_ranked(&[Tensor::stack(&[&p[0], &p[1]], 1)], 1.0),
                Gaps::Rewards
            )),
            loss!(|p| simpo(&means(p), 1.0, 0.0)),
        ),
        (
            "brain(two, one wins) = dpo(1)",
            loss!(|p| {
                let prior = list(&[-13.5, -19.2]);
                let samples = SampleLogps {
                    policy: Tensor::stack(&[&p[0], &p[1]], 1),
                    prior: prior.shallow_clone(),
                    proposal: prior,
                };
                brain(&samples, &list(&[1.0, 0.0]), 1e-3)
            }),
            loss!(|p| dpo(&pair(p), 1.0)),
        ),
    ];
    for (what, left, right) in twins {
        let (left, right) = (evaluate(&left, &policy()), evaluate(&right, &policy()));
        assert_near(what, values(&left.0)[0], values(&right.0)[0], 1e-10);
        for (left, right) in left.1.iter().zip(&right.1) {
            assert_near(what, values(left)[0], values(right)[0], 1e-10);
        }
    }
}

#[test]
fn brain_has_gradients_that_add_up_to_nothing_and_takes_rewards_up_to_a_constant() {
    let inputs = [list(&[-12.0, -16.0, -20.0])];
    let loss = loss!(|p| example_brain(p, &[-12.5, -15.0, -21.0]));
    let (value, gradients) = evaluate(&loss, &inputs);
    assert!(gradients[0].sum(None).double_value(&[]).abs() < 1e-15);
    let samples = SampleLogps {
        policy: inputs[0].shallow_clone(),
        prior: list(&[-13.5, -15.5, -19.2]),
        proposal: list(&[-12.5, -15.0, -21.0]),
    };
    let shifted = brain(&samples, &(list(&REWARDS) + 7.0), 1.0);
    assert_near("shifted", values(&shifted)[0], values(&value)[0], 1e-13);
}
