//! RPO training against torch: `tests/golden/training.py`.

use preftune::config::FirstMoment;
use preftune::losses::denoising_error;
use preftune::losses::rpo::{PairErrors, rpo};
use preftune::models::diffusion::{Conditioning, UNet};
use preftune::models::lora::LoraSet;
use preftune::models::weights::Checkpoint;
use preftune::ops::tape::Tape;
use preftune::trainer::optimizer::{AdamW, AdamWConfig};
use tch::{Device, Kind, Tensor, no_grad};

use crate::support::{assert_close, golden, golden_tensors};

/// The constants of `training.py`.
const BETA: f64 = 20.0;
const CLIP: f64 = 0.5;
/// In f32, rounding grows over ten steps of this small, steep problem, in torch as here.
const KIND: Kind = Kind::Double;
const LEARNING_RATE: f64 = 1e-3;
const ADAMW: AdamWConfig = AdamWConfig {
    beta_1: 0.9,
    beta_2: 0.95,
    epsilon: 1e-6,
    weight_decay: 0.05,
    ema: 0.0,
    first_moment: FirstMoment::Fp32,
};

struct Batch {
    noisy: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    conditioning: Conditioning,
    label: Tensor,
}

fn batch(inputs: &Checkpoint) -> Batch {
    let take = |name: &str| {
        let tensor = inputs.tensor(name).unwrap();
        if tensor.is_floating_point() {
            tensor.to_kind(KIND)
        } else {
            tensor
        }
    };
    let schedule = preftune::models::diffusion::NoiseSchedule::open(
        &golden("diffusion/sd1/scheduler"),
        Device::Cpu,
    )
    .unwrap();
    let (clean, noise, timesteps) = (take("clean"), take("noise"), take("timesteps"));
    Batch {
        noisy: schedule.add_noise(&clean, &noise, &timesteps),
        noise,
        timesteps,
        conditioning: Conditioning::new(take("context")),
        label: take("label"),
    }
}

fn unet() -> UNet {
    UNet::open(&golden("diffusion/sd1/unet"), None, Device::Cpu, KIND).unwrap()
}

fn errors<'a>(unet: &'a UNet, batch: &Batch, tape: Option<&Tape<'a>>) -> Tensor {
    denoising_error(
        &unet.forward(&batch.noisy, &batch.timesteps, &batch.conditioning, tape),
        &batch.noise,
    )
}

/// Ten steps; compares losses, norms, first gradients and final tensors with the golden file.
fn train(
    name: &str,
    unet: &UNet,
    base: &Tensor,
    parameters: Vec<(String, Tensor)>,
    batch: &Batch,
    checkpointed: bool,
) {
    let expected = golden_tensors(&format!("training/{name}.safetensors"));
    let largest_gradient = parameters
        .iter()
        .map(|(key, _)| {
            expected
                .tensor(&format!("gradient.{key}"))
                .unwrap()
                .abs()
                .max()
                .double_value(&[])
        })
        .fold(0.0, f64::max);
    let mut optimizer = AdamW::new(ADAMW, parameters);
    let mut rows = Vec::new();
    for step in 0..10 {
        let tape = checkpointed.then(Tape::new);
        let errors = errors(unet, batch, tape.as_ref());
        let pairs = PairErrors {
            policy_reference: errors.narrow(0, 0, 2),
            policy_generated: errors.narrow(0, 2, 2),
            base_reference: base.narrow(0, 0, 2),
            base_generated: base.narrow(0, 2, 2),
        };
        let loss = rpo(&pairs, &batch.label, BETA, 1.0).loss.mean(None);
        loss.backward();
        if let Some(tape) = tape {
            tape.backward();
        }
        if step == 0 {
            let mut worst: f64 = 0.0;
            for (key, parameter) in optimizer.parameters() {
                let gradient = expected.tensor(&format!("gradient.{key}")).unwrap();
                let difference = (parameter.grad() - gradient).abs().max().double_value(&[]);
                worst = worst.max(difference / largest_gradient);
                assert!(
                    difference <= 1e-5 * largest_gradient,
                    "{name}: gradient of {key} is off by {difference:e}"
                );
            }
            println!("{name}: worst gradient error {worst:.1e} of the largest gradient");
        }
        let norm = optimizer.step(LEARNING_RATE, CLIP).unwrap();
        rows.push(Tensor::stack(&[loss.detach(), norm], 0));
    }
    let measured = Tensor::stack(&rows, 0);
    assert_close(
        &format!("{name}: losses and norms"),
        &measured,
        &expected.tensor("losses_and_norms").unwrap(),
        1e-4,
    );
    for (key, parameter) in optimizer.parameters() {
        let last = expected.tensor(&format!("final.{key}")).unwrap();
        let difference = (&parameter - &last).abs().max().double_value(&[]);
        let allowed = 1e-4 * last.abs().max().double_value(&[]).max(0.1);
        assert!(
            difference <= allowed,
            "{name}: {key} is off by {difference:e} after ten steps"
        );
    }
}

fn moved_unet(inputs: &Checkpoint) -> (UNet, Vec<(String, Tensor)>) {
    let unet = unet();
    let parameters: Vec<(String, Tensor)> = unet
        .parameters()
        .iter()
        .map(|(name, tensor)| {
            let start = inputs
                .tensor(&format!("start.{name}"))
                .unwrap()
                .to_kind(KIND);
            let mut parameter = tensor.shallow_clone();
            let _ = parameter.g_add_(&start);
            (name.clone(), parameter.set_requires_grad(true))
        })
        .collect();
    (unet, parameters)
}

#[test]
fn ten_full_steps_are_those_of_torch_with_and_without_checkpointing() {
    let inputs = golden_tensors("training/inputs.safetensors");
    let batch = batch(&inputs);
    let base = no_grad(|| errors(&unet(), &batch, None));
    for checkpointed in [false, true] {
        let (unet, parameters) = moved_unet(&inputs);
        train("full", &unet, &base, parameters, &batch, checkpointed);
    }
}

#[test]
fn ten_lora_steps_are_those_of_peft_and_the_base_is_the_adapter_switched_off() {
    let inputs = golden_tensors("training/inputs.safetensors");
    let batch = batch(&inputs);
    let unet = unet();
    let untouched = no_grad(|| errors(&unet, &batch, None));
    // The adapter is f32, whatever the base is.
    let lora = LoraSet::load(unet.adapters(), &golden("training/lora_start.safetensors")).unwrap();
    lora.set_enabled(false);
    let base = no_grad(|| errors(&unet, &batch, None));
    lora.set_enabled(true);
    assert_eq!(base, untouched);
    lora.set_trainable(true);
    train("lora", &unet, &base, lora.parameters(), &batch, false);
}

#[test]
fn a_first_moment_in_bf16_is_rounded_between_updates_alone() {
    let draw = |count: i64| Tensor::randn([count], (Kind::Float, Device::Cpu));
    tch::manual_seed(4);
    // The one in the middle is widened on its own.
    let parameters: Vec<(String, Tensor)> = [3, 17 << 20, 5]
        .map(|count| (format!("of {count}"), draw(count).set_requires_grad(true)))
        .into();
    let config = AdamWConfig {
        first_moment: FirstMoment::Bf16,
        ..ADAMW
    };
    let wide = |tensor: &Tensor| tensor.detach().to_kind(Kind::Double).copy();
    let mut optimizer = AdamW::new(config, parameters);
    let mut expected: Vec<[Tensor; 3]> = optimizer
        .parameters()
        .iter()
        .map(|(_, tensor)| [wide(tensor), wide(tensor).zero_(), wide(tensor).zero_()])
        .collect();
    for step in 1..=4 {
        for ((_, tensor), [weights, first, second]) in
            optimizer.parameters().iter().zip(&mut expected)
        {
            let gradient = draw(tensor.numel() as i64);
            (tensor * &gradient).sum(Kind::Float).backward();
            let gradient = wide(&gradient);
            let average = &*first * ADAMW.beta_1 + &gradient * (1.0 - ADAMW.beta_1);
            *second = &*second * ADAMW.beta_2 + gradient.square() * (1.0 - ADAMW.beta_2);
            let corrected = &average / (1.0 - ADAMW.beta_1.powi(step));
            let root = (&*second / (1.0 - ADAMW.beta_2.powi(step))).sqrt();
            *weights = &*weights * (1.0 - LEARNING_RATE * ADAMW.weight_decay)
                - corrected / (root + ADAMW.epsilon) * LEARNING_RATE;
            *first = wide(&average.to_kind(Kind::BFloat16));
        }
        let _ = optimizer.step(LEARNING_RATE, 0.0).unwrap();
    }
    for ((name, tensor), [weights, ..]) in optimizer.parameters().iter().zip(&expected) {
        let difference = (wide(tensor) - weights).abs().max().double_value(&[]);
        // A sum that falls on the other side of a rounding boundary in f32 moves an update by a part in 256.
        assert!(difference < 2e-5, "{name} is off by {difference:e}");
    }
    let kinds: Vec<Kind> = optimizer
        .state()
        .iter()
        .map(|(_, tensor)| tensor.kind())
        .collect();
    assert_eq!(kinds, [Kind::BFloat16, Kind::Float].repeat(3));
}
