//! The objectives of the image path against worked values of the RPO paper's formulas (float64).

use preftune::losses::denoising_error;
use preftune::losses::dreambooth::dreambooth;
use preftune::losses::rpo::{PairErrors, Rpo, rpo};
use preftune::ops::stable::log_sigmoid;
use tch::{Kind, Tensor};

fn column(values: &[f64]) -> Tensor {
    Tensor::from_slice(values)
}

fn leaf(values: &[f64]) -> Tensor {
    column(values).set_requires_grad(true)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

#[track_caller]
fn assert_values(actual: &Tensor, expected: &[f64], tolerance: f64) {
    let actual = values(actual);
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(expected) {
        assert!(
            (actual - expected).abs() <= tolerance * expected.abs().max(1.0),
            "{actual} is not {expected}"
        );
    }
}

/// Errors 0.12, 0.20 of the policy and 0.15, 0.18 of the base model: a margin of 0.05.
fn pair() -> PairErrors {
    PairErrors {
        policy_reference: leaf(&[0.12]),
        policy_generated: leaf(&[0.20]),
        base_reference: column(&[0.15]),
        base_generated: column(&[0.18]),
    }
}

#[test]
fn rpo_gives_the_worked_values_and_gradients() {
    // beta, label, preference, loss, gradient for the reference's and for the generated image's error
    let table = [
        [
            1.0,
            1.0,
            0.668459648013286,
            0.788459648013286,
            1.48750260351579,
            -0.48750260351579,
        ],
        [
            1.0,
            0.0,
            0.718459648013286,
            0.838459648013286,
            0.48750260351579,
            0.51249739648421,
        ],
        [
            10.0,
            1.0,
            0.474076984180107,
            0.594076984180107,
            4.77540668798145,
            -3.77540668798145,
        ],
        [1000.0, 0.0, 50.0, 50.12, -999.0, 1000.0],
    ];
    for [beta, label, preference, loss, reference, generated] in table {
        let errors = pair();
        let terms = rpo(&errors, &column(&[label]), beta, 1.0);
        assert_values(&terms.margin, &[0.05], 1e-12);
        assert_values(&terms.similarity, &[0.12], 1e-12);
        assert_values(&terms.preference, &[preference], 1e-12);
        assert_values(&terms.loss, &[loss], 1e-12);
        terms.loss.sum(None).backward();
        assert_values(&errors.policy_reference.grad(), &[reference], 1e-12);
        assert_values(&errors.policy_generated.grad(), &[generated], 1e-12);
    }
}

/// Two latents of four values each, laid out as `[1, 1, 2, 2]`.
fn latents() -> [(Tensor, Tensor, Tensor); 2] {
    let latent = |values: [f64; 4]| column(&values).view([1, 1, 2, 2]);
    [
        (
            latent([0.5, -1.0, 0.25, 0.0]),
            latent([0.4, -0.7, 0.35, -0.1]),
            latent([0.2, -0.6, 0.05, 0.3]),
        ),
        (
            latent([-0.3, 0.8, 0.0, 1.1]),
            latent([-0.1, 0.9, -0.2, 0.7]),
            latent([-0.25, 0.7, -0.1, 0.9]),
        ),
    ]
}

fn rpo_of_latents(label: f64, kind: Kind) -> Rpo {
    let [reference, generated] = latents();
    let error = |prediction: &Tensor, target: &Tensor| {
        denoising_error(&prediction.to_kind(kind), &target.to_kind(kind))
    };
    let errors = PairErrors {
        policy_reference: error(&reference.1, &reference.0),
        policy_generated: error(&generated.1, &generated.0),
        base_reference: error(&reference.2, &reference.0),
        base_generated: error(&generated.2, &generated.0),
    };
    rpo(&errors, &column(&[label]).to_kind(kind), 1.0, 1.0)
}

#[test]
fn rpo_of_latents_gives_the_worked_values() {
    for (label, loss) in [
        (1.0, 0.668773367304416),
        (0.0, 0.780648367304416),
        (0.4775, 0.727228054804416),
    ] {
        let exact = rpo_of_latents(label, Kind::Double);
        assert_values(&exact.similarity, &[0.03], 1e-12);
        assert_values(&exact.margin, &[0.111875], 1e-12);
        assert_values(&exact.loss, &[loss], 1e-12);
        let single = rpo_of_latents(label, Kind::Float);
        assert_eq!(single.loss.kind(), Kind::Float);
        assert_values(&single.loss, &[loss], 3e-7);
    }
}

#[test]
fn denoising_error_is_a_mean_per_sample_summed_in_single_precision() {
    let [reference, generated] = latents();
    let prediction = Tensor::cat(&[reference.1, generated.1], 0);
    let target = Tensor::cat(&[reference.0, generated.0], 0);
    assert_values(
        &denoising_error(&prediction, &target),
        &[0.03, 0.0625],
        1e-12,
    );
    // 4096 errors of 1: a half-precision sum would stop at 2048.
    let ones = Tensor::ones([2, 4, 32, 32], (Kind::Half, tch::Device::Cpu));
    let error = denoising_error(&ones, &ones.zeros_like());
    assert_eq!(error.kind(), Kind::Float);
    assert_values(&error, &[1.0, 1.0], 0.0);
}

#[test]
#[should_panic(expected = "one shape")]
fn denoising_error_does_not_broadcast() {
    let many = Tensor::ones([2, 4, 8, 8], tch::kind::FLOAT_CPU);
    let _ = denoising_error(&many, &many.narrow(0, 0, 1));
}

#[test]
fn rpo_gradients_are_the_closed_form_for_any_margin_label_beta_and_weight() {
    let reference = [0.02, 0.4, 1.3, 0.11, 0.0];
    let generated = [0.3, 0.05, 0.9, 0.11, 2.0];
    let label = [0.0, 0.31, 0.5, 0.97, 1.0];
    for (beta, weight) in [(1.0, 1.0), (0.1, 3.0), (50.0, 0.25), (2000.0, 1.0)] {
        let errors = PairErrors {
            policy_reference: leaf(&reference),
            policy_generated: leaf(&generated),
            base_reference: column(&[0.1, 0.3, 1.0, 0.11, 0.5]),
            base_generated: column(&[0.2, 0.1, 1.1, 0.11, 0.5]),
        };
        let terms = rpo(&errors, &column(&label), beta, weight);
        terms.loss.sum(None).backward();
        let pull = ((&terms.margin * beta).sigmoid() - column(&label)) * (beta * weight);
        assert_values(
            &errors.policy_reference.grad(),
            &values(&(1.0 - &pull)),
            1e-12,
        );
        assert_values(&errors.policy_generated.grad(), &values(&pull), 1e-12);
    }
}

#[test]
fn rpo_starts_at_ln_2_whatever_the_label() {
    let same = column(&[0.3, 0.7, 0.01]);
    let errors = PairErrors {
        policy_reference: same.copy(),
        policy_generated: same.copy() * 2.0,
        base_reference: same.copy(),
        base_generated: same.copy() * 2.0,
    };
    let terms = rpo(&errors, &column(&[0.0, 0.48, 1.0]), 25.0, 2.0);
    assert_values(&terms.margin, &[0.0; 3], 0.0);
    assert_values(&terms.preference, &[std::f64::consts::LN_2; 3], 1e-15);
    let loss: Vec<f64> = values(&same)
        .iter()
        .map(|error| error + 2.0 * std::f64::consts::LN_2)
        .collect();
    assert_values(&terms.loss, &loss, 1e-15);
}

#[test]
fn rpo_is_finite_at_extreme_errors_in_single_precision() {
    for label in [0.0, 0.5, 1.0] {
        let extreme = [1e30, 0.0, 1e-30, 1e4];
        let errors = PairErrors {
            policy_reference: leaf(&extreme)
                .to_kind(Kind::Float)
                .detach()
                .set_requires_grad(true),
            policy_generated: column(&[0.0, 1e30, 1e4, 1e-30])
                .to_kind(Kind::Float)
                .set_requires_grad(true),
            base_reference: column(&[0.1; 4]).to_kind(Kind::Float),
            base_generated: column(&[0.1; 4]).to_kind(Kind::Float),
        };
        let terms = rpo(
            &errors,
            &column(&[label; 4]).to_kind(Kind::Float),
            1000.0,
            1.0,
        );
        terms.loss.sum(None).backward();
        for tensor in [
            &terms.loss,
            &errors.policy_reference.grad(),
            &errors.policy_generated.grad(),
        ] {
            assert!(
                values(tensor).iter().all(|value| value.is_finite()),
                "{tensor:?}"
            );
        }
    }
}

#[test]
fn log_sigmoid_is_exact_at_both_ends() {
    let x = leaf(&[-1e6, -700.0, -30.0, 0.0, 30.0, 700.0, 1e6]);
    let y = log_sigmoid(&x);
    let expected: Vec<f64> = values(&x)
        .iter()
        .map(|&x| x.min(0.0) - (-x.abs()).exp().ln_1p())
        .collect();
    for (actual, expected) in values(&y).iter().zip(&expected) {
        assert!(
            (actual - expected).abs() <= 1e-14 * expected.abs(),
            "{actual} is not {expected}"
        );
    }
    y.sum(None).backward();
    assert_values(
        &x.grad(),
        &[1.0, 1.0, 1.0, 0.5, 9.357622968839299e-14, 0.0, 0.0],
        1e-13,
    );
}

#[test]
fn dreambooth_adds_the_weighted_prior_error() {
    let (instance, prior) = (leaf(&[0.1, 0.4]), leaf(&[0.3, 0.2]));
    assert_values(&dreambooth(&instance, None), &[0.1, 0.4], 0.0);
    let loss = dreambooth(&instance, Some((&prior, 0.5)));
    assert_values(&loss, &[0.25, 0.5], 1e-15);
    loss.sum(None).backward();
    assert_values(&instance.grad(), &[1.0, 1.0], 0.0);
    assert_values(&prior.grad(), &[0.5, 0.5], 0.0);
}

#[test]
fn an_undecided_label_makes_rpo_prior_preservation() {
    // At margin 0 the gradient is that of (1 - w) L(ref) + w L(gen) with w = beta (1/2 - y).
    let errors = PairErrors {
        policy_reference: leaf(&[0.2]),
        policy_generated: leaf(&[0.3]),
        base_reference: column(&[0.2]),
        base_generated: column(&[0.3]),
    };
    rpo(&errors, &column(&[0.49]), 20.0, 1.0)
        .loss
        .sum(None)
        .backward();
    assert_values(&errors.policy_reference.grad(), &[0.8], 1e-12);
    assert_values(&errors.policy_generated.grad(), &[0.2], 1e-12);
}
