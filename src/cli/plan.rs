//! `preftune plan`: what an image run will take, before anything is loaded: weights, memory by part, work and time by
//! phase.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tch::{Device, Kind};

use super::device::resolve;
use super::plan_time::{self, Seconds};
use super::train_words::{PromptTexts, Words};
use crate::config::{self, AdapterKind, ImageConfig, NamedTargets, ObjectiveKind, Targets};
use crate::data::photo;
use crate::error::Result;
use crate::models::diffusion::pipeline::images_together;
use crate::models::diffusion::{PassShape, Trained, UNetConfig, UNetCost};
use crate::models::json;
use crate::models::lora::sites;
use crate::models::weights::Checkpoint;
use crate::trainer::image::base_forwards;

/// libtorch and the program itself, without a model: measured on Linux; a CUDA context is about as large on the GPU.
const PROGRAM: f64 = 250e6;

#[derive(Args)]
pub(super) struct PlanArgs {
    /// Configuration of an image run (TOML).
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

/// What a run does, in pieces that are counted.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Work {
    /// Photos of the subject.
    pub(super) photos: u64,
    /// Images sampled before training.
    pub(super) negatives: u64,
    /// Validations, the one of the untuned model included, where nothing stops the run early.
    pub(super) validations: u64,
    /// Images of one validation.
    pub(super) validation_images: u64,
    /// As the manifest of the run counts them.
    pub(super) unet_forwards_sampling: u64,
    /// Policy and reference.
    pub(super) unet_forwards_training: u64,
    /// Photos, negatives and validation images.
    pub(super) reward_image_encodes: u64,
    /// Photos and negatives.
    pub(super) vae_encodes: u64,
    /// That of the photos, those of negatives and validation, the empty one.
    pub(super) prompts: u64,
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
    /// What stays, and sampling, decoding and training, on a GPU the highest of them alone; their sum is the peak.
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
    let config = config::load(&args.config, &args.overrides)?;
    let (device, kind) = resolve(&config.run.device, config.run.precision)?;
    let model = Model::open(&config)?;
    let work = Work::new(&config)?;
    let cost = model.step_cost(&config);
    let memory = memory(&config, &model, &cost, &work, (device, kind));
    let seconds = if args.memory_only {
        None
    } else {
        Some(plan_time::measure(&config, &model, &work, device, kind)?)
    };
    let plan = Plan {
        device: format!("{device:?}"),
        precision: format!("{kind:?}"),
        parameters: cost.parameters(),
        trained: if config.adapter.kind == AdapterKind::Full {
            cost.parameters()
        } else {
            model.adapted
        },
        step_flops: step_flops(&config, &cost, work.base_share(&config)),
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
pub(super) fn step_flops(config: &ImageConfig, cost: &UNetCost, reference: f64) -> f64 {
    // A backward pass computes gradients of activations, as many operations again, and of trained weights.
    let full = config.adapter.kind == AdapterKind::Full;
    let backward = if full { 2.0 } else { 1.0 };
    let again = f64::from(u8::from(config.train.checkpoint_activations));
    cost.flops() * config.train.accumulation as f64 * (1.0 + reference + backward + again)
}

/// Samples in a training step's pass: photos, and as many generated images where the objective has them.
pub(super) fn samples_of_step(config: &ImageConfig) -> i64 {
    let sides = if needs_generated(config) { 2 } else { 1 };
    (config.train.batch * sides) as i64
}

fn needs_generated(config: &ImageConfig) -> bool {
    config.objective.kind == ObjectiveKind::Rpo || config.objective.prior_weight > 0.0
}

fn trained(config: &ImageConfig) -> Trained {
    match (&config.adapter.kind, &config.adapter.targets) {
        (AdapterKind::Full, _) => Trained::All,
        (AdapterKind::Lora, Targets::Named(NamedTargets::Attention)) => Trained::Attention,
        (AdapterKind::Lora, _) => Trained::AllLinear,
    }
}

impl Work {
    fn new(config: &ImageConfig) -> Result<Self> {
        let words = Words::new(&config.subject)?;
        let prompts = PromptTexts::new(config, &words)?;
        let photos = words.subject.photos.len() as u64;
        let (sampled, negatives) = match &config.negatives.folder {
            Some(folder) if !prompts.negatives.is_empty() => (0, photo::list(folder)?.len() as u64),
            _ => {
                let count = (prompts.negatives.len() * config.negatives.per_prompt) as u64;
                (count, count)
            }
        };
        let train = &config.train;
        let validations = match config.validation.every {
            0 => 0,
            every => 1 + train.steps.div_ceil(every),
        };
        let validation_images =
            (prompts.validation.len() * config.validation.images_per_prompt) as u64;
        let guided = if config.sampler.guidance > 1.0 { 2 } else { 1 };
        let sampled_images = sampled + validations * validation_images;
        let rpo = config.objective.kind == ObjectiveKind::Rpo;
        let labelled = if rpo { negatives } else { 0 };
        Ok(Self {
            photos,
            negatives: sampled,
            validations,
            validation_images,
            unet_forwards_sampling: sampled_images * config.sampler.steps as u64 * guided,
            unet_forwards_training: policy_forwards(config, train.steps)
                + if rpo {
                    base_forwards(config, [photos, negatives].map(|count| count as usize))
                } else {
                    0
                },
            reward_image_encodes: photos + labelled + validations * validation_images,
            vae_encodes: photos + negatives,
            prompts: (prompts.negatives.len() + prompts.validation.len()) as u64 + 2,
        })
    }
}

/// Passes of the policy, by image, in so many steps.
pub(super) fn policy_forwards(config: &ImageConfig, steps: u64) -> u64 {
    steps * config.train.accumulation as u64 * samples_of_step(config) as u64
}

impl Work {
    /// Passes of the base model for each of the policy's.
    pub(super) fn base_share(&self, config: &ImageConfig) -> f64 {
        let policy = policy_forwards(config, config.train.steps);
        self.unet_forwards_training as f64 / policy as f64 - 1.0
    }
}

impl Model {
    pub(super) fn open(config: &ImageConfig) -> Result<Self> {
        let base = &config.model.base;
        let unet = UNetConfig::open(&base.join("unet"))?;
        let vae = json::read_object(&base.join("vae/config.json"))?;
        let channels: Vec<i64> = vae
            .get("block_out_channels")
            .and_then(|list| serde_json::from_value(list.clone()).ok())
            .unwrap_or_else(|| vec![64]);
        let factor = 1 << (channels.len().max(1) - 1);
        let native = unet.sample_size.map_or(64, |size| size[0]) * factor;
        let side = config.train.resolution.map_or(native, i64::from);
        let text = json::read_object(&base.join("text_encoder/config.json"))?;
        let tokens = text
            .get("max_position_embeddings")
            .and_then(serde_json::Value::as_i64);
        let variant = config.model.variant.as_deref();
        let weights =
            Checkpoint::open_component(&base.join("unet"), "diffusion_pytorch_model", variant)?;
        let lora = super::model::lora_config(&config.adapter);
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
                elements(&Checkpoint::open_component(
                    &config.reward.encoder,
                    "model",
                    None,
                )?),
            ],
            adapted,
            unet,
        })
    }

    /// Of a training step's pass.
    pub(super) fn step_cost(&self, config: &ImageConfig) -> UNetCost {
        UNetCost::new(
            &self.unet,
            trained(config),
            self.shape(samples_of_step(config)),
        )
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
    config: &ImageConfig,
    model: &Model,
    cost: &UNetCost,
    work: &Work,
    (device, kind): (Device, Kind),
) -> Vec<Part> {
    let element = kind.elt_size_in_bytes() as f64;
    let full = config.adapter.kind == AdapterKind::Full;
    let rpo = config.objective.kind == ObjectiveKind::Rpo;
    let weights = cost.parameters() as f64;
    let trained_weights = if full { weights } else { model.adapted as f64 };
    let stored = if full { 4.0 } else { element };
    let cast = if full && kind != Kind::Float {
        element
    } else {
        0.0
    };
    let gradient = if full { 4.0 } else { 0.0 };
    let training =
        cost.training_bytes(element, gradient, cast, config.train.checkpoint_activations);
    // Sampling runs guided pairs, then decodes; the autoencoder computes in f32.
    let together = config
        .sampler
        .batch
        .min(images_together(model.side, model.side) as usize) as f64;
    let sampling = UNetCost::new(
        &model.unet,
        Trained::All,
        model.shape(2 * config.sampler.batch as i64),
    );
    let sampling = sampling.forward_elements() * element + cast * weights;
    let [fine, coarse] = model.vae_channels.map(|channels| channels as f64);
    let decoding = (3.0 * coarse + fine) * (model.side * model.side) as f64 * together * 4.0;
    let latents = (work.vae_encodes * 8 * (model.latent * model.latent) as u64) as f64 * 4.0;
    let [vae, texts, reward] = model.others.map(|count| count as f64);
    let part = |name, bytes| Part { name, bytes };
    let mut parts = vec![
        part("program and libtorch", PROGRAM),
        part("U-Net", weights * stored),
        part(
            "reference U-Net",
            if full && rpo && config.objective.noise_bank == 0 {
                weights * element
            } else {
                0.0
            },
        ),
        part("adapter", if full { 0.0 } else { trained_weights * 4.0 }),
        part("moments of AdamW", trained_weights * 8.0),
        part(
            "gradients of the adapter",
            if full { 0.0 } else { trained_weights * 4.0 },
        ),
        part("autoencoder", vae * 4.0),
        part("text encoders", texts * element),
        part("reward encoder", reward * 4.0),
        part("encoded images", latents),
    ];
    let phases = [
        ("activations and gradients of a training step", training),
        ("activations of sampling", sampling),
        ("activations of decoding samples", decoding),
    ];
    if device == Device::Cpu {
        // The heap keeps what one phase has freed, in blocks that seldom fit the next one's.
        parts.extend(phases.map(|(name, bytes)| part(name, bytes)));
    } else {
        let highest = phases
            .into_iter()
            .max_by(|one, other| one.1.total_cmp(&other.1));
        parts.extend(highest.map(|(name, bytes)| part(name, bytes)));
    }
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
        "work: {} images sampled before training, {} validations of {} images; U-Net passes: {} sampling, {} training",
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
