//! What training steps, samples and rankings are made of, one at a time, on a CPU: `cargo bench --bench core [NAME]`.
//!
//! `benches/versus_python/image.py` reads `adamw` from here. Set `OMP_NUM_THREADS` for libtorch's threads.
#![expect(missing_docs, reason = "criterion's macros write functions")]

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use preftune::config::FirstMoment;
use preftune::losses::dpo::dpo;
use preftune::losses::pair::PairLogps;
use preftune::losses::rpo::{PairErrors, rpo};
use preftune::models::diffusion::{Conditioning, UNet};
use preftune::ops::logprobs::TwoPass;
use preftune::ranking::bradley_terry::fit;
use preftune::ranking::{Counts, Pair, Prior, Ties};
use preftune::trainer::optimizer::{AdamW, AdamWConfig};
use tch::{Device, Kind, Tensor, no_grad};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

fn random(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, CPU)
}

/// The embedded world's U-Net: 5.6 million weights.
fn unet() -> UNet {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/emoji-world/unet");
    UNet::open(&folder, None, Device::Cpu, Kind::Float).expect("the embedded model")
}

/// Four RPO pairs, or as many samples with and without the prompt: latents, timesteps and text.
fn batch(unet: &UNet) -> (Tensor, Tensor, Conditioning) {
    let timesteps = Tensor::full([8], 500, (Kind::Int64, Device::Cpu));
    let text = random(&[8, 16, unet.config().cross_attention_dim[0]]);
    (random(&[8, 4, 16, 16]), timesteps, Conditioning::new(text))
}

fn network(criterion: &mut Criterion) {
    let unet = unet();
    let (latents, timesteps, text) = batch(&unet);
    let mut group = criterion.benchmark_group("unet");
    group.throughput(Throughput::Elements(8));
    group.bench_function("forward", |bencher| {
        bencher.iter(|| no_grad(|| unet.forward(&latents, &timesteps, &text, None)));
    });
    // A denoising step of four guided images: keys and values of the text are there.
    let cache = unet.context_cache(&text, Kind::Float);
    group.bench_function("sampling step", |bencher| {
        bencher.iter(|| unet.forward_cached(&latents, &timesteps, &text, &cache));
    });
    for (_, tensor) in unet.parameters() {
        let _ = tensor.set_requires_grad(true);
    }
    group.bench_function("forward and backward", |bencher| {
        bencher.iter(|| {
            unet.forward(&latents, &timesteps, &text, None)
                .square()
                .mean(Kind::Float)
                .backward();
        });
    });
    group.finish();
}

fn adamw(criterion: &mut Criterion) {
    let parameters: Vec<(String, Tensor)> = unet()
        .parameters()
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.set_requires_grad(true)))
        .collect();
    let config = AdamWConfig {
        beta_1: 0.9,
        beta_2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        ema: 0.0,
        first_moment: FirstMoment::Fp32,
    };
    let mut optimizer = AdamW::new(config, parameters);
    let tensors = optimizer.parameters();
    // The gradient of sum(w * g) is g.
    let gradients: Vec<Tensor> = tensors
        .iter()
        .map(|(_, tensor)| tensor.randn_like())
        .collect();
    let set = || {
        for ((_, tensor), gradient) in tensors.iter().zip(&gradients) {
            (tensor * gradient).sum(Kind::Float).backward();
        }
    };
    criterion.bench_function("adamw", |bencher| {
        bencher.iter_batched(
            set,
            |()| optimizer.step(1e-4, 1.0).expect("an update"),
            BatchSize::PerIteration,
        );
    });
}

fn losses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("losses");
    group.throughput(Throughput::Elements(4096));
    let column = || random(&[4096]);
    let trained = || column().set_requires_grad(true);
    let pair = PairLogps {
        policy_chosen: trained(),
        policy_rejected: trained(),
        reference_chosen: column(),
        reference_rejected: column(),
    };
    group.bench_function("dpo", |bencher| {
        bencher.iter(|| dpo(&pair, 0.1).mean(Kind::Float).backward());
    });
    let errors = PairErrors {
        policy_reference: trained(),
        policy_generated: trained(),
        base_reference: column(),
        base_generated: column(),
    };
    let label = column().sigmoid();
    group.bench_function("rpo", |bencher| {
        bencher.iter(|| {
            rpo(&errors, &label, 1.0, 1.0)
                .loss
                .mean(Kind::Float)
                .backward();
        });
    });
    group.finish();
}

/// 256 positions of a model of width 576 with 49,152 tokens (SmolLM2-135M's head), both passes.
fn logprobs(criterion: &mut Criterion) {
    let head = (random(&[49_152, 576]) * 0.02).set_requires_grad(true);
    let states = random(&[256, 576]).set_requires_grad(true);
    let targets = Tensor::randint(49_152, [256], (Kind::Int64, Device::Cpu));
    let none: Option<&Tensor> = None;
    let project = |states: &Tensor| states.linear(&head, none);
    let mut group = criterion.benchmark_group("logprobs");
    group.sample_size(10);
    group.throughput(Throughput::Elements(256));
    group.bench_function("two passes", |bencher| {
        bencher.iter(|| {
            let pass = TwoPass::new(&states, &targets, &project, None, 128);
            pass.logps.sum(Kind::Float).backward();
            pass.backward();
        });
    });
    group.finish();
}

/// 1,000 items, each pair of 20,000 met once or more.
fn ranking(criterion: &mut Criterion) {
    let pairs = (0..20_000u32)
        .map(|at| {
            let (i, step) = (at % 1000, 1 + (at / 1000) * 7);
            let (wins, losses) = (f64::from(1 + at % 5), f64::from(1 + at % 3));
            Pair::with(i, (i + step) % 1000, wins, losses, 0.0)
        })
        .collect();
    let counts = Counts::new(1000, pairs).expect("counts");
    criterion.bench_function("bradley-terry fit", |bencher| {
        bencher.iter(|| fit(black_box(&counts), Ties::Half, Prior::None, None).expect("a fit"));
    });
}

criterion_group!(benches, network, adamw, losses, logprobs, ranking);
criterion_main!(benches);
