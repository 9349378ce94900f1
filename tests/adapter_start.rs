//! Runs that go on from a LoRA: what they start as, keep, refuse, and export.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use preftune::models::lora::overlay::lay;
use preftune::models::lora::{LoraSet, Overlay};
use preftune::models::weights::save;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::lora::QUERY;
use super::overlays::open;
use super::support::{assert_close, golden, golden_tensors};
use super::tiny_run::World;

const TEXT: &str = "text_encoder.text_model.encoder.layers.1.mlp.fc1";

/// A folder whose configuration goes on from a file of `tests/golden/lora`.
fn world(start: &str) -> World {
    let world = World::new();
    fs::copy(
        golden(&format!("lora/{start}")),
        world.path("start.safetensors"),
    )
    .unwrap();
    let config = world.read("config.toml");
    let own = "start = \"start.safetensors\"";
    world.write(
        "config.toml",
        &config.replace("rank = 4", own).replace("alpha = 4", ""),
    );
    world
}

#[test]
fn a_start_trains_the_unet_and_keeps_the_text_encoders_part() {
    let temporary = tempfile::tempdir().unwrap();
    for family in ["sd1", "sdxl"] {
        let file = golden(&format!("lora/text_{family}.safetensors"));
        let pipeline = open(family);
        let set = LoraSet::start(&pipeline.adapters(), &file).unwrap();
        let (trained, frozen) = set.counts();
        assert_eq!((trained, set.parameters().len()), (1, 2));
        assert_eq!(frozen, if family == "sd1" { 9 } else { 18 });
        for (name, tensor) in set.parameters() {
            assert!(tensor.requires_grad() && tensor.is_leaf(), "{name}");
        }
        // Stored and laid over another copy, it is what the file itself is, off as on for the text encoders.
        set.set_enabled(false);
        let prompts = ["the red cat".to_owned()];
        let own = pipeline.encode_prompts(&prompts, 16, 16).unwrap().context;
        let path = temporary.path().join("pytorch_lora_weights.safetensors");
        set.save_peft(&path, "unet", &std::collections::BTreeMap::new())
            .unwrap();
        let weights = [file, path].map(|file| {
            let other = open(family);
            lay(&other.adapters(), &[Overlay::whole(&file)]).unwrap();
            let context = other.encode_prompts(&prompts, 16, 16).unwrap().context;
            assert_close("context", &own, &context, 1e-5);
            other.adapters()
        });
        for (name, layer) in &weights[0] {
            assert_close(name, &layer.weight, &weights[1][name].weight, 1e-6);
        }
    }
}

#[test]
fn a_run_goes_on_from_a_lora_and_its_exports_have_all_of_it() {
    let world = world("text_sd1.safetensors");
    let image = |model: &str, more: &[&str]| {
        let _ = fs::remove_dir_all(world.path("out"));
        world.generate(model, more).succeeded();
        let bytes = fs::read(world.path("out/00000.png")).unwrap();
        image::load_from_memory(&bytes).unwrap().to_rgb8()
    };
    let base = golden("diffusion/sd1");
    let base = base.to_str().unwrap();
    let started = image(base, &["--lora", "start.safetensors"]);
    assert_ne!(image(base, &[]), started);

    // Steps that change nothing leave the picture of the start.
    let ran = world.train(&[
        "run.output=\"still\"",
        "train.learning_rate=1e-30",
        "train.weight_decay=0",
    ]);
    let ran = ran.succeeded();
    assert!(
        ran.stderr
            .contains("goes on from `start.safetensors`, 1 modules"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("9 modules of text encoders act"),
        "{}",
        ran.stderr
    );
    assert_eq!(image("still", &[]), started);

    world
        .train(&["validation.every=6", "train.learning_rate=1e-2"])
        .succeeded();
    let last = image("run", &["--checkpoint", "6"]);
    assert_ne!(last, started);
    assert_eq!(world.manifest("run")["rank"], 2);

    // Every export of a step is what that step samples.
    for (format, base_too) in [
        ("kohya", true),
        ("peft", true),
        ("merged", false),
        ("single-file", false),
    ] {
        let arguments = [
            "export",
            "run",
            "--out",
            format,
            "--format",
            format,
            "--dtype",
            "f32",
            "--checkpoint",
            "6",
        ];
        if format == "single-file" {
            // The tiny model's tokenizer is not CLIP's, which such a file does not carry.
            world.run(&arguments).failed(2, &["is not CLIP's"]);
            continue;
        }
        world.run(&arguments).succeeded();
        let made = if base_too {
            let file = match format {
                "kohya" => "kohya/run.safetensors",
                _ => "peft/pytorch_lora_weights.safetensors",
            };
            image(base, &["--lora", file])
        } else {
            image(format, &[])
        };
        let distance = |(left, right): (&u8, &u8)| left.abs_diff(*right);
        let largest = made.iter().zip(last.iter()).map(distance).max();
        assert!(largest <= Some(1), "{format}: {largest:?}");
    }

    // Another file under its name is noticed.
    fs::copy(
        golden("lora/sd1_attention_peft.safetensors"),
        world.path("start.safetensors"),
    )
    .unwrap();
    world
        .resume(&[
            "train.steps=8",
            "validation.every=6",
            "train.learning_rate=1e-2",
        ])
        .failed(2, &["start LoRA"]);
}

#[test]
fn what_is_no_start_is_refused_by_name() {
    let world = world("text_sd1.safetensors");
    world
        .train(&["adapter.kind=\"full\""])
        .failed(2, &["start.safetensors", "goes on with all weights"]);
    for (file, what) in [
        ("overlay_lycoris.safetensors", "not to a plain LoRA"),
        ("overlay_loha/adapter_model.safetensors", "LoHa"),
    ] {
        fs::copy(
            golden(&format!("lora/{file}")),
            world.path("start.safetensors"),
        )
        .unwrap();
        world.train(&[]).failed(2, &[what, "--format merged"]);
    }
}

#[test]
fn other_kinds_are_merged_into_a_model() {
    let world = World::new();
    let base = golden("diffusion/sd1");
    let file = golden("lora/overlay_lycoris.safetensors");
    let (base, file) = (base.to_str().unwrap(), file.to_str().unwrap());
    let merged = [
        "export", file, "--base", base, "--out", "merged", "--format", "merged", "--dtype", "f32",
    ];
    world.run(&merged).succeeded();
    world
        .run(&["export", file, "--base", base, "--out", "lora"])
        .failed(2, &["--format merged"]);
    let pipeline = open("sd1");
    lay(&pipeline.adapters(), &[Overlay::whole(file.as_ref())]).unwrap();
    let written = world.tensors("merged/unet/diffusion_pytorch_model.safetensors");
    for (module, layer) in &pipeline.adapters() {
        if !module.starts_with("text_encoder") {
            let written = written.tensor(&format!("{module}.weight")).unwrap();
            assert_close(module, &written, &layer.weight, 1e-6);
        }
    }
    assert!(pipeline.adapters().contains_key(QUERY) && pipeline.adapters().contains_key(TEXT));
}

/// A LoRA of the query and the key of one attention, with other ranks, and settings of PEFT.
fn uneven(folder: &Path, alpha: i64) {
    fs::create_dir_all(folder).unwrap();
    let module = QUERY.strip_suffix("to_q").unwrap();
    let weights = golden_tensors("diffusion/sd1/unet/diffusion_pytorch_model.safetensors");
    tch::manual_seed(4);
    let mut tensors = Vec::new();
    for (layer, rank) in [("to_q", 2), ("to_k", 5), ("to_v", 2)] {
        let shape = weights.shape(&format!("{module}{layer}.weight")).unwrap();
        for (half, size) in [("lora_A", [rank, shape[1]]), ("lora_B", [shape[0], rank])] {
            let name = format!("base_model.model.{module}{layer}.{half}.weight");
            tensors.push((name, Tensor::randn(size, (Kind::Float, Device::Cpu)) * 0.1));
        }
    }
    save(
        &folder.join("adapter_model.safetensors"),
        &tensors,
        &BTreeMap::new(),
    )
    .unwrap();
    let settings = json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": alpha, "target_modules": ["to_q", "to_k", "to_v"],
        "rank_pattern": {"to_k": 5}, "base_model_name_or_path": "x",
    });
    fs::write(folder.join("adapter_config.json"), settings.to_string()).unwrap();
}

#[test]
fn a_plan_counts_every_rank_of_the_start_and_a_run_notices_other_settings_of_it() {
    let world = world("text_sd1.safetensors");
    uneven(&world.path("start"), 4);
    let set = ["adapter.start=\"start\"", "validation.every=6"];
    world.train(&set).succeeded();
    let mut plan = vec!["plan", "config.toml", "--memory-only", "--json"];
    plan.extend(set.iter().flat_map(|value| ["--set", value]));
    let plan: Value = serde_json::from_str(&world.run(&plan).succeeded().stdout).unwrap();
    assert_eq!(
        plan["trained"],
        world.manifest("run")["trainable_parameters"]
    );
    // The same weights with another strength are another start.
    uneven(&world.path("start"), 8);
    let more = [set[0], set[1], "train.steps=8"];
    world.resume(&more).failed(2, &["start LoRA"]);
    uneven(&world.path("start"), 4);
    world.resume(&more).succeeded();
}
