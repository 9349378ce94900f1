//! Heads on embeddings, their losses and scores: worked values in f64, gradients, files.

use std::collections::BTreeMap;
use std::fs;

use preftune::losses::bradley_terry::{bradley_terry, margin_bradley_terry, scaled_bradley_terry};
use preftune::losses::general_preference::{TAU, general_preference};
use preftune::losses::ideal_point::{cumulative, hinge};
use preftune::losses::regression::regression;
use preftune::models::heads::{
    Gate, GeneralPreferenceConfig, Head, HeadConfig, HeadKind, IdealPointConfig, Network,
    Prototypes,
};
use preftune::ops::stable::unit_rows;
use preftune::rewards::general_preference::{pool_means, score, scores};
use preftune::rewards::ideal_point::{
    distance, scaled_cosine, squared_distance, squared_distances,
};
use preftune::rewards::new_user::{Choices, fit};
use tch::{Device, Kind, Tensor, no_grad};

fn row(values: &[f64]) -> Tensor {
    Tensor::from_slice(values)
}

fn rows<const N: usize>(values: &[[f64; N]]) -> Tensor {
    Tensor::from_slice2(values)
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

#[track_caller]
fn close(what: &str, actual: &Tensor, expected: &[f64]) {
    let actual = numbers(actual);
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (actual, expected) in actual.iter().zip(expected) {
        assert!(
            (actual - expected).abs() < 1e-9 * expected.abs().max(1.0),
            "{what}: {actual} is not {expected}"
        );
    }
}

/// Autograd against central differences for every input of a scalar function.
#[track_caller]
fn gradients_agree(what: &str, inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Tensor) {
    let leaves: Vec<Tensor> = inputs
        .iter()
        .map(|input| input.copy().set_requires_grad(true))
        .collect();
    f(&leaves).sum(None).backward();
    for (index, leaf) in leaves.iter().enumerate() {
        let analytic = numbers(&leaf.grad());
        let start = numbers(&inputs[index]);
        for position in 0..start.len() {
            let at = |by: f64| {
                let mut moved: Vec<Tensor> = inputs.iter().map(Tensor::copy).collect();
                let mut values = start.clone();
                values[position] += by;
                moved[index] = row(&values).view_as(&inputs[index]);
                f(&moved).sum(None).double_value(&[])
            };
            let step = 1e-4;
            let central =
                (8.0 * (at(step) - at(-step)) - at(2.0 * step) + at(-2.0 * step)) / (12.0 * step);
            assert!(
                (analytic[position] - central).abs() < 1e-7 * central.abs().max(1.0),
                "{what}, input {index}, {position}: {} by autograd, {central} by differences",
                analytic[position]
            );
        }
    }
}

#[test]
fn pairwise_losses_give_the_worked_values() {
    let chosen = row(&[1.3, 0.2, -0.5]);
    let rejected = row(&[0.9, 0.6, -2.0]);
    let strength = row(&[1.0, 2.0, 3.0]);
    let leaf = chosen.copy().set_requires_grad(true);
    let gap = &leaf - &rejected;
    close(
        "BT",
        &bradley_terry(&gap),
        &[0.513015252399953, 0.913015252399953, 0.201413277982752],
    );
    close(
        "margin BT",
        &margin_bradley_terry(&gap, &strength),
        &[1.03748795048589, 2.48683615215395, 1.70141327798275],
    );
    close(
        "scaled BT",
        &scaled_bradley_terry(&gap, &strength),
        &[0.513015252399953, 1.82603050479991, 0.604239833948257],
    );
    bradley_terry(&gap).sum(None).backward();
    close(
        "gradient of BT",
        &leaf.grad(),
        &[-0.401312339887548, -0.598687660112452, -0.182425523806356],
    );
    for (what, loss) in [("BT", 0), ("margin BT", 1), ("scaled BT", 2)] {
        gradients_agree(what, &[chosen.copy(), rejected.copy()], |inputs| {
            let gap = &inputs[0] - &inputs[1];
            match loss {
                0 => bradley_terry(&gap),
                1 => margin_bradley_terry(&gap, &strength),
                _ => scaled_bradley_terry(&gap, &strength),
            }
        });
    }
}

#[test]
fn scaling_is_repeating_a_pair() {
    let gap = row(&[0.4, -0.4]);
    let twice = scaled_bradley_terry(&gap, &row(&[2.0, 3.0]));
    let counted = bradley_terry(&row(&[0.4, 0.4, -0.4, -0.4, -0.4])).sum(Kind::Double);
    close("sum", &twice.sum(Kind::Double), &numbers(&counted));
}

#[test]
fn regression_gives_the_worked_value() {
    let (predicted, rating) = (rows(&[[3.2, 1.1]]), rows(&[[4.0, 1.0]]));
    close("regression", &regression(&predicted, &rating), &[0.325]);
    gradients_agree("regression", &[predicted], |inputs| {
        regression(&inputs[0], &rating)
    });
}

#[test]
fn general_preference_scores_give_the_worked_values() {
    let third = 2.0 * std::f64::consts::PI / 3.0;
    let at = |angle: f64| [angle.cos(), angle.sin()];
    let circle = rows(&[at(0.0), at(third), at(2.0 * third)]);
    let one = row(&[1.0]);
    let around = scores(&circle, &one);
    let s = 0.866025403784439;
    close("circle", &around, &[0.0, s, -s, -s, 0.0, s, s, -s, 0.0]);
    let losses = general_preference(&row(&[s, -s]), TAU);
    close("loss", &losses, &[0.000173325244634073, 8.66042736308902]);

    let (left, right) = (
        rows(&[[0.6, -0.2, 0.1, 0.9]]),
        rows(&[[0.3, 0.8, -0.5, 0.4]]),
    );
    let gate = rows(&[[1.0, 0.5], [-0.3, 0.7]])
        .matmul(&row(&[0.2, -0.4]))
        .softmax(0, Kind::Double);
    close("gate", &gate, &[0.584190522935407, 0.415809477064593]);
    close("raw", &score(&left, &right, &gate), &[0.51920952614677]);
    let (left, right) = (unit_rows(&left), unit_rows(&right));
    close("unit", &score(&left, &right, &gate), &[0.440261096645398]);
    close(
        "no gate",
        &score(&left, &right, &row(&[1.0, 1.0])),
        &[0.873383300399179],
    );

    let reward = |r: f64| rows(&[[r, 1.0]]);
    close(
        "Bradley-Terry",
        &score(&reward(1.7), &reward(0.4), &one),
        &[1.3],
    );

    let pool = rows(&[[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]]);
    let table = scores(&pool, &one) / 0.1;
    close(
        "pool",
        &table,
        &[0.0, -8.0, 6.0, 8.0, 0.0, 10.0, -6.0, -10.0, 0.0],
    );
    close(
        "pool means",
        &pool_means(&table),
        &[-0.666666666666667, 6.0, -5.333333333333333],
    );
    let (first, second) = (
        unit_rows(&rows(&[[0.5, 0.5, 0.5, 0.5]])),
        unit_rows(&rows(&[[0.1, 0.7, 0.7, 0.1]])),
    );
    let scales = row(&[0.2, -0.3]).softmax(0, Kind::Double);
    let value = score(&first, &second, &scales);
    close("four dimensions", &value, &[0.07347559872111274]);
    close(
        "its loss",
        &general_preference(&value, TAU),
        &[0.39178697328830225],
    );
}

#[test]
fn scores_of_all_pairs_are_antisymmetric_and_those_of_single_pairs() {
    let embeddings = Tensor::randn([3, 5, 8], (Kind::Double, Device::Cpu));
    let scales = Tensor::rand([3, 4], (Kind::Double, Device::Cpu));
    let all = scores(&embeddings, &scales);
    let asymmetry = (&all + all.transpose(1, 2)).abs().max().double_value(&[]);
    assert!(asymmetry < 1e-12, "{asymmetry}");
    let one = score(&embeddings.select(1, 1), &embeddings.select(1, 4), &scales);
    close("one pair", &all.select(1, 1).select(1, 4), &numbers(&one));
    gradients_agree(
        "score",
        &[embeddings.select(1, 0), embeddings.select(1, 1), scales],
        |inputs| general_preference(&score(&inputs[0], &inputs[1], &inputs[2]), 0.5),
    );
}

/// The worked example of PAL: the linear map, prototypes, weights.
fn pal() -> (Tensor, Tensor, Tensor, Tensor) {
    let map = rows(&[[1.0, 0.5], [-0.25, 2.0]]);
    let prototypes = rows(&[[1.0, 0.0], [-0.5, 1.5]]);
    let weights = row(&[0.4, -0.8]).softmax(0, Kind::Double);
    let items = rows(&[[0.2, 0.9], [1.0, -0.3]]).matmul(&map.tr());
    (map, prototypes, weights, items)
}

#[test]
fn ideal_points_give_the_worked_values() {
    let (map, prototypes, weights, items) = pal();
    close("weights", &weights, &[0.768524783499018, 0.231475216500982]);
    let ideal = weights.unsqueeze(0).matmul(&prototypes.matmul(&map.tr()));
    close(
        "ideal point",
        &ideal,
        &[0.826393587624263, 0.531228855690815],
    );
    let from = distance(&items, &ideal.expand_as(&items));
    close("distances", &from, &[1.23146977224603, 1.3814305681062]);
    // The lead of the left item is the distance of the right one less its own.
    let lead = from.get(1) - from.get(0);
    close("lead", &lead, &[0.149960795860173]);
    close("hinge", &hinge(&lead), &[0.850039204139827]);
    close("hinge of the other", &hinge(&-&lead), &[1.14996079586017]);
    let squared = squared_distance(&items, &ideal.expand_as(&items));
    let probability = (squared.get(1) - squared.get(0)).sigmoid();
    close("logistic", &probability, &[0.596723785986413]);

    let networks = [
        rows(&[[0.6, 0.2], [0.0, 1.0]]),
        rows(&[[-0.3, 0.9], [0.8, 0.1]]),
    ];
    let prompt = row(&[1.0, -1.0]);
    let z =
        networks[0].matmul(&prompt) * weights.get(0) + networks[1].matmul(&prompt) * weights.get(1);
    close("z", &z, &[0.0296396535984282, -0.60649213194833]);
    let logits = scaled_cosine(
        &items,
        &z.unsqueeze(0).expand_as(&items),
        &Tensor::from(1.0 / 0.07),
    );
    close("logits", &logits, &[-13.1330288123546, 10.5825635388696]);
    let loss = bradley_terry(&(logits.get(0) - logits.get(1)));
    close("cross-entropy", &loss, &[23.7155923512744]);

    let losses = rows(&[[0.9, 0.5, 0.1]]);
    close(
        "cumulative",
        &cumulative(&losses, &losses.ones_like()),
        &[0.366666666666667],
    );
    let padded = rows(&[[7.0, 0.9, 0.5, 0.1, 7.0]]);
    let mask = rows(&[[0.0, 1.0, 1.0, 1.0, 0.0]]);
    close(
        "with padding",
        &cumulative(&padded, &mask),
        &[0.366666666666667],
    );

    gradients_agree(
        "hinge of distances",
        &[items.copy(), ideal.copy()],
        |inputs| {
            let from = distance(&inputs[0], &inputs[1].expand_as(&inputs[0]));
            hinge(&(from.get(1) - from.get(0)))
        },
    );
    gradients_agree("scaled cosine", &[items, z.unsqueeze(0)], |inputs| {
        let logits = scaled_cosine(
            &inputs[0],
            &inputs[1].expand_as(&inputs[0]),
            &Tensor::from(2.0),
        );
        bradley_terry(&(logits.get(0) - logits.get(1)))
    });
}

#[test]
fn a_mixture_leads_by_the_mean_of_its_prototypes_leads() {
    let (map, prototypes, weights, items) = pal();
    let points = prototypes.matmul(&map.tr());
    let squared = squared_distances(&items, &points); // [2, 2]
    let leads = squared.get(1) - squared.get(0);
    let ideal = weights.unsqueeze(0).matmul(&points);
    let own = squared_distance(&items, &ideal.expand_as(&items));
    let lead = own.get(1) - own.get(0);
    close("lead", &leads.dot(&weights), &numbers(&lead));
}

#[test]
fn a_new_user_of_distances_is_fitted_to_the_only_maximum() {
    // Two prototypes: the objective has one unknown, which a fine search finds too.
    let choices = Choices {
        leads: vec![1.2, -0.4, 0.3, 0.9, -2.0, 1.5, 0.7, 0.1],
        products: None,
    };
    let prior = [0.5, 0.25];
    let fitted = fit(&choices, &prior).unwrap();
    let objective = |w: f64| {
        let belief = prior[0] * w.ln() + prior[1] * (1.0 - w).ln();
        let leads = choices
            .leads
            .chunks(2)
            .map(|row| w * row[0] + (1.0 - w) * row[1]);
        belief - leads.map(|lead| (-lead).exp().ln_1p()).sum::<f64>()
    };
    let best = (1..100_000)
        .map(|step| f64::from(step) / 1e5)
        .max_by(|one, two| objective(*one).total_cmp(&objective(*two)))
        .unwrap();
    assert!(
        (fitted.weights[0] - best).abs() < 2e-5,
        "{fitted:?}, {best}"
    );
    assert!((fitted.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    assert!(fitted.iterations < 15, "{fitted:?}");
}

#[test]
fn a_new_user_of_cosines_is_fitted_to_where_the_gradient_vanishes() {
    let points = [[1.0, 0.2], [-0.4, 0.9], [0.3, -0.8]];
    let differences = [[0.9, -0.3], [0.2, 0.8], [-0.5, 0.4], [0.7, 0.1]];
    let product = |a: &[f64; 2], b: &[f64; 2]| a[0] * b[0] + a[1] * b[1];
    let leads = differences
        .iter()
        .flat_map(|d| points.iter().map(move |p| 3.0 * product(d, p)));
    let products = points
        .iter()
        .flat_map(|a| points.iter().map(move |b| product(a, b)));
    let products: Vec<f64> = products.collect();
    let choices = Choices {
        leads: leads.collect(),
        products: Some(products.repeat(differences.len())),
    };
    let prior = [1.0 / 3.0; 3];
    let weights = fit(&choices, &prior).unwrap().weights;
    let objective = |w: &[f64]| {
        let z = [0, 1].map(|axis| (0..3).map(|k| w[k] * points[k][axis]).sum::<f64>());
        let norm = product(&z, &z).sqrt();
        let fits = differences
            .iter()
            .map(|d| (-3.0 * product(d, &z) / norm).exp().ln_1p());
        w.iter()
            .zip(prior)
            .map(|(w, prior)| prior * w.ln())
            .sum::<f64>()
            - fits.sum::<f64>()
    };
    for (one, two) in [(0, 1), (1, 2), (0, 2)] {
        let moved = |by: f64| {
            let mut w = weights.clone();
            w[one] += by;
            w[two] -= by;
            objective(&w)
        };
        let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        assert!(slope.abs() < 1e-6, "{one} for {two}: slope {slope}");
        assert!(moved(0.0) >= moved(1e-3) && moved(0.0) >= moved(-1e-3));
    }
}

#[test]
fn a_new_user_without_choices_has_the_priors_weights() {
    let choices = Choices {
        leads: Vec::new(),
        products: None,
    };
    let weights = fit(&choices, &[0.6, 0.2]).unwrap().weights;
    assert!((weights[0] - 0.75).abs() < 1e-9, "{weights:?}");
    assert!(fit(&choices, &[0.6, 0.0]).is_err());
    assert!(fit(&choices, &[]).is_err());
    let broken = Choices {
        leads: vec![1.0, f64::NAN],
        products: None,
    };
    assert!(fit(&broken, &[1.0, 1.0]).is_err());
}

fn scalar(outputs: &[&str], seed: u64) -> Head {
    let config = HeadConfig {
        input: 4,
        hidden: vec![3],
        bias: true,
        kind: HeadKind::Scalar {
            outputs: outputs.iter().map(|&name| name.to_owned()).collect(),
        },
    };
    Head::new(config, seed, Kind::Float, Device::Cpu)
}

fn general(gate: Option<Gate>) -> Head {
    let own = GeneralPreferenceConfig {
        planes: 3,
        unit: true,
        gate,
        tau: TAU,
    };
    let config = HeadConfig {
        input: 4,
        hidden: vec![],
        bias: true,
        kind: HeadKind::GeneralPreference(own),
    };
    Head::new(config, 1, Kind::Float, Device::Cpu)
}

fn ideal(prototypes: Prototypes) -> Head {
    let own = IdealPointConfig {
        width: 2,
        count: 3,
        prototypes,
        users: vec!["ann".to_owned(), "bob".to_owned()],
    };
    let config = HeadConfig {
        input: 4,
        hidden: vec![5],
        bias: true,
        kind: HeadKind::IdealPoint(own),
    };
    Head::new(config, 2, Kind::Float, Device::Cpu)
}

#[test]
fn heads_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Some(Gate { input: 6, sum: 3.0 });
    let heads = [
        scalar(&["reward"], 3),
        general(gate),
        general(None),
        ideal(Prototypes::Points),
        ideal(Prototypes::OfPrompt { input: 6 }),
    ];
    for (index, head) in heads.iter().enumerate() {
        let path = folder.path().join(index.to_string());
        head.save(&path, &BTreeMap::new()).unwrap();
        let read = Head::open(&path, Kind::Float, Device::Cpu).unwrap();
        assert_eq!(read.config(), head.config());
        let pairs = read.parameters().into_iter().zip(head.parameters());
        for ((name, read), (known, written)) in pairs {
            assert_eq!(name, known);
            assert_eq!(numbers(&read), numbers(&written), "{name}");
        }
    }
    let path = folder.path().join("0");
    let text = fs::read_to_string(path.join("config.json")).unwrap();
    fs::write(
        path.join("config.json"),
        text.replace("\"input\": 4", "\"input\": 5"),
    )
    .unwrap();
    let error = Head::open(&path, Kind::Float, Device::Cpu).err().unwrap();
    assert!(error.to_string().contains("reward.0.weight"), "{error}");
    fs::write(
        path.join("config.json"),
        text.replace("\"input\": 4", "\"input\": 0"),
    )
    .unwrap();
    assert!(Head::open(&path, Kind::Float, Device::Cpu).is_err());
}

#[test]
fn scales_of_a_gate_are_even_at_first_and_of_the_given_sum() {
    let head = general(Some(Gate { input: 6, sum: 3.0 }));
    let Network::GeneralPreference(head) = head.network() else {
        panic!("another head");
    };
    let scales = head.scales(Some(&Tensor::randn([5, 6], (Kind::Float, Device::Cpu))));
    close("sum", &scales.sum(None).to_kind(Kind::Float), &[15.0]);
    let zero = head.scales(Some(&Tensor::zeros([1, 6], (Kind::Float, Device::Cpu))));
    assert!((zero - 1.0).abs().max().double_value(&[]) < 1e-6);
}

#[test]
fn a_general_preference_starts_near_a_reward_and_tells_opposite_responses_apart() {
    let head = general(None);
    let Network::GeneralPreference(head) = head.network() else {
        panic!("another head");
    };
    let response = Tensor::ones([1, 4], (Kind::Float, Device::Cpu));
    let (one, other) = (head.embed(&response), head.embed(&-&response));
    let lead = score(&one, &other, &head.scales(None)).double_value(&[0]);
    assert!(lead.abs() > 1e-3, "{lead}");
    let origin = head.embed(&response.zeros_like());
    let up = 1.0 / 3.0_f64.sqrt();
    let off = (origin - Tensor::from_slice(&[0.0, up, 0.0, up, 0.0, up]))
        .abs()
        .max();
    assert!(off.double_value(&[]) < 1e-6);
}

#[test]
fn a_reward_head_starts_from_one_output_of_a_regression() {
    let regression = scalar(&["helpfulness", "verbosity"], 5);
    let mut reward = scalar(&["reward"], 6);
    reward.start_from(&regression, Some("verbosity")).unwrap();
    let inputs = Tensor::randn([7, 4], (Kind::Float, Device::Cpu));
    let (Network::Scalar(from), Network::Scalar(to)) = (regression.network(), reward.network())
    else {
        panic!("other heads");
    };
    let expected = from.forward(&inputs).select(1, 1);
    let rewards = to.forward(&inputs).view_as(&expected);
    // Products of other widths round otherwise.
    assert!((rewards - expected).abs().max().double_value(&[]) < 1e-6);
    assert!(reward.start_from(&regression, Some("wit")).is_err());
    assert!(reward.start_from(&general(None), None).is_err());
}

#[test]
fn extrapolation_goes_on_past_the_stronger_head() {
    let (weak, mut strong) = (scalar(&["reward"], 7), scalar(&["reward"], 8));
    let before = strong
        .parameters()
        .into_iter()
        .map(|(_, tensor)| tensor.copy());
    let before: Vec<Tensor> = before.collect();
    strong.extrapolate(&weak, 1.52).unwrap();
    for (((_, now), before), (_, weak)) in strong
        .parameters()
        .iter()
        .zip(before)
        .zip(weak.parameters())
    {
        let expected = no_grad(|| &weak + (&before - &weak) * 1.52);
        assert!((now - expected).abs().max().double_value(&[]) < 1e-6);
    }
    assert!(strong.extrapolate(&general(None), 1.5).is_err());
}
