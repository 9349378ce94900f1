//! The autoencoder against diffusers, under old and new tensor names.

use std::collections::BTreeMap;
use std::path::Path;

use preftune::error::Result;
use preftune::models::diffusion::{Vae, from_bytes, to_bytes};
use preftune::models::weights::{self, Checkpoint};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::support::{assert_close, golden, golden_tensors, shared};

fn open(folder: &Path) -> Result<Vae> {
    Vae::open(folder, None, Device::Cpu)
}

fn check(what: &str, vae: &Vae) {
    let tensors = golden_tensors("diffusion/vae.safetensors");
    let get = |name: &str| tensors.tensor(name).unwrap();
    let posterior = vae.encode(&get("images"));
    assert_close(&format!("{what} mean"), &posterior.mean, &get("mean"), 2e-5);
    assert_close(&format!("{what} std"), &posterior.std, &get("std"), 2e-5);
    assert_close(
        &format!("{what} decoded"),
        &vae.decode(&get("latents")),
        &get("decoded"),
        2e-5,
    );
    let noise = get("latents");
    let expected = get("mean") + get("std") * &noise;
    assert_close(
        &format!("{what} sample"),
        &posterior.sample(&noise),
        &expected,
        2e-5,
    );
    assert_eq!(posterior.mode(), posterior.mean);
}

#[test]
fn vae_encodes_and_decodes_as_diffusers_under_old_and_new_names() {
    for (family, scaling) in [("sd1", 0.18215), ("sd2", 0.18215), ("sdxl", 0.13025)] {
        let vae = open(&golden("diffusion").join(family).join("vae")).unwrap();
        check(family, &vae);
        assert!((vae.scaling_factor() - scaling).abs() < 1e-12);
        assert_eq!((vae.latent_channels(), vae.factor()), (4, 2));
        let latents = Tensor::ones([1, 4, 2, 2], (Kind::Float, Device::Cpu));
        assert_close("scale", &vae.unscale(&vae.scale(&latents)), &latents, 1e-6);
        assert_close("scale", &vae.scale(&latents), &(&latents * scaling), 1e-6);
    }
}

#[test]
fn vae_large_batches_go_through_in_slices_with_the_same_result() {
    let vae = open(&golden("diffusion/sd1/vae")).unwrap();
    let tensors = golden_tensors("diffusion/vae.safetensors");
    let (latents, images) = (
        tensors.tensor("latents").unwrap(),
        tensors.tensor("images").unwrap(),
    );
    // 96 positions each: 170 rows at once.
    let decoded = vae.decode(&latents.repeat([60, 1, 1, 1]));
    assert_close(
        "last",
        &decoded.narrow(0, 177, 3),
        &vae.decode(&latents),
        1e-6,
    );
    let mean = vae.encode(&images.repeat([60, 1, 1, 1])).mean;
    assert_eq!(mean.size(), [180, 4, 8, 12]);
    assert_close(
        "last",
        &mean.narrow(0, 177, 3),
        &vae.encode(&images).mean,
        1e-6,
    );
}

/// A copy of the golden folder with changed tensors and configuration.
fn changed(
    tensors: impl Fn(&str, Tensor) -> Option<Tensor>,
    config: impl Fn(&mut Value),
) -> tempfile::TempDir {
    let from = golden("diffusion/sd1/vae");
    let folder = tempfile::tempdir().unwrap();
    let file = "diffusion_pytorch_model.safetensors";
    let checkpoint = Checkpoint::open_file(&from.join(file)).unwrap();
    let changed: Vec<(String, Tensor)> = checkpoint
        .names()
        .filter_map(|name| {
            Some((
                name.to_owned(),
                tensors(name, checkpoint.tensor(name).unwrap())?,
            ))
        })
        .collect();
    weights::save(&folder.path().join(file), &changed, &BTreeMap::new()).unwrap();
    let mut value =
        serde_json::from_str(&std::fs::read_to_string(from.join("config.json")).unwrap()).unwrap();
    config(&mut value);
    std::fs::write(folder.path().join("config.json"), value.to_string()).unwrap();
    folder
}

#[test]
fn vae_attention_may_be_stored_as_convolutions() {
    let folder = changed(
        |name, tensor| {
            let convolution = name.contains("mid_block.attentions") && tensor.dim() == 2;
            Some(if convolution {
                tensor.unsqueeze(-1).unsqueeze(-1)
            } else {
                tensor
            })
        },
        |_| {},
    );
    check("convolutions", &open(folder.path()).unwrap());
}

#[test]
fn vae_that_does_not_fit_is_refused_by_name() {
    let message = |folder: tempfile::TempDir| open(folder.path()).err().unwrap().to_string();
    for (key, value) in [
        ("use_quant_conv", json!(false)),
        ("use_post_quant_conv", json!(false)),
        ("mid_block_add_attention", json!(false)),
        ("latents_mean", json!([0.1, 0.2, 0.3, 0.4])),
        ("shift_factor", json!(0.1159)),
        ("act_fn", json!("relu")),
        (
            "down_block_types",
            json!(["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]),
        ),
        ("norm_num_groups", json!(3)),
        ("norm_num_groups", json!(0)),
    ] {
        let message = message(changed(
            |_, tensor| Some(tensor),
            |config| config[key] = value.clone(),
        ));
        assert!(message.contains(&format!("`{key}`")), "{message}");
    }
    let missing = |name: &str, tensor| (name != "decoder.conv_in.bias").then_some(tensor);
    let message_of_missing = message(changed(missing, |_| {}));
    assert!(
        message_of_missing.contains("decoder.conv_in.bias")
            && message_of_missing.contains("missing")
    );
    let message_of_shape = message(changed(
        |_, t| Some(t),
        |config| config["block_out_channels"] = json!([4, 6]),
    ));
    assert!(message_of_shape.contains("has shape"), "{message_of_shape}");
    let message_of_unused = message(changed(
        |_, t| Some(t),
        |config| config["block_out_channels"] = json!([4]),
    ));
    assert!(message_of_unused.contains("has shape") || message_of_unused.contains("no place"));
}

#[test]
fn vae_bytes_round_trip() {
    let bytes = Tensor::arange(256, (Kind::Int64, Device::Cpu)).to_kind(Kind::Uint8);
    let images = from_bytes(&bytes);
    assert!(
        (images.double_value(&[0]) + 1.0).abs() < 1e-6
            && (images.double_value(&[255]) - 1.0).abs() < 1e-6
    );
    assert_eq!(to_bytes(&images), bytes);
    assert_eq!(
        to_bytes(&Tensor::from_slice(&[-3f32, 3.0])),
        Tensor::from_slice(&[0u8, 255])
    );
}

#[test]
fn vae_of_the_small_world_reproduces_a_photo() {
    let Some(folder) = shared("emoji-world-poc") else {
        return;
    };
    let vae = open(&folder.join("vae")).unwrap();
    let photo = tch::vision::image::load(folder.join("subjects/dog/00.png")).unwrap();
    let images = from_bytes(&photo).unsqueeze(0);
    let error = (vae.decode(&vae.encode(&images).mode()) - &images)
        .abs()
        .mean(Kind::Float);
    // What diffusers gives for the same photo.
    assert!((error.double_value(&[]) - 0.0766).abs() < 1e-4);
}
