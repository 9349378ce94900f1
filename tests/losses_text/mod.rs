//! The objectives of the text path, in float64: examples and checks that the files below share.

use preftune::losses::brain::{SampleLogps, brain};
use preftune::losses::f_dpo::{Divergence, EXPONENT_CAP, f_dpo};
use preftune::losses::pair::{Pair, PairLogps};
use preftune::losses::pro::RankedLogps;
use tch::{Kind, Tensor};

mod identities;
mod limits;
mod lists_and_tokens;
mod pairs;

/// Differentiable inputs `[b]` or `[b, n]` to per-sample losses.
type Loss = Box<dyn Fn(&[Tensor]) -> Tensor>;

fn row(values: &[f64]) -> Tensor {
    Tensor::from_slice(values)
}

fn list(values: &[f64]) -> Tensor {
    row(values).unsqueeze(0)
}

fn both(chosen: f64, rejected: f64) -> Pair {
    Pair {
        chosen: row(&[chosen]),
        rejected: row(&[rejected]),
    }
}

/// Example pair of the worked values: log-ratios 1.5 and -0.8.
fn pair(policy: &[Tensor]) -> PairLogps {
    against(policy, -13.5, -19.2)
}

fn against(policy: &[Tensor], chosen: f64, rejected: f64) -> PairLogps {
    let kind = policy[0].kind();
    PairLogps {
        policy_chosen: policy[0].shallow_clone(),
        policy_rejected: policy[1].shallow_clone(),
        reference_chosen: row(&[chosen]).to_kind(kind),
        reference_rejected: row(&[rejected]).to_kind(kind),
    }
}

fn lengths() -> Pair {
    both(6.0, 8.0)
}

fn means(policy: &[Tensor]) -> Pair {
    let sums = Pair {
        chosen: policy[0].shallow_clone(),
        rejected: policy[1].shallow_clone(),
    };
    sums.mean(&lengths())
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

/// Value and gradients at `inputs`.
fn evaluate(loss: &Loss, inputs: &[Tensor]) -> (Tensor, Vec<Tensor>) {
    let leaves: Vec<Tensor> = inputs
        .iter()
        .map(|input| input.copy().set_requires_grad(true))
        .collect();
    let value = loss(&leaves);
    value.sum(None).backward();
    let gradients = leaves.iter().map(|leaf| {
        let gradient = leaf.grad();
        if gradient.defined() {
            gradient
        } else {
            leaf.zeros_like()
        }
    });
    (value.detach(), gradients.collect())
}

#[track_caller]
fn assert_near(what: &str, actual: f64, expected: f64, tolerance: f64) {
    assert!(
        (actual - expected).abs() <= tolerance * expected.abs().max(1.0),
        "{what}: {actual} is not {expected}"
    );
}

/// Asserts a worked value with the gradient of each summed policy log-probability.
#[track_caller]
fn assert_worked(what: &str, loss: &Loss, inputs: &[Tensor], value: f64, gradients: &[f64]) {
    let (actual, found) = evaluate(loss, inputs);
    assert_near(what, actual.sum(None).double_value(&[]), value, 1e-11);
    let found: Vec<f64> = found.iter().flat_map(values).collect();
    assert_eq!(found.len(), gradients.len(), "{what}");
    for (actual, expected) in found.iter().zip(gradients) {
        assert_near(&format!("gradient of {what}"), *actual, *expected, 1e-12);
    }
    assert_finite_differences(what, loss, inputs);
}

/// Gradients by autograd against central differences, relative to the largest of them.
#[track_caller]
fn assert_finite_differences(what: &str, loss: &Loss, inputs: &[Tensor]) {
    let (_, gradients) = evaluate(loss, inputs);
    let total = |inputs: &[Tensor]| loss(inputs).sum(None).double_value(&[]);
    let scale = gradients.iter().flat_map(values).map(f64::abs);
    let scale = scale.fold(1e-3, f64::max);
    for (index, gradient) in gradients.iter().enumerate() {
        for (position, analytic) in values(gradient).into_iter().enumerate() {
            let moved = |by: f64| {
                let mut inputs: Vec<Tensor> = inputs.iter().map(Tensor::copy).collect();
                let mut numbers = values(&inputs[index]);
                numbers[position] += by;
                inputs[index] = row(&numbers).view_as(&inputs[index]);
                total(&inputs)
            };
            // Fourth order: the quadratic losses are exact, the others far below the bound.
            let step = 1e-3;
            let numeric = (8.0 * (moved(step) - moved(-step))
                - (moved(2.0 * step) - moved(-2.0 * step)))
                / (12.0 * step);
            assert!(
                (numeric - analytic).abs() <= 1e-6 * scale,
                "{what}: input {index}[{position}]: {analytic} by autograd, {numeric} by differences"
            );
        }
    }
}

fn policy() -> Vec<Tensor> {
    vec![row(&[-12.0]), row(&[-20.0])]
}

macro_rules! loss {
    (|$policy:ident| $value:expr) => {
        Box::new(move |$policy: &[Tensor]| $value) as Loss
    };
}

fn f(divergence: Divergence) -> Loss {
    loss!(|p| f_dpo(&pair(p), divergence, 0.1, EXPONENT_CAP))
}

const REWARDS: [f64; 3] = [2.0, 0.5, -1.0];

fn ranked(policy: &[Tensor]) -> RankedLogps {
    RankedLogps {
        policy: policy[0].shallow_clone(),
        lengths: list(&[6.0, 8.0, 8.0]),
        rewards: list(&REWARDS),
    }
}

fn two_ranked(policy: &[Tensor], gap: f64) -> RankedLogps {
    RankedLogps {
        policy: policy[0].shallow_clone(),
        lengths: list(&[6.0, 8.0]),
        rewards: list(&[gap, 0.0]),
    }
}

fn example_brain(policy: &[Tensor], proposal: &[f64]) -> Tensor {
    let samples = SampleLogps {
        policy: policy[0].shallow_clone(),
        prior: list(&[-13.5, -15.5, -19.2]),
        proposal: list(proposal),
    };
    brain(&samples, &list(&REWARDS), 1.0)
}

use loss;
