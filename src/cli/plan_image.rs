//! What a run on images will take: of one subject, or of pairs of images.

use tch::{Device, Kind};

use super::plan::{Part, Plan, Tuned, highest, part};
use super::plan_image_time::{self, Seconds};
use super::plan_image_work::{Job, Work, passes_of_step};
use crate::config::{AdapterKind, AdapterSection, NamedTargets, Targets};
use crate::error::Result;
use crate::models::diffusion::pipeline::images_together;
use crate::models::diffusion::{PassShape, Trained, UNetConfig, UNetCost};
use crate::models::json;
use crate::models::lora::sites;
use crate::models::weights::Checkpoint;

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

/// Of a run whose `job` is known, its time too where it is `timed`.
pub(super) fn plan(
    job: &Job,
    work: Work,
    (device, kind): (Device, Kind),
    timed: bool,
) -> Result<Plan<Work, Seconds>> {
    let model = Model::open(job)?;
    let cost = model.step_cost(job);
    let seconds = if timed {
        Some(plan_image_time::measure(
            job,
            &model,
            &work,
            (device, kind),
        )?)
    } else {
        None
    };
    Ok(Plan {
        device: format!("{device:?}"),
        precision: format!("{kind:?}"),
        parameters: cost.parameters(),
        trained: if job.adapter.kind == AdapterKind::Full {
            cost.parameters()
        } else {
            model.adapted
        },
        step_flops: step_flops(job, &cost, work.base_share()),
        memory: memory(job, &model, &cost, &work, (device, kind)),
        work,
        seconds,
    })
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
        let chosen = lora.targets.choose(&places)?;
        let adapted = chosen
            .iter()
            .map(|name| places[name].adapter_size(lora.rank))
            .sum();
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
    let cast = if full && kind != Kind::Float {
        element
    } else {
        0.0
    };
    let gradient = if full { 4.0 } else { 0.0 };
    let training = cost.training_bytes(element, gradient, cast, job.train.checkpoint_activations);
    // Sampling runs the U-Net, then decodes; the autoencoder computes in f32.
    let together = job
        .sampler
        .batch
        .min(images_together(model.side, model.side) as usize) as f64;
    let sampling = UNetCost::new(
        &model.unet,
        Trained::All,
        model.shape(passes_of_step(job.sampler) as i64 * job.sampler.batch as i64),
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
    let tuned = Tuned {
        names: ["U-Net", "reference U-Net"],
        weights,
        adapted: model.adapted as f64,
        adapter: job.adapter.kind,
        frozen_copy: full && job.frozen_copy,
        train: job.train,
        element,
    };
    let mut parts = tuned.parts();
    parts.extend([
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
    ]);
    let phases = [
        ("activations and gradients of a training step", training),
        ("activations of sampling", sampling),
        ("activations of encoding or decoding images", decoding),
    ];
    parts.extend(highest(phases));
    parts
}
