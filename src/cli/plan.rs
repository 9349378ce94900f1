//! `preftune plan`: what a run on images will take, before anything is loaded: weights, memory by part, work and time by
//! phase.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tch::{Device, Kind};

use super::device::resolve;
use super::plan_time::{self, Seconds};
use super::plan_work::{Job, Work};
use super::train_pairs_data;
use crate::config::{
    self, AdapterKind, AdapterSection, Config, FirstMoment, NamedTargets, Targets,
};
use crate::error::{Error, Result};
use crate::models::diffusion::pipeline::images_together;
use crate::models::diffusion::{PassShape, Trained, UNetConfig, UNetCost};
use crate::models::json;
use crate::models::lora::sites;
use crate::models::weights::Checkpoint;

/// libtorch and the program itself, without a model: measured on Linux; a CUDA context is about as large on the GPU.
const PROGRAM: f64 = 215e6;

#[derive(Args)]
pub(super) struct PlanArgs {
    /// Configuration of a run on a subject or on pairs of images (TOML).
    config: PathBuf,
    /// Override a key, as in `--set train.steps=200`; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Leave out the time, which is measured on random weights of the model's size and takes the memory of the run.
    #[arg(long)]
    memory_only: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A part of the memory.
#[derive(Clone, Debug, Serialize)]
struct Part {
    name: &'static str,
    bytes: f64,
}

#[derive(Serialize)]
struct Plan {
    device: String,
    precision: String,
    parameters: u64,
    trained: u64,
    /// Floating-point operations of a training step.
    step_flops: f64,
    work: Work,
    /// What stays, and the highest of sampling, decoding and training; their sum is the peak.
    memory: Vec<Part>,
    peak_bytes: f64,
    seconds: Option<Seconds>,
}

/// Sizes of the parts, from configurations and the headers of weight files.
pub(super) struct Model {
    pub(super) unet: UNetConfig,
    pub(super) side: i64,
    pub(super) latent: i64,
    pub(super) tokens: i64,
    /// Channels of the autoencoder at full and half size.
    vae_channels: [i64; 2],
    /// Parameters of autoencoder, text encoders and reward encoder.
    others: [u64; 3],
    adapted: u64,
}

pub(super) fn run(args: &PlanArgs) -> Result<()> {
    let config = config::load_any(&args.config, &args.overrides)?;
    let (run, job, work) = match &config {
        Config::Image(config) => {
            let job = Job::subject(config);
            let work = Work::subject(config, &job)?;
            (&config.run, job, work)
        }
        Config::Pairs(config) => {
            let inputs = train_pairs_data::read(config)?;
            let job = Job::pairs(config, &inputs);
            let work = Work::pairs(config, &inputs, &job)?;
            (&config.run, job, work)
        }
        _ => {
            return Err(Error::config(format!(
                "{}: not a run that trains a diffusion model on a subject or on pairs of images",
                args.config.display()
            ))
            .with_hint("`plan` knows those two kinds of run"));
        }
    };
    let (device, kind) = resolve(&run.device, run.precision)?;
    let model = Model::open(&job)?;
    let cost = model.step_cost(&job);
    let memory = memory(&job, &model, &cost, &work, (device, kind));
    let seconds = if args.memory_only {
        None
    } else {
        Some(plan_time::measure(&job, &model, &work, (device, kind))?)
    };
    let plan = Plan {
        device: format!("{device:?}"),
        precision: format!("{kind:?}"),
        parameters: cost.parameters(),
        trained: if job.adapter.kind == AdapterKind::Full {
            cost.parameters()
        } else {
            model.adapted
        },
        step_flops: step_flops(&job, &cost, work.base_share()),
        peak_bytes: memory.iter().map(|part| part.bytes).sum(),
        work,
        memory,
        seconds,
    };
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&plan).unwrap_or_default()
        );
    } else {
        show(&plan);
    }
    Ok(())
}

/// Floating-point operations of the U-Net in a training step; `reference` is the share of the policy's passes that the
/// base model makes too.
pub(super) fn step_flops(job: &Job, cost: &UNetCost, reference: f64) -> f64 {
    // A backward pass computes gradients of activations, as many operations again, and of trained weights.
    let full = job.adapter.kind == AdapterKind::Full;
    let backward = if full { 2.0 } else { 1.0 };
    let again = f64::from(u8::from(job.train.checkpoint_activations));
    cost.flops() * job.train.accumulation as f64 * (1.0 + reference + backward + again)
}

fn trained(adapter: &AdapterSection) -> Trained {
    match (&adapter.kind, &adapter.targets) {
        (AdapterKind::Full, _) => Trained::All,
        (AdapterKind::Lora, Targets::Named(NamedTargets::Attention)) => Trained::Attention,
        (AdapterKind::Lora, _) => Trained::AllLinear,
    }
}

impl Model {
    pub(super) fn open(job: &Job) -> Result<Self> {
        let base = &job.model.base;
        let unet = UNetConfig::open(&base.join("unet"))?;
        let vae = json::read_object(&base.join("vae/config.json"))?;
        let channels: Vec<i64> = vae
            .get("block_out_channels")
            .and_then(|list| serde_json::from_value(list.clone()).ok())
            .unwrap_or_else(|| vec![64]);
        let factor = 1 << (channels.len().max(1) - 1);
        let native = unet.sample_size.map_or(64, |size| size[0]) * factor;
        let side = job.train.resolution.map_or(native, i64::from);
        let text = json::read_object(&base.join("text_encoder/config.json"))?;
        let tokens = text
            .get("max_position_embeddings")
            .and_then(serde_json::Value::as_i64);
        let variant = job.model.variant.as_deref();
        let weights =
            Checkpoint::open_component(&base.join("unet"), "diffusion_pytorch_model", variant)?;
        let lora = super::model::lora_config(job.adapter);
        let places = sites::of_checkpoint(&weights);
        let adapted = lora.targets.choose(&places)?.into_iter().map(|name| {
            let site = &places[&name];
            let count = |shape: Vec<i64>| shape.iter().product::<i64>() as u64;
            count(site.down_shape(lora.rank)) + count(site.up_shape(lora.rank))
        });
        let adapted = adapted.sum();
        let mut texts = 0;
        for part in ["text_encoder", "text_encoder_2"] {
            if base.join(part).is_dir() {
                texts += elements(&Checkpoint::open_component(
                    &base.join(part),
                    "model",
                    variant,
                )?);
            }
        }
        Ok(Self {
            latent: side / factor,
            side,
            tokens: tokens.unwrap_or(77),
            vae_channels: [channels[0], channels.get(1).copied().unwrap_or(channels[0])],
            others: [
                elements(&Checkpoint::open_component(
                    &base.join("vae"),
                    "diffusion_pytorch_model",
                    variant,
                )?),
                texts,
                match job.reward {
                    Some(encoder) => elements(&Checkpoint::open_component(encoder, "model", None)?),
                    None => 0,
                },
            ],
            adapted,
            unet,
        })
    }

    /// Of a training step's pass.
    pub(super) fn step_cost(&self, job: &Job) -> UNetCost {
        UNetCost::new(&self.unet, trained(job.adapter), self.shape(job.samples))
    }

    fn shape(&self, samples: i64) -> PassShape {
        PassShape {
            samples,
            latent: [self.latent; 2],
            tokens: self.tokens,
        }
    }
}

/// Numbers in a checkpoint, from its headers.
fn elements(checkpoint: &Checkpoint) -> u64 {
    let size = |name: &str| {
        checkpoint
            .shape(name)
            .map_or(0, |shape| shape.iter().product::<i64>() as u64)
    };
    checkpoint.names().map(size).sum()
}

fn memory(
    job: &Job,
    model: &Model,
    cost: &UNetCost,
    work: &Work,
    (device, kind): (Device, Kind),
) -> Vec<Part> {
    let element = kind.elt_size_in_bytes() as f64;
    let full = job.adapter.kind == AdapterKind::Full;
    let weights = cost.parameters() as f64;
    let trained_weights = if full { weights } else { model.adapted as f64 };
    let stored = if full { 4.0 } else { element };
    let cast = if full && kind != Kind::Float {
        element
    } else {
        0.0
    };
    let gradient = if full { 4.0 } else { 0.0 };
    let training = cost.training_bytes(element, gradient, cast, job.train.checkpoint_activations);
    // Sampling runs guided pairs, then decodes; the autoencoder computes in f32.
    let together = job
        .sampler
        .batch
        .min(images_together(model.side, model.side) as usize) as f64;
    let sampling = UNetCost::new(
        &model.unet,
        Trained::All,
        model.shape(2 * job.sampler.batch as i64),
    );
    let sampling = match work.unet_forwards_sampling {
        0 => 0.0,
        _ => sampling.forward_elements() * element + cast * weights,
    };
    let [fine, coarse] = model.vae_channels.map(|channels| channels as f64);
    let decoding = (3.0 * coarse + fine) * (model.side * model.side) as f64 * together * 4.0;
    let latents = (work.vae_encodes * 8 * (model.latent * model.latent) as u64) as f64 * 4.0;
    let states = (model.tokens * model.unet.cross_attention_dim[0]) as f64 * element;
    let encoded = latents + work.prompts as f64 * states;
    let [vae, texts, reward] = model.others.map(|count| count as f64);
    let moments = match job.train.first_moment {
        FirstMoment::Fp32 => 8.0,
        FirstMoment::Bf16 => 6.0,
    };
    let part = |name, bytes| Part { name, bytes };
    let mut parts = vec![
        part("program and libtorch", PROGRAM),
        part("U-Net", weights * stored),
        part(
            "reference U-Net",
            if full && job.frozen_copy {
                weights * element
            } else {
                0.0
            },
        ),
        part("adapter", if full { 0.0 } else { trained_weights * 4.0 }),
        part("moments of AdamW", trained_weights * moments),
        part(
            "gradients of the adapter",
            if full { 0.0 } else { trained_weights * 4.0 },
        ),
        part("autoencoder", vae * 4.0),
        part("text encoders", texts * element),
        part("reward encoder", reward * 4.0),
        part(
            "encoded images and prompts",
            if job.encoded_on_host && device != Device::Cpu {
                0.0
            } else {
                encoded
            },
        ),
    ];
    let phases = [
        ("activations and gradients of a training step", training),
        ("activations of sampling", sampling),
        ("activations of encoding or decoding images", decoding),
    ];
    // What one phase has freed, the next one uses.
    let highest = phases
        .into_iter()
        .max_by(|one, other| one.1.total_cmp(&other.1));
    parts.extend(highest.map(|(name, bytes)| part(name, bytes)));
    parts.retain(|part| part.bytes > 0.0);
    parts
}

fn show(plan: &Plan) {
    println!("device {}, {}", plan.device, plan.precision);
    let share = 100.0 * plan.trained as f64 / plan.parameters as f64;
    println!(
        "U-Net: {:.1} M weights, {:.2} M trained ({share:.2} %); {:.2} TFLOP a step",
        plan.parameters as f64 / 1e6,
        plan.trained as f64 / 1e6,
        plan.step_flops / 1e12
    );
    let work = &plan.work;
    println!(
        "work: {} images encoded, {} sampled before training, {} validations of {} images; U-Net passes: {} sampling, {} training",
        work.vae_encodes,
        work.negatives,
        work.validations,
        work.validation_images,
        work.unet_forwards_sampling,
        work.unet_forwards_training
    );
    println!("\n{:<46} {:>9}", "memory", "GB");
    for part in &plan.memory {
        println!("{:<46} {:>9.3}", part.name, part.bytes / 1e9);
    }
    println!("{:<46} {:>9.3}", "peak", plan.peak_bytes / 1e9);
    if let Some(seconds) = &plan.seconds {
        println!("\n{:<46} {:>9}", "time, without early stopping", "s");
        for (name, value) in seconds.rows() {
            println!("{name:<46} {value:>9.1}");
        }
    }
}
