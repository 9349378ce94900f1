//! `preftune plan`: weights and operations against diffusers and loaded models, work against what a run counted, memory's
//! shape.

use std::fs;

use preftune::models::diffusion::{PassShape, Trained, UNetConfig, UNetCost};
use preftune::models::lm::{self, LanguageModel, LmConfig, LmCost, LmPass, Storage};
use preftune::models::lora::sites;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::support::golden;
use crate::text_train::Folder;
use crate::tiny_run::{Outcome, World};

fn cost(config: &UNetConfig, samples: i64, latent: [i64; 2], tokens: i64) -> UNetCost {
    let shape = PassShape {
        samples,
        latent,
        tokens,
    };
    UNetCost::new(config, Trained::All, shape)
}

/// Stable Diffusion 1.5's U-Net: diffusers' defaults but for the text's width.
fn sd15() -> UNetConfig {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("config.json"),
        r#"{"cross_attention_dim": 768}"#,
    )
    .unwrap();
    UNetConfig::open(folder.path()).unwrap()
}

#[test]
fn weights_and_operations_are_those_that_torch_counts() {
    // UNet2DConditionModel on the meta device under torch.utils.flop_counter (torch 2.11, diffusers 0.42.1).
    for (family, parameters, flops) in [
        ("sd1", 37_156, 9_504_128.0),
        ("sd2", 19_784, 11_969_280.0),
        ("sdxl", 38_780, 9_180_928.0),
    ] {
        let config = UNetConfig::open(&golden("diffusion").join(family).join("unet")).unwrap();
        let cost = cost(&config, 2, [16, 12], 7);
        assert_eq!(cost.parameters(), parameters, "{family}");
        assert!(
            (cost.flops() - flops).abs() < 1.0,
            "{family}: {}",
            cost.flops()
        );
    }
    let cost = cost(&sd15(), 1, [64, 64], 77);
    assert_eq!(cost.parameters(), 859_520_964);
    assert!(
        (cost.flops() - 803_273_441_280.0).abs() < 1.0,
        "{}",
        cost.flops()
    );
}

#[test]
fn activations_grow_with_the_batch_and_checkpointing_keeps_fewer() {
    let config = sd15();
    let bytes = |samples, checkpointed| {
        cost(&config, samples, [64, 64], 77).training_bytes(2.0, 0.0, 0.0, checkpointed)
    };
    let (one, two) = (bytes(1, false), bytes(2, false));
    assert!((two / one - 2.0).abs() < 0.01, "{}", two / one);
    assert!(bytes(2, true) < 0.4 * two, "{} of {two}", bytes(2, true));
}

#[test]
fn planned_work_is_what_a_run_counts() {
    let world = World::new();
    world.train(&["validation.patience=0"]).succeeded();
    let plan = world.run(&["plan", "config.toml", "--json"]).succeeded();
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    let counts = &world.manifest("run")["counts"];
    for name in [
        "unet_forwards_sampling",
        "unet_forwards_training",
        "reward_image_encodes",
        "vae_encodes",
    ] {
        assert_eq!(plan["work"][name], counts[name], "{name}");
    }
    assert_eq!(
        plan["trained"],
        world.manifest("run")["trainable_parameters"]
    );
    assert!(plan["seconds"]["step"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_plan_wants_a_model_that_is_there() {
    let world = World::new();
    world
        .run(&["plan", "config.toml", "--set", "model.base=nowhere"])
        .failed(2, &["nowhere"]);
}

#[test]
fn a_profiled_run_says_where_its_steps_went() {
    let world = World::new();
    let mut command = world.training(&["train.steps=2"], &["--profile"]);
    Outcome::of(command.spawn().unwrap()).succeeded();
    let profile = &world.manifest("run")["profile"];
    let parts = profile["seconds_a_step"].as_object().unwrap();
    for part in [
        "batch",
        "reference forward",
        "policy forward",
        "loss and backward",
        "update",
    ] {
        assert!(parts[part].as_f64().unwrap() > 0.0, "{part}");
    }
    assert!(profile["flops_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn planned_work_is_what_a_text_run_counts() {
    let folder = Folder::new();
    for (kind, data, objective, more) in [
        (
            "dpo",
            "chats",
            "kind = \"dpo\"",
            &[
                "validation.every=2",
                "data.validation_share=0.4",
                "train.batch=1",
            ][..],
        ),
        (
            "kto",
            "marked",
            "kind = \"kto\"",
            &["train.batch=8", "adapter.kind=lora"],
        ),
        (
            "tdpo",
            "pairs",
            "kind = \"tdpo2\"",
            &["train.accumulation=2", "train.batch=2"],
        ),
    ] {
        let config = folder.config(kind, data, objective);
        folder.configured("train", &config, more).done();
        let sets = more.iter().flat_map(|one| ["--set", one]);
        let arguments: Vec<&str> = ["plan", &config, "--json"]
            .into_iter()
            .chain(sets)
            .collect();
        let plan = folder.binary(&arguments).done().json();
        let manifest = folder.manifest(kind);
        for count in ["examples", "tokens"] {
            assert_eq!(
                plan["work"][count], manifest["counts"][count],
                "{kind}: {count}"
            );
        }
        assert_eq!(plan["trained"], manifest["trainable_parameters"], "{kind}");
        let seconds = &plan["seconds"];
        assert!(seconds["step"].as_f64().unwrap() > 0.0, "{kind}");
        assert_eq!(
            seconds["reference"].as_f64().unwrap() > 0.0,
            kind == "dpo",
            "{kind}"
        );
        assert_eq!(
            seconds["validations"].as_f64().unwrap() > 0.0,
            kind == "dpo",
            "{kind}"
        );
    }
}

#[test]
fn the_configuration_of_a_language_model_says_weights_and_layers() {
    for family in ["llama", "smollm", "mistral", "qwen2", "qwen3", "gpt2"] {
        let folder = golden("lm").join(family);
        let model = LanguageModel::open(&folder, Device::Cpu, Kind::Float, Kind::Float).unwrap();
        let numel = |(_, tensor): (String, Tensor)| tensor.numel() as u64;
        let weights: u64 = model.parameters().into_iter().map(numel).sum();
        let cost = LmCost::new(model.config(), None);
        assert_eq!(cost.parameters(), weights, "{family}");
        assert_eq!(
            lm::sites(model.config()),
            sites::of_layers(&model.adapters()),
            "{family}"
        );
    }
}

#[test]
fn memory_of_a_step_on_texts_follows_its_size_and_what_is_kept() {
    let config = LmConfig::open(&golden("lm/llama")).unwrap();
    let pass = |rows, length| LmPass {
        rows,
        length,
        scored: rows * length,
        masked: false,
    };
    let storage = Storage {
        activation: 4.0,
        cast: 0.0,
        checkpointed: false,
        all_heads: [false; 2],
        head_rows: 64,
        token_kl: false,
    };
    let paths: Vec<String> = lm::sites(&config).into_keys().collect();
    let (full, lora) = (
        LmCost::new(&config, None),
        LmCost::new(&config, Some((&paths, 8))),
    );
    let bytes =
        |cost: &LmCost, storage: &Storage, rows| cost.training_bytes(&pass(rows, 512), storage);
    let grown = bytes(&lora, &storage, 8) - bytes(&lora, &storage, 4);
    let before = bytes(&lora, &storage, 4) - bytes(&lora, &storage, 2);
    assert!((grown / before - 2.0).abs() < 1e-9, "linear in rows");
    // Gradients of all weights, and the inputs of norms whose weights are trained.
    assert!(bytes(&full, &storage, 4) > bytes(&lora, &storage, 4));
    let checkpointed = Storage {
        checkpointed: true,
        ..storage
    };
    assert!(bytes(&lora, &checkpointed, 4) < bytes(&lora, &storage, 4));
    let divergence = Storage {
        token_kl: true,
        head_rows: 1 << 20,
        ..storage
    };
    assert!(bytes(&lora, &divergence, 4) > bytes(&lora, &storage, 4));
    // Keys and values of the one group of two heads, for the backward pass of every block.
    assert!(config.kv_heads < config.heads);
    let spread = Storage {
        all_heads: [true; 2],
        ..storage
    };
    let more = bytes(&lora, &spread, 4) - bytes(&lora, &storage, 4);
    let heads = (config.heads - config.kv_heads) * config.head_dim;
    let expected = (2 * heads * config.layers * 4 * 512 * 4) as f64;
    assert!((more - expected).abs() < 1.0, "{more}, not {expected}");
}
