//! The needs of a run on images: of one subject, or of pairs of images.

use tch::{Device, Kind};

use super::image_model::{ImageModel, step_flops};
use super::image_run::{ImageRun, Work, passes_of_step};
use super::image_time::{self, Seconds};
use super::parts::{MemoryPart, Plan, Tuned, highest, memory_part};
use crate::config::AdapterKind;
use crate::error::Result;
use crate::models::diffusion::pipeline::images_together;
use crate::models::diffusion::{Trained, UNetCost};

/// The needs of a run, its time too where it is `timed`.
pub(crate) fn plan(
    run: &ImageRun,
    work: Work,
    (device, kind): (Device, Kind),
    timed: bool,
) -> Result<Plan<Work, Seconds>> {
    let model = ImageModel::open(run)?;
    let cost = model.step_cost(run);
    let seconds = if timed {
        Some(image_time::measure(run, &model, &work, (device, kind))?)
    } else {
        None
    };
    Ok(Plan {
        device: format!("{device:?}"),
        precision: format!("{kind:?}"),
        parameters: cost.parameters(),
        trained: if run.adapter.kind == AdapterKind::Full {
            cost.parameters()
        } else {
            model.adapted
        },
        step_flops: step_flops(run, &cost, work.base_share()),
        memory: memory(run, &model, &cost, &work, (device, kind)),
        work,
        seconds,
    })
}

fn memory(
    run: &ImageRun,
    model: &ImageModel,
    cost: &UNetCost,
    work: &Work,
    (device, kind): (Device, Kind),
) -> Vec<MemoryPart> {
    let element = kind.elt_size_in_bytes() as f64;
    let full = run.adapter.kind == AdapterKind::Full;
    let weights = cost.parameters() as f64;
    let cast = if full && kind != Kind::Float {
        element
    } else {
        0.0
    };
    let gradient = if full { 4.0 } else { 0.0 };
    let training = cost.training_bytes(element, gradient, cast, run.train.checkpoint_activations);
    // Sampling runs the U-Net, then decodes; the autoencoder computes in f32.
    let together = run
        .sampler
        .batch
        .min(images_together(model.side, model.side) as usize) as f64;
    let sampling = UNetCost::new(
        &model.unet,
        Trained::All,
        model.shape(passes_of_step(run.sampler) as i64 * run.sampler.batch as i64),
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
        adapter: run.adapter.kind,
        frozen_copy: full && run.frozen_copy,
        train: run.train,
        element,
    };
    let mut parts = tuned.parts();
    parts.extend([
        memory_part("autoencoder", vae * 4.0),
        memory_part("text encoders", texts * element),
        memory_part("reward encoder", reward * 4.0),
        memory_part(
            "encoded images and prompts",
            if run.encoded_on_host && device != Device::Cpu {
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
