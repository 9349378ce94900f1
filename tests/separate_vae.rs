//! An autoencoder beside its model: every form in which people have one, through every verb, and what does not fit.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use preftune::models::diffusion::{Vae, VaeSource};
use preftune::models::weights::{Checkpoint, save};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::command::{Folder, Ran, quoted};
use crate::single_files::{export, model};
use crate::support::golden;
use crate::tiny_run::{copy_folder, photo};

/// A folder with an autoencoder whose settings a file of it says: groups of 32 channels. `changes` are of its settings.
fn autoencoder(folder: &Path, seed: u64, changes: &Value) {
    fs::create_dir_all(folder).unwrap();
    let mut config = json!({
        "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [32, 64], "in_channels": 3,
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "latent_channels": 4, "layers_per_block": 1,
        "norm_num_groups": 32, "out_channels": 3, "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let vae = Vae::fresh(folder, seed, Device::Cpu).unwrap();
    let tensors: Vec<_> = vae
        .parameters()
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.detach().to_kind(Kind::Half)))
        .collect();
    let file = folder.join("diffusion_pytorch_model.safetensors");
    save(&file, &tensors, &BTreeMap::new()).unwrap();
}

/// The tensors of a file under the names that `rename` makes of theirs, as another file.
fn renamed(from: &Path, to: &Path, rename: impl Fn(&str) -> Option<String>) {
    let file = Checkpoint::open_file(from).unwrap();
    let tensors: Vec<_> = file
        .names()
        .filter_map(|name| Some((rename(name)?, file.tensor(name).unwrap())))
        .collect();
    save(to, &tensors, &BTreeMap::new()).unwrap();
}

fn generate(folder: &Folder, model: &str, more: &[&str]) -> Ran {
    let _ = fs::remove_dir_all(folder.path("pictures"));
    let arguments = [
        "generate",
        "--model",
        model,
        "--prompt",
        "a dog",
        "--steps",
        "2",
        "--seed",
        "3",
        "--device",
        "cpu",
        "--out",
        "pictures",
        "--tensors",
        "pictures.safetensors",
        "--quiet",
    ];
    folder.binary(&[&arguments[..], more].concat())
}

/// The numbers of the picture that a model makes.
fn picture(folder: &Folder, model: &str, more: &[&str]) -> Tensor {
    generate(folder, model, more).done();
    let file = Checkpoint::open_file(&folder.path("pictures.safetensors")).unwrap();
    file.tensor("images").unwrap()
}

/// A folder with the model `sd1`, an autoencoder `other` in every form, and the model with it in its place, `meant`.
fn world() -> Folder {
    let folder = Folder::new();
    let base = model(&folder, "sd1");
    autoencoder(&folder.path("other"), 5, &json!({}));
    copy_folder(&base, &folder.path("meant"));
    fs::remove_dir_all(folder.path("meant/vae")).unwrap();
    copy_folder(&folder.path("other"), &folder.path("meant/vae"));
    let whole = export(&folder, "meant", &[]);
    fs::rename(whole, folder.path("whole.safetensors")).unwrap();
    let whole = folder.path("whole.safetensors");
    let prefix = "first_stage_model.";
    let bare = |name: &str| name.strip_prefix(prefix).map(str::to_owned);
    renamed(&whole, &folder.path("alone.safetensors"), bare);
    renamed(&whole, &folder.path("prefixed.safetensors"), |name| {
        name.starts_with(prefix).then(|| name.to_owned())
    });
    // A model as some sites have it, with the settings that its tensors do not say.
    let file = Checkpoint::open_file(&whole).unwrap();
    let tensors: Vec<_> = file
        .names()
        .filter(|name| !name.starts_with(prefix))
        .map(|name| (name.to_owned(), file.tensor(name).unwrap()))
        .collect();
    let header = file.metadata().clone().into_iter().collect();
    save(&folder.path("without.safetensors"), &tensors, &header).unwrap();
    fs::create_dir(folder.path("data")).unwrap();
    for name in ["a", "b"] {
        let image = photo(u32::from(name == "a"));
        image
            .save(folder.path(&format!("data/{name}.png")))
            .unwrap();
    }
    folder.lines(
        "data/pairs.jsonl",
        &[json!({"prompt": "a dog", "chosen": "a.png", "rejected": "b.png"})],
    );
    folder
}

/// The configuration of a run on pairs.
fn configure(folder: &Folder, kind: &str, output: &str, model: &str) {
    let text = format!(
        "[run]\noutput = \"{output}\"\ndevice = \"cpu\"\n[model]\n{model}\n[pairs]\ntrain = \"data/pairs.jsonl\"\n[adapter]\n\
         kind = \"{kind}\"\n[train]\nresolution = 16\nsteps = 2\nlearning_rate = 0.01\n[validation]\nevery = 0\npatience = 0\n"
    );
    fs::write(folder.path("pairs.toml"), text).unwrap();
}

#[test]
fn a_vae_in_every_form_takes_the_place_of_the_models_own() {
    let folder = world();
    let meant = picture(&folder, "meant", &[]);
    assert_ne!(meant, picture(&folder, "sd1", &[]));
    for form in [
        "other",
        "meant",
        "meant/vae",
        "whole.safetensors",
        "alone.safetensors",
        "prefixed.safetensors",
    ] {
        assert_eq!(meant, picture(&folder, "sd1", &["--vae", form]), "{form}");
        let path = folder.path(form);
        let source = VaeSource::find(&folder.path("sd1"), Some(&path)).unwrap();
        assert!(source.is_separate());
        let vae = source.open(None, Device::Cpu).unwrap();
        assert!((vae.scaling_factor() - 0.18215).abs() < 1e-12, "{form}");
    }
    // Only a file with nothing else leaves its family open.
    for (form, told) in [
        ("other", false),
        ("whole.safetensors", false),
        ("alone.safetensors", true),
        ("prefixed.safetensors", true),
    ] {
        let source = VaeSource::find(&folder.path("sd1"), Some(&folder.path(form))).unwrap();
        let said = source.note().is_some_and(|note| {
            note.contains("does not say which models") && note.contains("scaled by 0.18215")
        });
        assert_eq!(said, told, "{form}");
    }
    let row = &folder.rows("pictures/metadata.jsonl")[0];
    assert_eq!(row["vae"], "prefixed.safetensors");
    // Of a model without one it takes the empty place.
    let beside = ["--vae", "alone.safetensors"];
    assert_eq!(meant, picture(&folder, "without.safetensors", &beside));
    generate(&folder, "without.safetensors", &[])
        .refused("`model.vae` in a configuration, `--vae`");
}

#[test]
fn a_run_with_a_vae_of_its_own_keeps_it_through_everything() {
    let folder = world();
    let beside = "base = \"without.safetensors\"\nvae = \"alone.safetensors\"";
    for kind in ["lora", "full"] {
        // The same numbers as with the autoencoder among the model's parts.
        let mut losses = Vec::new();
        for (output, model) in [("inside", "base = \"meant\""), ("run", beside)] {
            let _ = fs::remove_dir_all(folder.path(output));
            configure(&folder, kind, output, model);
            let plan = folder
                .binary(&["plan", "pairs.toml", "--memory-only", "--json"])
                .done()
                .json();
            folder.binary(&["train", "pairs.toml", "--quiet"]).done();
            assert_eq!(
                plan["trained"],
                folder.manifest(output)["trainable_parameters"]
            );
            let loss = folder
                .steps(output)
                .iter()
                .map(|row| row["loss"].clone())
                .collect();
            losses.push((plan["memory"].clone(), loss, picture(&folder, output, &[])));
        }
        let [(inside, one, drawn), (outside, other, beside)]: [(Value, Vec<Value>, Tensor); 2] =
            losses.try_into().unwrap();
        assert_eq!((inside, one), (outside, other), "{kind}");
        assert_eq!(drawn, beside, "{kind}");
        let manifest = folder.manifest("run");
        assert_eq!(manifest["vae"], json!(folder.path("alone.safetensors")));
        assert_eq!(manifest["inputs"]["VAE"].as_str().unwrap().len(), 64);

        // What is exported brings it along.
        folder
            .binary(&[
                "export",
                "run",
                "--format",
                "single-file",
                "--out",
                "one",
                "--dtype",
                "f32",
                "--name",
                "tuned",
                "--force",
            ])
            .done();
        let read = picture(&folder, "one/tuned.safetensors", &[]);
        assert!(
            (read - &drawn).abs().max().double_value(&[]) < 1e-5,
            "{kind}"
        );
        // Another one over the run, where that is asked for.
        assert_ne!(drawn, picture(&folder, "run", &["--vae", "sd1"]));
        let at = picture(&folder, "run", &["--checkpoint", "2"]);
        assert!((at - &drawn).abs().max().double_value(&[]) < 1e-5, "{kind}");
    }

    // A run that goes on must find the same.
    folder
        .binary(&["train", "pairs.toml", "--set", "train.steps=4", "--quiet"])
        .refused("--resume");
    let resume = || {
        folder.binary(&[
            "train",
            "pairs.toml",
            "--set",
            "train.steps=4",
            "--resume",
            "--quiet",
        ])
    };
    let own = fs::read(folder.path("alone.safetensors")).unwrap();
    autoencoder(&folder.path("another"), 6, &json!({}));
    folder
        .binary(&[
            "export",
            "meant/unet",
            "--base",
            "meant",
            "--vae",
            "another",
            "--format",
            "single-file",
            "--name",
            "w",
            "--out",
            "w",
        ])
        .done();
    let bare = |name: &str| name.strip_prefix("first_stage_model.").map(str::to_owned);
    renamed(
        &folder.path("w/w.safetensors"),
        &folder.path("alone.safetensors"),
        bare,
    );
    resume().refused("was started with other files as its VAE");
    fs::write(folder.path("alone.safetensors"), own).unwrap();
    resume().done();
    fs::remove_file(folder.path("alone.safetensors")).unwrap();
    generate(&folder, "run", &[]).refused("the autoencoder (VAE) of `run` is not there");
}

#[test]
fn a_subjects_run_encodes_photos_and_draws_validations_by_the_vae_beside_the_model() {
    let folder = world();
    fs::create_dir(folder.path("photos")).unwrap();
    for number in 0..3 {
        let path = folder.path(&format!("photos/{number}.png"));
        photo(number).save(path).unwrap();
    }
    fs::write(folder.path("prompts.txt"), "a {token} {class}\n").unwrap();
    let encoder = golden("encoders/clip");
    let run = |output: &str, model: &str| {
        let text = format!(
            "[run]\noutput = \"{output}\"\ndevice = \"cpu\"\n[model]\n{model}\n[subject]\nphotos = \"photos\"\nclass = \"dog\"\n\
             [adapter]\nrank = 4\n[reward]\nencoder = {}\n[objective]\nkind = \"dreambooth\"\n\
             [train]\nresolution = 16\nsteps = 2\nlearning_rate = 0.01\n[validation]\nevery = 2\nimages_per_prompt = 1\nprompts = \"prompts.txt\"\n\
             patience = 0\n[sampler]\nsteps = 2\n",
            quoted(&encoder)
        );
        fs::write(folder.path("subject.toml"), text).unwrap();
        let ran = folder.binary(&["train", "subject.toml"]).done();
        let losses: Vec<Value> = folder
            .steps(output)
            .iter()
            .map(|row| row["loss"].clone())
            .collect();
        let rows = folder.rows(&format!("{output}/metrics.jsonl"));
        let rows = rows.iter().filter(|row| row["kind"] == "validation");
        let rewards: Vec<Value> = rows.map(|row| row["reward"].clone()).collect();
        assert_eq!((losses.len(), rewards.len()), (2, 2), "{output}");
        let drawn = fs::read(folder.path(output).join("samples/step-000000/000.png")).unwrap();
        (losses, rewards, drawn, ran.stderr)
    };
    let baked = run("baked", "base = \"sd1\"");
    let meant = run("meant-run", "base = \"meant\"");
    assert_ne!(baked.0, meant.0);
    assert_ne!(baked.2, meant.2);
    for (output, vae) in [("folder", "other"), ("file", "alone.safetensors")] {
        let beside = run(output, &format!("base = \"sd1\"\nvae = \"{vae}\""));
        assert_eq!(
            (&beside.0, &beside.1, &beside.2),
            (&meant.0, &meant.1, &meant.2),
            "{vae}"
        );
        let warned = beside.3.contains("does not say which models");
        assert_eq!(warned, output == "file", "{}", beside.3);
    }
    // Of the same latents, the picture before the first step is decoded by it: other pixels from the same U-Net.
    let manifest = folder.manifest("file");
    assert_eq!(manifest["vae"], json!(folder.path("alone.safetensors")));
}

#[test]
fn exports_as_folders_bring_the_vae_and_loras_refuse_one() {
    let folder = world();
    let meant = picture(&folder, "meant", &[]);
    for form in ["other", "alone.safetensors"] {
        let arguments = [
            "export", "sd1/unet", "--base", "sd1", "--vae", form, "--out", "folder", "--force",
        ];
        folder.binary(&arguments).done();
        assert_eq!(meant, picture(&folder, "folder", &[]), "{form}");
    }
    let lora = golden("lora/sd1_all_linear_peft.safetensors");
    let lora = [
        "export",
        lora.to_str().unwrap(),
        "--base",
        "sd1",
        "--vae",
        "other",
        "--out",
        "lora",
    ];
    folder
        .binary(&lora)
        .refused("`--vae` does nothing for a LoRA");
}

#[test]
fn a_vae_that_does_not_fit_is_refused_by_what_differs() {
    let folder = world();
    let refused = |vae: &str, what: &str| generate(&folder, "sd1", &["--vae", vae]).refused(what);
    for (name, changes, what) in [
        (
            "scale",
            json!({"scaling_factor": 0.13025}),
            "its latents are scaled by 0.13025",
        ),
        (
            "channels",
            json!({"latent_channels": 16}),
            "its latents have 16 channels",
        ),
        (
            "levels",
            json!({"block_out_channels": [32, 32, 64], "down_block_types": null, "up_block_types": null}),
            "a position of its latents stands for 4 pixels, but for 2",
        ),
    ] {
        autoencoder(&folder.path(name), 5, &changes);
        refused(name, what);
        // A plan says it too.
        let model = format!("base = \"sd1\"\nvae = \"{name}\"");
        configure(&folder, "lora", "run", &model);
        folder
            .binary(&["plan", "pairs.toml", "--memory-only"])
            .refused(what);
    }
    // Where the settings do not say the scale, they are of Stable Diffusion 1 and 2.
    model(&folder, "sdxl");
    autoencoder(&folder.path("old"), 5, &json!({"scaling_factor": null}));
    generate(&folder, "sdxl", &["--vae", "old"]).refused("made for by 0.13025");
    assert!(generate(&folder, "sdxl", &["--vae", "alone.safetensors"]).code == 0);

    let other = "an autoencoder (VAE) of Stable Diffusion 1, 2 or XL is needed here";
    refused("sd1/unet", other);
    refused("without.safetensors", other);
    refused(
        "other/diffusion_pytorch_model.safetensors",
        "given as its folder, `other`",
    );
    refused("nowhere", "no such file or folder");
    let flux = |name: &str| (!name.contains("quant_conv")).then(|| name.to_owned());
    renamed(
        &folder.path("alone.safetensors"),
        &folder.path("flux.safetensors"),
        flux,
    );
    refused("flux.safetensors", "of Flux, Stable Diffusion 3");
    generate(&folder, "alone.safetensors", &[]).refused("an autoencoder (VAE), not a model");
    configure(&folder, "lora", "run", "base = \"alone.safetensors\"");
    folder
        .binary(&["plan", "pairs.toml", "--memory-only"])
        .refused("an autoencoder (VAE), not a model");
}
