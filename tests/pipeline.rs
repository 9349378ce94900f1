//! Whole pipelines, from prompts to images, against diffusers: `tests/golden/diffusion.py`.

use preftune::models::device;
use preftune::models::diffusion::SamplerKind;
use preftune::models::diffusion::pipeline::{Kinds, Pipeline, Request, SampleSettings};
use tch::{Device, Kind, Tensor};

use crate::support::{assert_close, golden, golden_tensors};

const SAMPLERS: [(&str, SamplerKind); 3] = [
    ("ddim", SamplerKind::Ddim),
    ("dpm", SamplerKind::DpmSolverPp),
    ("euler", SamplerKind::Euler),
];

fn open(family: &str, device: Device, kind: Kind) -> Pipeline {
    let kinds = Kinds {
        compute: kind,
        unet: kind,
    };
    Pipeline::open(&golden("diffusion").join(family), None, None, device, kinds).unwrap()
}

fn settings(sampler: SamplerKind, guidance: f64) -> SampleSettings {
    SampleSettings {
        sampler,
        steps: 20,
        guidance,
        width: 24,
        height: 16,
        batch: 2,
    }
}

/// Images of the golden prompts, from the golden latents.
fn images_are_those_of_diffusers(device: Device) {
    for family in ["sd1", "sd2", "sdxl"] {
        let pipeline = open(family, device, Kind::Float);
        let tensors = golden_tensors(&format!("diffusion/{family}_pipeline.safetensors"));
        let told = |key: &str| tensors.metadata()[key].clone();
        let prompts: Vec<String> = serde_json::from_str(&told("prompts")).unwrap();
        let text = pipeline.encode_prompts(&prompts, 24, 16).unwrap();
        let negative = pipeline
            .encode_negative(&[told("negative")], 24, 16)
            .unwrap();
        let noise = tensors.tensor("latents").unwrap().to_device(device);
        for (name, sampler) in SAMPLERS {
            let settings = settings(sampler, told("guidance").parse().unwrap());
            let mut go_on = |_| Ok(());
            let images = pipeline
                .sample_from(&noise, &text, &negative, &settings, &mut go_on)
                .unwrap();
            let images = (images / 2.0 + 0.5).clamp(0.0, 1.0);
            let expected = tensors.tensor(&format!("{name}.images")).unwrap();
            assert_close(&format!("{family} {name}"), &images, &expected, 1e-4);
        }
    }
}

#[test]
fn prompts_become_the_images_of_diffusers() {
    images_are_those_of_diffusers(Device::Cpu);
}

#[test]
#[ignore = "needs an NVIDIA GPU: make gpu-check"]
fn gpu_prompts_become_the_images_of_diffusers() {
    images_are_those_of_diffusers(device::parse("cuda").unwrap());
}

#[test]
fn an_image_is_the_same_whatever_is_sampled_beside_it() {
    let pipeline = open("sd1", Device::Cpu, Kind::Float);
    let prompts = ["a dog".to_owned(), "a red cat".to_owned()];
    let text = pipeline.encode_prompts(&prompts, 24, 16).unwrap();
    let negative = pipeline.encode_negative(&[String::new()], 24, 16).unwrap();
    let requests: Vec<Request> = (0..5)
        .map(|index| Request {
            row: index % 2,
            seed: 7 + index as u64,
        })
        .collect();
    let sample = |batch: usize| {
        let settings = SampleSettings {
            batch,
            ..settings(SamplerKind::DpmSolverPp, 7.5)
        };
        let mut images = Vec::new();
        let take = |index: usize, image: Tensor| {
            assert_eq!(index, images.len());
            images.push(image);
            Ok(())
        };
        pipeline
            .sample(
                &text,
                &negative,
                &requests,
                &settings,
                &mut |_, _| Ok(()),
                take,
            )
            .unwrap();
        Tensor::stack(&images, 0)
    };
    let alone = sample(1);
    assert_close("batch of 5", &sample(5), &alone, 1e-4);
    assert_close("batch of 2", &sample(2), &alone, 1e-4);
}
