//! `preftune plan`: weights and operations against diffusers, work against what a run counted, memory's shape.

use std::fs;

use preftune::models::diffusion::{PassShape, Trained, UNetConfig, UNetCost};
use serde_json::Value;

use crate::support::golden;
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
