//! The U-Net against diffusers: outputs, gradients, checkpointing, cached text, refusals.

use std::path::{Path, PathBuf};

use preftune::error::Result;
use preftune::models::diffusion::{AddedConditioning, Conditioning, UNet};
use preftune::models::layers::Lora;
use preftune::models::weights::{self, Checkpoint};
use preftune::ops::random;
use preftune::ops::tape::Tape;
use serde_json::{Value, json};
use tch::{Device, Kind, Reduction, Tensor};

use crate::support::{assert_close, golden, golden_tensors, shared};

const FAMILIES: [&str; 3] = ["sd1", "sd2", "sdxl"];

fn open(family: &str) -> UNet {
    open_as(family, Kind::Float)
}

fn open_as(family: &str, kind: Kind) -> UNet {
    let folder = golden("diffusion").join(family).join("unet");
    UNet::open(&folder, None, Device::Cpu, kind).unwrap()
}

/// Sample, timesteps and conditioning of one golden case.
fn case(tensors: &Checkpoint, name: &str) -> (Tensor, Tensor, Conditioning) {
    let get = |part: &str| tensors.tensor(&format!("{name}.{part}")).unwrap();
    let added = tensors
        .contains(&format!("{name}.time_ids"))
        .then(|| AddedConditioning {
            text_embeds: get("text_embeds"),
            time_ids: get("time_ids"),
        });
    let conditioning = Conditioning {
        context: get("context"),
        added,
    };
    (get("sample"), get("timesteps"), conditioning)
}

#[test]
fn unet_output_is_that_of_diffusers() {
    for family in FAMILIES {
        let unet = open(family);
        let tensors = golden_tensors(&format!("diffusion/{family}_unet.safetensors"));
        for name in ["even", "odd", "wide"] {
            let (sample, timesteps, conditioning) = case(&tensors, name);
            unet.check_conditioning(Path::new(family), &conditioning)
                .unwrap();
            let output = unet.forward(&sample, &timesteps, &conditioning, None);
            let expected = tensors.tensor(&format!("{name}.output")).unwrap();
            assert_close(&format!("{family} {name}"), &output, &expected, 2e-5);
        }
    }
}

fn mse(unet: &UNet, tensors: &Checkpoint, checkpointing: bool) -> f64 {
    let (sample, timesteps, conditioning) = case(tensors, "even");
    let target = tensors.tensor("even.target").unwrap();
    let tape = checkpointing.then(Tape::new);
    let sample = sample.to_kind(unet.parameters()[0].1.kind());
    let output = unet.forward(&sample, &timesteps, &conditioning, tape.as_ref());
    let loss = output.mse_loss(&target.to_kind(output.kind()), Reduction::Mean);
    loss.backward();
    if let Some(tape) = tape {
        tape.backward();
    }
    loss.double_value(&[])
}

#[test]
fn unet_gradient_of_every_tensor_is_that_of_diffusers_with_and_without_checkpointing() {
    for family in FAMILIES {
        let tensors = golden_tensors(&format!("diffusion/{family}_unet.safetensors"));
        let expected: Vec<(&str, Tensor)> = tensors
            .names()
            .filter_map(|name| Some((name.strip_prefix("grad.")?, tensors.tensor(name).unwrap())))
            .collect();
        let largest = |tensor: &Tensor| tensor.abs().max().double_value(&[]);
        let overall = expected
            .iter()
            .map(|(_, grad)| largest(grad))
            .fold(0.0, f64::max);
        for checkpointing in [false, true] {
            // In f64, as the gradients were computed: some are sums that cancel to 1e-5 of their terms.
            let unet = open_as(family, Kind::Double);
            for (_, tensor) in unet.parameters() {
                let _ = tensor.set_requires_grad(true);
            }
            let loss = mse(&unet, &tensors, checkpointing);
            let expected_loss = tensors.tensor("even.loss").unwrap().double_value(&[]);
            assert!(
                (loss - expected_loss).abs() < 1e-5 * expected_loss,
                "{loss} {expected_loss}"
            );
            assert_eq!(unet.parameters().len(), expected.len());
            let mut worst: f64 = 0.0;
            for (name, expected) in &expected {
                let (_, parameter) = unet.parameters().iter().find(|(n, _)| n == name).unwrap();
                let difference = largest(&(parameter.grad() - expected));
                // A gradient that is rounding noise (a bias before a norm) is measured against the largest.
                let scale = largest(expected).max(1e-3 * overall);
                assert!(
                    difference <= 1e-5 * scale,
                    "{family} {name}: off by {:e}",
                    difference / scale
                );
                worst = worst.max(difference / scale);
            }
            println!("{family}, checkpointing {checkpointing}: gradients within {worst:.1e}");
        }
    }
}

/// Attaches a random LoRA of rank 2 to every attention projection and returns its tensors.
fn attach_lora(unet: &UNet) -> Vec<Tensor> {
    let targets = ["to_q", "to_k", "to_v", "to_out.0", "proj_in"];
    let mut trainable = Vec::new();
    for (index, (name, layer)) in unet.adapters().iter().enumerate() {
        if !targets.iter().any(|target| name.ends_with(target)) {
            continue;
        }
        let tail: &[i64] = if layer.kernel.is_some() { &[1, 1] } else { &[] };
        let make = |which: i64, shape: [i64; 2]| {
            let shape = [&shape, tail].concat();
            let noise = random::randn(2 * index as i64 + which, &shape, Device::Cpu) * 0.1;
            noise.set_requires_grad(true)
        };
        let (down, up) = (make(0, [2, layer.input]), make(1, [layer.output, 2]));
        trainable.extend([down.shallow_clone(), up.shallow_clone()]);
        *layer.lora.borrow_mut() = Some(Lora {
            down,
            up,
            scale: 0.5,
        });
    }
    trainable
}

#[test]
fn unet_checkpointing_gives_a_lora_on_a_frozen_base_the_same_gradients() {
    for family in FAMILIES {
        let tensors = golden_tensors(&format!("diffusion/{family}_unet.safetensors"));
        let gradients = [false, true].map(|checkpointing| {
            let unet = open(family);
            let trainable = attach_lora(&unet);
            assert!(!trainable.is_empty());
            mse(&unet, &tensors, checkpointing);
            assert!(
                unet.parameters()
                    .iter()
                    .all(|(_, tensor)| !tensor.grad().defined())
            );
            trainable.iter().map(Tensor::grad).collect::<Vec<_>>()
        });
        let joined = gradients
            .map(|all| Tensor::cat(&all.iter().map(|g| g.flatten(0, -1)).collect::<Vec<_>>(), 0));
        assert!(joined[0].abs().max().double_value(&[]) > 0.0);
        assert_close(
            &format!("{family} lora gradients"),
            &joined[1],
            &joined[0],
            1e-6,
        );
    }
}

#[test]
fn unet_with_cached_text_gives_the_same_output() {
    for family in FAMILIES {
        let unet = open(family);
        attach_lora(&unet);
        let tensors = golden_tensors(&format!("diffusion/{family}_unet.safetensors"));
        let (sample, timesteps, conditioning) = case(&tensors, "odd");
        let expected = unet.forward(&sample, &timesteps, &conditioning, None);
        let cache = unet.context_cache(&conditioning, Kind::Float);
        let output = unet.forward_cached(&sample, &timesteps, &conditioning, &cache);
        assert!(!output.requires_grad());
        assert_close(family, &output, &expected.detach(), 1e-6);
    }
}

#[test]
fn unet_in_bf16_keeps_the_type_and_stays_near() {
    let unet = open("sdxl");
    let tensors = golden_tensors("diffusion/sdxl_unet.safetensors");
    let (sample, timesteps, conditioning) = case(&tensors, "even");
    let output = unet.forward(
        &sample.to_kind(Kind::BFloat16),
        &timesteps,
        &conditioning,
        None,
    );
    assert_eq!(output.kind(), Kind::BFloat16);
    assert_close(
        "bf16",
        &output,
        &tensors.tensor("even.output").unwrap(),
        0.05,
    );
}

#[test]
fn conditioning_rows_are_picked_repeated_and_joined() {
    let rows = Conditioning {
        context: Tensor::arange(12, (Kind::Float, Device::Cpu)).view([3, 2, 2]),
        added: Some(AddedConditioning {
            text_embeds: Tensor::arange(3, (Kind::Float, Device::Cpu)).view([3, 1]),
            time_ids: Tensor::arange(18, (Kind::Float, Device::Cpu)).view([3, 6]),
        }),
    };
    let ids = |conditioning: &Conditioning| {
        let added = conditioning.added.as_ref().unwrap();
        assert_eq!(added.time_ids.size()[0], conditioning.rows());
        Vec::<f32>::try_from(added.text_embeds.flatten(0, -1)).unwrap()
    };
    assert_eq!(
        ids(&rows.select(&Tensor::from_slice(&[2i64, 0, 2]))),
        [2.0, 0.0, 2.0]
    );
    assert_eq!(ids(&rows.narrow(1, 2)), [1.0, 2.0]);
    assert_eq!(
        ids(&rows.narrow(0, 2).repeat_interleave(2)),
        [0.0, 0.0, 1.0, 1.0]
    );
    assert_eq!(
        ids(&Conditioning::cat(&[&rows.narrow(2, 1), &rows])),
        [2.0, 0.0, 1.0, 2.0]
    );
}

/// A copy of a golden U-Net folder with a changed configuration.
fn changed(family: &str, change: impl Fn(&mut Value)) -> (tempfile::TempDir, PathBuf) {
    let from = golden("diffusion").join(family).join("unet");
    let folder = tempfile::tempdir().unwrap();
    let weights = "diffusion_pytorch_model.safetensors";
    std::fs::copy(from.join(weights), folder.path().join(weights)).unwrap();
    let mut config =
        serde_json::from_str(&std::fs::read_to_string(from.join("config.json")).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}

fn refusal(family: &str, change: impl Fn(&mut Value)) -> String {
    let (_keep, folder) = changed(family, change);
    let result: Result<UNet> = UNet::open(&folder, None, Device::Cpu, Kind::Float);
    let error = result.err().expect("must be refused");
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn unet_configuration_that_is_not_implemented_is_refused_by_key() {
    for (key, value) in [
        ("dual_cross_attention", json!(true)),
        ("only_cross_attention", json!([true, false, false])),
        ("class_embed_type", json!("timestep")),
        ("num_class_embeds", json!(10)),
        ("encoder_hid_dim", json!(64)),
        ("time_cond_proj_dim", json!(256)),
        ("addition_embed_type", json!("text")),
        ("resnet_time_scale_shift", json!("scale_shift")),
        ("mid_block_type", json!("UNetMidBlock2D")),
        ("act_fn", json!("gelu")),
        (
            "down_block_types",
            json!(["AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]),
        ),
        ("attention_head_dim", json!([1, 2])),
        ("attention_head_dim", json!(3)),
        ("cross_attention_dim", json!([16, 16, 24])),
        ("norm_num_groups", json!(0)),
        ("layers_per_block", json!("two")),
    ] {
        let message = refusal("sd1", |config| config[key] = value.clone());
        let named = message.contains(&format!("`{key}`")) || message.contains("attention_head_dim");
        assert!(named || key == "layers_per_block", "{key}: {message}");
    }
}

#[test]
fn unet_weights_that_do_not_fit_the_configuration_are_refused_by_name() {
    let message = refusal("sd1", |config| config["cross_attention_dim"] = json!(20));
    assert!(
        message.contains("attn2.to_k.weight") && message.contains("[4, 16]"),
        "{message}"
    );
    let message = refusal("sd1", |config| config["layers_per_block"] = json!(2));
    assert!(
        message.contains("resnets.1.norm1.weight") && message.contains("missing"),
        "{message}"
    );
    let message = refusal("sdxl", |config| config["addition_embed_type"] = Value::Null);
    assert!(
        message.contains("add_embedding.linear_1.bias") && message.contains("no place"),
        "{message}"
    );
}

#[test]
fn unet_configuration_with_nulls_and_nothing_else_takes_the_defaults_of_diffusers() {
    let (_keep, folder) = changed("sd1", |config| {
        *config = json!({"upcast_attention": null, "sample_size": null});
    });
    let config = preftune::models::diffusion::UNetConfig::open(&folder).unwrap();
    assert_eq!(config.block_out_channels, [320, 640, 1280, 1280]);
    assert_eq!(
        (config.heads, config.layers_per_block),
        (vec![8; 4], vec![2; 4])
    );
    assert_eq!((config.norm_num_groups, config.sample_size), (32, None));
}

#[test]
fn unet_refuses_text_of_another_model() {
    let unet = open("sdxl");
    let text = |width| Conditioning::new(Tensor::zeros([1, 77, width], (Kind::Float, Device::Cpu)));
    let message = |conditioning: &Conditioning| {
        unet.check_conditioning(Path::new("m"), conditioning)
            .unwrap_err()
            .to_string()
    };
    assert!(message(&text(16)).contains("[b, t, 32]"));
    assert!(message(&text(32)).contains(
        "no pooled text vector, but the U-Net reads a pooled text vector of width 12 and 6 sizes"
    ));
}

#[test]
fn unet_damaged_weights_are_refused() {
    let (_keep, folder) = changed("sd1", |_| {});
    let file = folder.join("diffusion_pytorch_model.safetensors");
    let checkpoint = Checkpoint::open_file(&file).unwrap();
    let mut tensors: Vec<(String, Tensor)> = checkpoint
        .names()
        .map(|name| (name.to_owned(), checkpoint.tensor(name).unwrap()))
        .collect();
    let _ = tensors[5].1.fill_(f64::NAN);
    weights::save(&file, &tensors, &std::collections::BTreeMap::new()).unwrap();
    let error = UNet::open(&folder, None, Device::Cpu, Kind::Float)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("NaN") && error.contains(&tensors[5].0),
        "{error}"
    );
}

#[test]
fn unet_of_the_small_world_loads_and_predicts() {
    let Some(folder) = shared("emoji-world-poc/unet") else {
        return;
    };
    let unet = UNet::open(&folder, None, Device::Cpu, Kind::Float).unwrap();
    let sample = random::randn(1, &[2, 4, 16, 16], Device::Cpu);
    let text = Conditioning::new(random::randn(2, &[2, 16, 128], Device::Cpu));
    let output = unet.forward(&sample, &Tensor::from_slice(&[500i64, 20]), &text, None);
    assert_eq!(output.size(), [2, 4, 16, 16]);
    assert!(output.isfinite().all().int64_value(&[]) == 1);
}
