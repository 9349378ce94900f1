//! LoRA on layers and U-Nets: attaching, switching off, merging, outputs and gradients as with PEFT.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use preftune::Error;
use preftune::models::diffusion::{AddedConditioning, Conditioning, UNet};
use preftune::models::layers::{Adapters, Conv2d, ConvConfig, Linear, Lora};
use preftune::models::lora::{
    LoraConfig, LoraInit, LoraSet, LoraWeights, Sites, Targets, read, sites,
};
use preftune::models::weights::{Checkpoint, Loader};
use preftune::ops::random;
use preftune::ops::tape::Tape;
use tch::{Device, Kind, Reduction, Tensor};

use super::support::{assert_close, golden, golden_tensors};

/// What `tests/golden/lora.py` computes: family, then what is adapted.
pub const CASES: [&str; 5] = [
    "sd1_attention",
    "sd1_all_linear",
    "sd1_conv",
    "sd1_ranks",
    "sdxl_all_linear",
];
pub const QUERY: &str = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";

pub fn unet_file(family: &str) -> Checkpoint {
    let folder = golden(&format!("diffusion/{family}/unet"));
    Checkpoint::open_component(&folder, "diffusion_pytorch_model", None).unwrap()
}

pub fn unet_sites(family: &str) -> Rc<Sites> {
    Rc::new(sites::of_checkpoint(&unet_file(family)))
}

/// The layers of a tiny U-Net, without the U-Net.
pub fn layers(family: &str) -> Adapters {
    let sites = unet_sites(family);
    let loader = Loader::new(unet_file(family), Device::Cpu, Kind::Float);
    for (name, site) in sites.iter() {
        let loader = loader.pp(name);
        match site.kernel {
            Some(kernel) => {
                let config = ConvConfig {
                    bias: false,
                    ..ConvConfig::new(kernel, 0)
                };
                Conv2d::load(&loader, site.input, site.output, config).unwrap();
            }
            None => drop(Linear::load_no_bias(&loader, site.input, site.output).unwrap()),
        }
    }
    loader.adapters()
}

pub fn config(targets: Targets) -> LoraConfig {
    LoraConfig {
        rank: 4,
        alpha: 2.0,
        targets,
        init: LoraInit::default(),
    }
}

pub fn attach(layers: &Adapters, targets: Targets) -> LoraSet {
    LoraSet::attach(layers, &config(targets), 7, Device::Cpu, Kind::Float).unwrap()
}

/// The LoRA that diffusers saved, of a case of `tests/golden/lora.py`.
pub fn trained(case: &str) -> LoraWeights {
    let family = case.split('_').next().unwrap();
    let path = golden(&format!("lora/{case}_peft.safetensors"));
    read::read(&path, unet_sites(family)).unwrap()
}

pub fn read_sd1(path: &Path) -> Result<LoraWeights, Error> {
    read::read(path, unet_sites("sd1"))
}

pub fn is(actual: f64, expected: f64) -> bool {
    (actual - expected).abs() < 1e-9
}

pub fn update(lora: &Lora) -> Tensor {
    let (up, down) = (lora.up.size(), lora.down.size());
    let mut shape = vec![up[0]];
    shape.extend(&down[1..]);
    lora.update(&shape)
}

#[track_caller]
pub fn assert_same_updates(actual: &LoraWeights, expected: &LoraWeights, tolerance: f64) {
    let names = |weights: &LoraWeights| weights.modules.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(actual), names(expected));
    for (name, lora) in &expected.modules {
        let actual = &actual.modules[name];
        assert_close(name, &update(actual), &update(lora), tolerance);
    }
}

#[test]
fn a_new_lora_starts_as_the_base_and_depends_on_seed_and_module_only() {
    let first = layers("sd1");
    let set = attach(&first, Targets::Attention);
    let parameters = set.parameters();
    assert_eq!(parameters.len(), 2 * 7 * 2 * 4); // seven blocks with attention, two attentions each
    for (name, tensor) in &parameters {
        assert!(tensor.requires_grad() && tensor.is_leaf(), "{name}");
        let largest = tensor.abs().max().double_value(&[]);
        if name.ends_with("lora_B.weight") {
            assert!(is(largest, 0.0), "{name}");
        } else {
            let bound = 1.0 / (tensor.size()[1] as f64).sqrt();
            assert!(
                largest <= bound && largest > 0.5 * bound,
                "{name}: {largest} {bound}"
            );
        }
    }
    let second = attach(&layers("sd1"), Targets::AllLinear);
    let all: BTreeMap<String, Tensor> = second.parameters().into_iter().collect();
    assert!(all.len() > parameters.len());
    for (name, tensor) in parameters {
        assert_eq!(tensor, all[&name], "{name}");
    }
}

#[test]
fn gaussian_start_has_deviation_one_over_rank() {
    let config = LoraConfig {
        rank: 64,
        init: LoraInit::Gaussian,
        ..config(Targets::Attention)
    };
    let set = LoraSet::attach(&layers("sd1"), &config, 1, Device::Cpu, Kind::Float).unwrap();
    let downs: Vec<Tensor> = set
        .weights()
        .modules
        .into_values()
        .map(|lora| lora.down.flatten(0, -1))
        .collect();
    let deviation = Tensor::cat(&downs, 0).std(false).double_value(&[]);
    assert!((deviation * 64.0 - 1.0).abs() < 0.05, "{deviation}");
}

#[test]
fn unknown_targets_and_wrong_sizes_are_refused() {
    let layers = layers("sd1");
    let attach = |config: LoraConfig| {
        LoraSet::attach(&layers, &config, 0, Device::Cpu, Kind::Float)
            .err()
            .unwrap()
    };
    let error = attach(config(Targets::Suffixes(vec![
        "to_q".into(),
        "too_k".into(),
    ])));
    assert!(
        error.to_string().contains("`too_k` matches no layer"),
        "{error}"
    );
    assert!(
        error.hint().unwrap().contains("`to_k`"),
        "{:?}",
        error.hint()
    );
    // A part of a name is no match.
    attach(config(Targets::Suffixes(vec!["o_q".into()])));
    attach(LoraConfig {
        rank: 0,
        ..config(Targets::Attention)
    });
    attach(LoraConfig {
        alpha: f64::NAN,
        ..config(Targets::Attention)
    });
    let _first = LoraSet::attach(
        &layers,
        &config(Targets::Attention),
        0,
        Device::Cpu,
        Kind::Float,
    );
    let error = attach(config(Targets::AllLinear));
    assert!(
        error.to_string().contains("carries a LoRA already"),
        "{error}"
    );
}

#[test]
fn a_merged_layer_computes_what_the_adapted_one_did() {
    let cases = [
        ("sd1_all_linear", QUERY),
        ("sd1_conv", "down_blocks.0.downsamplers.0.conv"),
    ];
    for (case, module) in cases {
        let site = unet_sites("sd1")[module];
        let loader = Loader::new(unet_file("sd1"), Device::Cpu, Kind::Float).pp(module);
        let sites = Rc::new(Sites::from([(module.to_owned(), site)]));
        let folder = tempfile::tempdir().unwrap();
        let mut weights = trained(case);
        weights.modules.retain(|name, _| name == module);
        let one = LoraWeights { sites, ..weights };
        let path = folder.path().join("one.safetensors");
        one.save_peft(&path, "unet", &BTreeMap::new()).unwrap();
        let config = ConvConfig {
            stride: 2,
            ..ConvConfig::new(3, 1)
        };
        let conv = site
            .kernel
            .map(|_| Conv2d::load(&loader, site.input, site.output, config).unwrap());
        let linear = conv
            .is_none()
            .then(|| Linear::load_no_bias(&loader, site.input, site.output).unwrap());
        let input = random::randn(5, &[2, site.input, 8, 12], Device::Cpu);
        let forward = || match (&conv, &linear) {
            (Some(conv), _) => conv.forward(&input),
            (_, Some(linear)) => linear.forward(&input.permute([0, 2, 3, 1])),
            _ => unreachable!(),
        };
        let base = forward();
        let set = LoraSet::load(&loader.adapters(), &path).unwrap();
        let adapted = forward();
        set.set_enabled(false);
        assert_eq!(forward(), base);
        set.set_enabled(true);
        assert_eq!(forward(), adapted);
        set.merge();
        assert_close(case, &forward(), &adapted, 1e-6);
        let effect = (&adapted - &base).abs().max().double_value(&[]);
        assert!(effect > 0.1, "{effect}");
    }
}

/// The inputs that a case of `tests/golden/lora.py` was computed with, in `kind`.
pub fn unet_case(family: &str, kind: Kind) -> (Tensor, Tensor, Conditioning, Tensor) {
    let tensors = golden_tensors(&format!("diffusion/{family}_unet.safetensors"));
    let get = |part: &str| tensors.tensor(&format!("even.{part}")).unwrap();
    let added = (family == "sdxl").then(|| AddedConditioning {
        text_embeds: get("text_embeds"),
        time_ids: get("time_ids"),
    });
    let conditioning = Conditioning {
        context: get("context"),
        added,
    };
    let floating = |part: &str| get(part).to_kind(kind);
    (
        floating("sample"),
        get("timesteps"),
        conditioning,
        floating("target"),
    )
}

#[test]
fn an_adapted_unet_computes_what_diffusers_with_peft_does() {
    for case in CASES {
        let family = case.split('_').next().unwrap();
        let folder = golden(&format!("diffusion/{family}/unet"));
        let unet = UNet::open(&folder, None, Device::Cpu, Kind::Float).unwrap();
        let path = golden(&format!("lora/{case}_peft.safetensors"));
        let set = LoraSet::load(unet.adapters(), &path).unwrap();
        let (sample, timesteps, conditioning, _) = unet_case(family, Kind::Float);
        let forward = || unet.forward(&sample, &timesteps, &conditioning, None);
        let expected = golden_tensors(&format!("lora/{case}_unet.safetensors"))
            .tensor("output")
            .unwrap();
        assert_close(case, &forward(), &expected, 2e-5);
        set.set_enabled(false);
        let base = golden_tensors(&format!("diffusion/{family}_unet.safetensors"))
            .tensor("even.output")
            .unwrap();
        assert_close("switched off", &forward(), &base, 2e-5);
        let effect = (&expected - &base).abs().max().double_value(&[]);
        assert!(
            effect > 0.1,
            "{case}: the adapter changes the output by {effect} only"
        );
        set.merge();
        assert_close("merged", &forward(), &expected, 2e-5);
    }
}

#[test]
fn gradients_of_a_and_b_are_those_of_peft() {
    for case in CASES {
        let family = case.split('_').next().unwrap();
        let folder = golden(&format!("diffusion/{family}/unet"));
        let path = golden(&format!("lora/{case}_peft.safetensors"));
        let golden = golden_tensors(&format!("lora/{case}_unet.safetensors"));
        for checkpointing in [false, true] {
            let unet = UNet::open(&folder, None, Device::Cpu, Kind::Double).unwrap();
            let set = LoraSet::load(unet.adapters(), &path).unwrap();
            set.set_trainable(true);
            let (sample, timesteps, conditioning, target) = unet_case(family, Kind::Double);
            let tape = checkpointing.then(Tape::new);
            let output = unet.forward(&sample, &timesteps, &conditioning, tape.as_ref());
            let loss = output.mse_loss(&target, Reduction::Mean);
            loss.backward();
            if let Some(tape) = tape {
                tape.backward();
            }
            let parameters = set.parameters();
            let expected: Vec<Tensor> = parameters
                .iter()
                .map(|(name, _)| golden.tensor(&format!("grad.{name}")).unwrap())
                .collect();
            let largest = |tensor: &Tensor| tensor.abs().max().double_value(&[]);
            let overall = expected.iter().map(largest).fold(0.0, f64::max);
            let mut worst: f64 = 0.0;
            for ((name, tensor), expected) in parameters.iter().zip(&expected) {
                // A gradient that is rounding noise is measured against the largest.
                let scale = largest(expected).max(1e-3 * overall);
                let error = largest(&(tensor.grad() - expected)) / scale;
                assert!(error <= 1e-5, "{case} {name}: off by {error:e}");
                worst = worst.max(error);
            }
            assert_eq!(parameters.len() + 2, golden.names().count());
            println!("{case}, checkpointing {checkpointing}: gradients within {worst:.1e}");
        }
    }
}
