//! Inputs that are well-formed and whose numbers ask for too much: each is refused in words, none by a stack.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use preftune::Error;
use preftune::error::{hint_of_libtorch, libtorch_in_words};
use preftune::models::gguf::Gguf;
use preftune::models::lm::LanguageModel;
use preftune::models::weights::{Checkpoint, save};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::command::{Folder, Ran, quoted};
use crate::support::golden;
use crate::tiny_run::{Outcome, World, copy_folder};

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// A run failed with these words in one line and a hint.
#[track_caller]
fn failed(ran: &Ran, words: &str) {
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    let stack = ["internal error", "frame #", "Exception raised", "panicked"];
    assert!(
        !stack.iter().any(|word| ran.stderr.contains(word)),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.len() < 500, "{}", ran.stderr);
}

/// A GPT-2 of 32 positions with the golden tokenizer, in `folder`.
fn gpt2(folder: &Folder) -> PathBuf {
    let (template, model) = (folder.path("template"), folder.path("gpt2"));
    copy_folder(&golden("text/model"), &template);
    let config = json!({
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 263, "n_positions": 32, "n_embd": 16,
        "n_layer": 1, "n_head": 2, "eos_token_id": 2,
    });
    fs::write(template.join("config.json"), config.to_string()).unwrap();
    let fresh = LanguageModel::fresh(&template, 1, Device::Cpu, Kind::Float).unwrap();
    fresh
        .save(&model, Kind::Float, &std::collections::BTreeMap::new())
        .unwrap();
    model
}

#[test]
fn what_libtorch_says_becomes_a_line() {
    let panic = "called `Result::unwrap()` on an `Err` value: Torch(\"index -1 is out of bounds for dimension 1 with size 481\\nException raised from operator() at /pytorch/aten/src/x.cpp:1 (most recent call first):\\nframe #0: c10::Error::Error\\n\")";
    assert_eq!(
        libtorch_in_words(panic),
        "libtorch: index -1 is out of bounds for dimension 1 with size 481"
    );
    let quoted =
        "Torch(\"x\")` on an `Err` value: Torch(\"expected \\\"a\\\" here\\nframe #0: y\")";
    assert_eq!(libtorch_in_words(quoted), "libtorch: expected \"a\" here");
    for (said, words) in [
        (
            "Internal torch error: CPU out of memory: 134217728 bytes for a tensor\nException raised from x",
            "out of memory: a tensor of 128 MB",
        ),
        (
            "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate 17179869184 bytes. Error code 12",
            "out of memory: a tensor of 16.0 GB",
        ),
        (
            "on an `Err` value: Torch(\"CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 8 GiB\\nException raised from malloc\")",
            "out of memory on the GPU: a tensor of 2.50 GiB",
        ),
        (
            "on an `Err` value: Torch(\"CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.69 GiB of which 7.19 MiB is free. Including non-PyTorch memory, this process has 22.48 GiB memory in use.\\nException raised from malloc\")",
            "out of memory on the GPU: a tensor of 20.00 MiB, 7.19 MiB of 23.69 GiB are free",
        ),
        (
            "on an `Err` value: Torch(\"std::bad_alloc\")",
            "out of memory",
        ),
    ] {
        assert_eq!(libtorch_in_words(said), words);
        assert!(hint_of_libtorch(said).is_some());
    }
    assert_eq!(libtorch_in_words("a plain panic"), "a plain panic");
    assert!(hint_of_libtorch("a plain panic").is_none());
    let error = Tensor::from_slice(&[1i64, 2]).f_reshape([3]).unwrap_err();
    let error = Error::from(error);
    assert!(error.to_string().starts_with("libtorch: shape"), "{error}");
    assert!(!error.to_string().contains('\n') && std::error::Error::source(&error).is_none());
}

#[test]
fn numbers_that_overflow_are_named_and_not_drawn_from() {
    let folder = Folder::new();
    copy_folder(&golden("text/model"), &folder.path("model"));
    let path = folder.path("model/model.safetensors");
    let weights = Checkpoint::open_file(&path).unwrap();
    let tensors: Vec<(String, Tensor)> = weights
        .names()
        .map(|name| {
            let tensor = weights.tensor(name).unwrap().to_kind(Kind::Float);
            let factor = if name.contains("mlp") { 1e30 } else { 1.0 };
            (name.to_owned(), tensor * factor)
        })
        .collect();
    save(&path, &tensors, &std::collections::BTreeMap::new()).unwrap();
    let model = folder.path("model");
    let model = model.to_str().unwrap();
    for temperature in ["0", "1"] {
        let more = [
            "generate",
            "--model",
            model,
            "--prompt",
            "Say",
            "--raw",
            "--device",
            "cpu",
            "--temperature",
            temperature,
        ];
        failed(
            &folder.binary(&more),
            "the model's log-probs are not finite",
        );
    }
    fs::write(folder.path("text.txt"), "some words of text").unwrap();
    let perplexity = [
        "eval",
        "perplexity",
        "--model",
        model,
        "text.txt",
        "--device",
        "cpu",
    ];
    failed(
        &folder.binary(&perplexity),
        "the model's log-probs are not finite",
    );
}

#[test]
fn an_adapter_that_names_no_model_is_named() {
    let folder = Folder::new();
    let settings = folder.path("ad/adapter_config.json");
    copy_folder(&golden("lm/llama_adapter"), &folder.path("ad"));
    let refused = "`base_model_name_or_path` names no model";
    for change in ["null", "missing", "empty", "number"] {
        edit(&settings, |settings| {
            let settings = settings.as_object_mut().unwrap();
            let key = "base_model_name_or_path".to_owned();
            match change {
                "null" => settings.insert(key, Value::Null),
                "missing" => settings.remove(&key),
                "empty" => settings.insert(key, json!("")),
                _ => settings.insert(key, json!(7)),
            };
        });
        folder
            .binary(&[
                "generate", "--model", "ad", "--prompt", "x", "--device", "cpu",
            ])
            .refused(refused);
        folder
            .binary(&["export", "ad", "--out", "out"])
            .refused(refused);
    }
}

#[test]
fn sizes_of_an_image_processor_are_bounded() {
    let folder = Folder::new();
    copy_folder(&golden("encoders/clip"), &folder.path("clip"));
    fs::create_dir(folder.path("photos")).unwrap();
    let image = image::RgbImage::from_pixel(40, 20, image::Rgb([1, 2, 3]));
    image.save(folder.path("photos/a.png")).unwrap();
    let settings = folder.path("clip/preprocessor_config.json");
    let before = fs::read(&settings).unwrap();
    let score = |flag: &str, encoder: &str| {
        let clip = golden("encoders/clip");
        let mut arguments = vec![
            "score",
            "--references",
            "photos",
            "--images",
            "photos",
            "--prompt",
            "x",
            "--device",
            "cpu",
        ];
        if flag == "--dino" {
            arguments.extend(["--encoder", clip.to_str().unwrap()]);
        }
        arguments.extend([flag, encoder]);
        folder.binary(&arguments)
    };
    let huge = 18_446_744_073_709_551_615_u64;
    for (key, size) in [
        ("size", json!({"height": huge, "width": 40})),
        ("size", json!({"shortest_edge": 4_294_967_296_u64})),
        ("crop_size", json!(100_000)),
        ("crop_size", json!({"height": 20, "width": 5000})),
    ] {
        fs::write(&settings, &before).unwrap();
        edit(&settings, |settings| settings[key] = size.clone());
        score("--encoder", "clip").refused("pixels, but at most 4096 a side are made");
    }
    copy_folder(&golden("encoders/dino"), &folder.path("dino"));
    edit(&folder.path("dino/preprocessor_config.json"), |settings| {
        settings["size"] = json!(huge);
    });
    score("--dino", "dino").refused("pixels, but at most 4096 a side are made");
}

#[test]
fn a_file_that_is_cut_while_it_is_read_is_named() {
    let folder = Folder::new();
    let path = folder.path("a.safetensors");
    let tensors = ["a", "b"].map(|name| {
        (
            name.to_owned(),
            Tensor::ones([600_000], (Kind::Float, Device::Cpu)),
        )
    });
    save(&path, &tensors, &std::collections::BTreeMap::new()).unwrap();
    let file = Checkpoint::open_file(&path).unwrap();
    let whole = file.sha256().unwrap();
    assert_eq!(file.tensor("b").unwrap(), tensors[1].1);
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(3_000_000)
        .unwrap();
    assert_eq!(file.tensor("a").unwrap(), tensors[0].1);
    for error in [file.tensor("b").unwrap_err(), file.sha256().unwrap_err()] {
        assert_eq!(error.exit_code(), 1);
        let text = error.to_string();
        assert!(
            text.contains("a.safetensors") && text.contains("has become shorter"),
            "{text}"
        );
    }
    assert_eq!(whole.len(), 64);
}

/// The golden SD 1 in `model` with `more` input channels of its U-Net.
fn with_channels(world: &World, more: i64) {
    copy_folder(&golden("diffusion/sd1"), &world.path("model"));
    edit(&world.path("model/unet/config.json"), |config| {
        config["in_channels"] = json!(4 + more);
    });
    let path = world.path("model/unet/diffusion_pytorch_model.safetensors");
    let weights = Checkpoint::open_file(&path).unwrap();
    let tensors: Vec<(String, Tensor)> = weights
        .names()
        .map(|name| {
            let mut tensor = weights.tensor(name).unwrap();
            if name == "conv_in.weight" {
                let size = tensor.size();
                let extra = Tensor::zeros(
                    [size[0], more, size[2], size[3]],
                    (tensor.kind(), Device::Cpu),
                );
                tensor = Tensor::cat(&[tensor, extra], 1);
            }
            (name.to_owned(), tensor)
        })
        .collect();
    save(&path, &tensors, &std::collections::BTreeMap::new()).unwrap();
}

#[test]
fn a_model_that_reads_more_than_latents_is_refused_when_it_is_loaded() {
    for (more, kind) in [(5, "an inpainting model"), (4, "InstructPix2Pix")] {
        let world = World::new();
        with_channels(&world, more);
        let problem = format!(
            "the U-Net reads {} channels and predicts 4, but the autoencoder's latents have 4",
            4 + more
        );
        let outcome = world
            .train(&["model.base=model"])
            .failed(2, &[&problem, kind]);
        assert!(!outcome.stderr.contains("negatives"), "{}", outcome.stderr);
        assert!(
            !world.path("run").exists(),
            "a refused run leaves no folder"
        );
        world.generate("model", &[]).failed(2, &[&problem, kind]);
    }
}

#[test]
fn texts_beyond_learned_positions_are_named_with_their_line() {
    let folder = Folder::new();
    let model = gpt2(&folder);
    let long = "word ".repeat(30);
    folder.lines(
        "long.jsonl",
        &[
            json!({"prompt": "Say", "chosen": " hi", "rejected": " no"}),
            json!({"prompt": "Say", "chosen": format!(" {long}"), "rejected": " no"}),
        ],
    );
    let config = |section: &str| {
        format!(
            "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[data]\ntrain = \"long.jsonl\"\nchat = \"raw\"\n{section}\n\
             [train]\nsteps = 1\nbatch = 1\n[validation]\nevery = 0\npatience = 0\n",
            quoted(&model)
        )
    };
    fs::write(
        folder.path("text.toml"),
        config("[objective]\nkind = \"dpo\""),
    )
    .unwrap();
    fs::write(
        folder.path("reward.toml"),
        config("[reward_model]\ntask = \"bradley_terry\""),
    )
    .unwrap();
    let problem = "but the model reads at most 32 (`max_position_embeddings`)";
    for arguments in [
        ["train", "text.toml"],
        ["plan", "text.toml"],
        ["train", "reward.toml"],
    ] {
        let ran = folder.binary(&arguments);
        ran.refused(problem);
        ran.refused("`long.jsonl`, line 2");
        assert!(
            !folder.path("run").exists(),
            "a refused run leaves no folder"
        );
    }
    folder
        .configured("train", "text.toml", &["data.max_length=32"])
        .done();
    fs::write(folder.path("long.txt"), &long).unwrap();
    let model = model.to_str().unwrap();
    let perplexity = [
        "eval",
        "perplexity",
        "--model",
        model,
        "long.txt",
        "--device",
        "cpu",
    ];
    folder.binary(&perplexity).refused(problem);
    folder
        .binary(&[&perplexity[..], &["--window", "32"]].concat())
        .done();
}

#[test]
fn texts_beyond_rotations_are_warned_of_and_prompts_refused() {
    let folder = Folder::new();
    let model = golden("text/model");
    let long = "word ".repeat(100);
    folder.lines(
        "long.jsonl",
        &[json!({"prompt": "Say", "chosen": format!(" {long}"), "rejected": " no"})],
    );
    let config = format!(
        "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[data]\ntrain = \"long.jsonl\"\n\
         [objective]\nkind = \"dpo\"\n[train]\nsteps = 1\nbatch = 1\n[validation]\nevery = 0\npatience = 0\n",
        quoted(&model)
    );
    fs::write(folder.path("text.toml"), config).unwrap();
    let ran = folder
        .binary(&["train", "text.toml", "--set", "data.max_length=2000"])
        .done();
    assert!(
        ran.stderr
            .contains("warning: 1 examples are longer than the texts"),
        "{}",
        ran.stderr
    );
    fs::write(folder.path("prompt.txt"), "word ".repeat(100_000)).unwrap();
    let generate = [
        "generate",
        "--model",
        model.to_str().unwrap(),
        "--prompts",
        "prompt.txt",
        "--raw",
        "--device",
        "cpu",
    ];
    folder
        .binary(&generate)
        .refused("but the model was made for at most 256");
}

#[test]
fn metadata_of_a_gguf_file_take_no_more_memory_than_a_vocabulary() {
    let folder = Folder::new();
    let path = folder.path("a.gguf");
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.push(b'k');
    bytes.extend(9_u32.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(20_000_000_u64.to_le_bytes());
    bytes.resize(bytes.len() + 20_000_000, 0);
    fs::write(&path, bytes).unwrap();
    let error = Gguf::open(&path).err().unwrap().to_string();
    assert!(
        error.contains("entries in the lists of its metadata"),
        "{error}"
    );
}

#[test]
fn a_damaged_checkpoint_is_named_with_what_to_remove() {
    let world = World::new();
    world.train(&["train.steps=4"]).succeeded();
    let newest = world.path("run/checkpoints/step-000004");
    edit(&world.path("run/manifest.json"), |manifest| {
        manifest["status"] = json!("interrupted");
    });
    let hint = "remove `run/checkpoints/step-000004` to go on from the one before";
    let moments = newest.join("optimizer.safetensors");
    let before = fs::read(&moments).unwrap();
    {
        let stored = Checkpoint::open_file(&moments).unwrap();
        let tensors: Vec<(String, Tensor)> = stored
            .names()
            .enumerate()
            .map(|(at, name)| {
                let tensor = stored.tensor(name).unwrap();
                (
                    name.to_owned(),
                    if at == 0 {
                        tensor.unsqueeze(0).repeat([2, 1, 1])
                    } else {
                        tensor
                    },
                )
            })
            .collect();
        save(&moments, &tensors, &std::collections::BTreeMap::new()).unwrap();
    }
    world.resume(&["train.steps=4"]).failed(
        2,
        &[
            "optimizer.safetensors",
            "has shape [2, ",
            "but the run trains",
            hint,
        ],
    );
    fs::write(&moments, &before[..before.len() - 100]).unwrap();
    world
        .resume(&["train.steps=4"])
        .failed(2, &["optimizer.safetensors", hint]);
    fs::remove_file(&moments).unwrap();
    world
        .resume(&["train.steps=4"])
        .failed(2, &["optimizer.safetensors", hint]);
    fs::write(&moments, &before).unwrap();
    fs::write(newest.join("progress.json"), "{").unwrap();
    world
        .resume(&["train.steps=4"])
        .failed(2, &["progress.json", hint]);
    fs::remove_dir_all(&newest).unwrap();
    world.resume(&["train.steps=4"]).succeeded();
}

#[test]
fn an_output_folder_that_goes_away_ends_the_run_and_is_not_made_again() {
    for (set, renamed) in [
        (
            vec![
                "train.steps=2000",
                "validation.every=0",
                "checkpoint.every=1",
            ],
            false,
        ),
        (
            vec![
                "train.steps=2000",
                "validation.every=0",
                "checkpoint.every=1",
            ],
            true,
        ),
        (vec!["negatives.per_prompt=500", "sampler.batch=1"], false),
    ] {
        let world = World::new();
        let negatives = set.len() == 2;
        let mut child = world.training(&set, &[]).spawn().unwrap();
        let ready = if negatives {
            "run/negatives/0003.png"
        } else {
            "run/checkpoints/step-000002"
        };
        while !world.path(ready).exists() {
            assert!(child.try_wait().unwrap().is_none(), "ended before {ready}");
            std::thread::sleep(Duration::from_millis(2));
        }
        // One rename: a folder that is being written to is not removed in one go.
        fs::rename(world.path("run"), world.path("elsewhere")).unwrap();
        if !renamed {
            let _ = fs::remove_dir_all(world.path("elsewhere"));
        }
        Outcome::of(child).failed(1, &["`run`: is not there any more"]);
        assert!(!world.path("run/negatives").exists() && !world.path("run/manifest.json").exists());
    }
}

#[test]
fn a_gguf_file_is_a_base_of_rounds_and_of_reward_models() {
    let folder = Folder::new();
    let model = golden("gguf_tokenizers/model.gguf");
    let rows: Vec<Value> = (0..4)
        .map(|at| json!({"prompt": format!("a {at}"), "chosen": "b c", "rejected": "d"}))
        .collect();
    folder.lines("rows.jsonl", &rows);
    let config = format!(
        "[run]\noutput = \"reward\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[data]\ntrain = \"rows.jsonl\"\n\
         [reward_model]\ntask = \"bradley_terry\"\n[train]\nsteps = 1\nbatch = 2\n[validation]\nevery = 0\npatience = 0\n",
        quoted(&model)
    );
    fs::write(folder.path("reward.toml"), config).unwrap();
    let ran = folder.configured("train", "reward.toml", &[]);
    assert!(!ran.stderr.contains("no such folder"), "{}", ran.stderr);
    ran.done();
    folder.lines(
        "prompts.jsonl",
        &[
            json!({"prompt": "a"}),
            json!({"prompt": "b"}),
            json!({"prompt": "c"}),
        ],
    );
    let config = format!(
        "[run]\noutput = \"rounds\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[data]\nprompts = \"prompts.jsonl\"\n\
         [rounds]\ncount = 1\n[generate]\nsamples = 4\nmax_tokens = 4\nraw = true\n[scorer]\nkind = \"length\"\ntarget = 3\n\
         [objective]\nkind = \"dpo\"\n[train]\nbatch = 2\n",
        quoted(&model)
    );
    fs::write(folder.path("rounds.toml"), config).unwrap();
    let ran = folder.configured("iterate", "rounds.toml", &[]);
    assert!(!ran.stderr.contains("no such folder"), "{}", ran.stderr);
    ran.done();
}
