//! Worked values and gradients (PyTorch 2.11) of objectives on ranked lists, on samples and on logits.

use preftune::losses::dpo::dpo;
use preftune::losses::pair::{Pair, PairLogps};
use preftune::losses::pro::{Gaps, pro, pro_sft};
use preftune::losses::tdpo::{tdpo1, tdpo2};
use preftune::ops::token_kl::token_kl;
use tch::Tensor;

use super::{
    Loss, assert_finite_differences, assert_near, assert_worked, evaluate, example_brain, list,
    loss, ranked, two_ranked, values,
};

#[test]
fn functions_of_lists_give_the_worked_values() {
    let prior = [-13.5, -15.5, -19.2];
    let table: Vec<(&str, Loss, f64, [f64; 3])> = vec![
        (
            "pro",
            loss!(|p| pro(&ranked(p), Gaps::Rewards)),
            3.445984901388,
            [
                -0.47653536947925695,
                0.11658339461288864,
                0.06408074397905165,
            ],
        ),
        (
            "pro with the summed likelihood",
            loss!(|p| pro(&ranked(p), Gaps::Rewards) + pro_sft(&ranked(p), 0.05, false)),
            5.845984901388,
            [-0.676535369479257, 0.11658339461288864, 0.06408074397905165],
        ),
        (
            "pro with the mean likelihood",
            loss!(|p| pro(&ranked(p), Gaps::Rewards) + pro_sft(&ranked(p), 0.05, true)),
            3.845984901388,
            [
                -0.5098687028125903,
                0.11658339461288864,
                0.06408074397905165,
            ],
        ),
        (
            "pro by order",
            loss!(|p| pro(&ranked(p), Gaps::Uniform)),
            1.432097072127,
            [
                -0.10272471146824154,
                0.0007638827990506664,
                0.0762796508021305,
            ],
        ),
        (
            "brain",
            loss!(|p| example_brain(p, &prior)),
            0.030507026985,
            [
                0.02373021792917629,
                -0.0657598591893424,
                0.04202964126016609,
            ],
        ),
        (
            "brain of another proposal",
            loss!(|p| example_brain(p, &[-12.5, -15.0, -21.0])),
            0.094624923484,
            [
                -0.10912145617155039,
                -0.09054631514924712,
                0.1996677713207975,
            ],
        ),
    ];
    for (what, loss, value, gradients) in table {
        assert_worked(
            what,
            &loss,
            &[list(&[-12.0, -16.0, -20.0])],
            value,
            &gradients,
        );
    }
    assert_worked(
        "pro of two",
        &loss!(|p| pro(&two_ranked(p, 2.5), Gaps::Rewards)),
        &[list(&[-12.0, -20.0])],
        0.251929081345,
        &[-0.09279172451054529, 0.06959379338290902],
    );
}

/// Logits of the worked example: policy and reference, labels of the chosen and of the rejected response.
fn logits(policy: &[Tensor]) -> (PairLogps, Pair) {
    let reference = [
        Tensor::from_slice2(&[[1.5, 0.5, -0.5], [0.5, 0.8, 0.1]]),
        Tensor::from_slice2(&[[0.4, 0.6, 0.7], [0.2, -0.3, 0.6]]),
    ];
    let labels = [[0i64, 1], [1, 0]].map(|labels| Tensor::from_slice(&labels).unsqueeze(1));
    let kind = policy[0].kind();
    let logp = |logits: &Tensor, labels: &Tensor| {
        let selected = logits.log_softmax(-1, kind).gather(1, labels, false);
        selected.sum(kind).view([1])
    };
    let kl = |side: usize| {
        token_kl(&policy[side], &reference[side])
            .sum(kind)
            .view([1])
    };
    (
        PairLogps {
            policy_chosen: logp(&policy[0], &labels[0]),
            policy_rejected: logp(&policy[1], &labels[1]),
            reference_chosen: logp(&reference[0], &labels[0]),
            reference_rejected: logp(&reference[1], &labels[1]),
        },
        Pair {
            chosen: kl(0),
            rejected: kl(1),
        },
    )
}

fn policy_logits() -> [Tensor; 2] {
    [
        Tensor::from_slice2(&[[2.0, 0.5, -1.0], [0.3, 1.2, 0.0]]),
        Tensor::from_slice2(&[[0.0, 1.0, 0.5], [1.0, -1.0, 0.2]]),
    ]
}

#[test]
fn token_kl_gives_the_worked_values() {
    let reference = Tensor::from_slice2(&[[1.5, 0.5, -0.5], [0.5, 0.8, 0.1]]);
    let kl = values(&token_kl(&policy_logits()[0], &reference));
    for (actual, expected) in kl.iter().zip([0.04610014091055592, 0.03950608377452322]) {
        assert_near("K", *actual, expected, 1e-14);
    }
}

#[test]
fn tdpo_gives_the_worked_values() {
    let table: Vec<(&str, Loss, f64, [f64; 6])> = vec![
        (
            "tdpo1",
            loss!(|p| {
                let (pair, kl) = logits(p);
                tdpo1(&pair, &kl, 0.1)
            }),
            0.733956882234,
            [
                -0.017407272772,
                0.01272573609,
                0.004681536681,
                0.017217327999,
                -0.028758448097,
                0.011541120097,
            ],
        ),
        (
            "tdpo2 0.5",
            loss!(|p| {
                let (pair, kl) = logits(p);
                tdpo2(&pair, &kl, 0.1, 0.5)
            }),
            0.729456143837,
            [
                -0.01110240409,
                0.009077042208,
                0.002025361882,
                0.012328021609,
                -0.021460844642,
                0.009132823033,
            ],
        ),
        (
            "tdpo2 1",
            loss!(|p| {
                let (pair, kl) = logits(p);
                tdpo2(&pair, &kl, 0.1, 1.0)
            }),
            0.733956882234,
            [
                -0.011148827691,
                0.009114996959,
                0.002033830731,
                0.012379570008,
                -0.021550581034,
                0.009171011026,
            ],
        ),
    ];
    let rejected = [
        -0.012074132872,
        0.029814276768,
        -0.017740143896,
        0.027087617353,
        -0.007279690662,
        -0.019807926692,
    ];
    for (what, loss, value, chosen) in table {
        let (actual, gradients) = evaluate(&loss, &policy_logits());
        assert_near(what, values(&actual)[0], value, 1e-11);
        for (actual, expected) in values(&gradients[0]).iter().zip(chosen) {
            assert_near(what, *actual, expected, 1e-11);
        }
        if what == "tdpo2 0.5" {
            for (actual, expected) in values(&gradients[1]).iter().zip(rejected) {
                assert_near(what, *actual, expected, 1e-11);
            }
        }
        // The stopped gradient of TDPO2 is none of its value's.
        if what == "tdpo1" {
            assert_finite_differences(what, &loss, &policy_logits());
        }
    }
    let (pair, kl) = logits(&policy_logits());
    for (actual, expected) in [
        (dpo(&pair, 0.1), 0.724974188528),
        (tdpo1(&pair, &kl, 1.0), 1.1712322303836822),
        (tdpo2(&pair, &kl, 1.0, 0.5), 1.1121975343868247),
        (tdpo2(&pair, &kl, 0.1, 0.0), 0.724974188528),
    ] {
        assert_near("beta 1", values(&actual)[0], expected, 1e-11);
    }
}
