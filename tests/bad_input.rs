//! What a user gets wrong, through the binary: each with its message and exit code, never a panic, and nothing
//! half-written left behind.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use preftune::models::weights::{Checkpoint, save};
use tch::Tensor;

use crate::support::golden;
use crate::tiny_run::{Outcome, World, copy_folder};

/// A run folder is not there, or holds nothing that keeps the next start out.
#[track_caller]
fn assert_nothing_made(world: &World) {
    if world.path("run").exists() {
        let files: Vec<String> = world.files("run").into_keys().collect();
        assert_eq!(files, [".lock", "config.toml"]);
    }
    // The same command with the mistake mended, here by leaving it out.
    world.train(&["train.steps=1"]).succeeded();
}

/// The damage, done to a fresh world, makes `train` with these settings fail so.
#[track_caller]
fn refused(damage: impl Fn(&World), set: &[&str], words: &[&str]) {
    let world = World::new();
    damage(&world);
    world.train(set).failed(2, words);
}

fn undamaged(_: &World) {}

#[test]
fn a_configuration_that_cannot_be_read_is_refused() {
    let world = World::new();
    let train = |config: &str| world.run(&["train", config]);
    train("nowhere.toml").failed(2, &["cannot read `nowhere.toml`", "No such file"]);
    train("photos").failed(2, &["cannot read `photos`", "directory"]);
    train("photos/0.png").failed(2, &["cannot read `photos/0.png`", "UTF-8"]);
    world.write("broken.toml", "[run]\noutput = \"run\"\nseed = = 3\n");
    train("broken.toml").failed(2, &["`broken.toml`, line 3: not valid TOML"]);
    world.write("empty.toml", "");
    train("empty.toml").failed(
        2,
        &[
            "`run.output` is missing",
            "`model.base` is missing",
            "`subject.photos` is missing",
        ],
    );
}

#[test]
fn an_unknown_key_names_the_nearest_one() {
    for (set, words) in [
        (
            "train.stepps=3",
            "unknown key `train.stepps`; did you mean `train.steps`?",
        ),
        ("objective.betta=1", "did you mean `objective.beta`?"),
        (
            "trian.steps=3",
            "unknown key `trian`; did you mean `train`?",
        ),
        ("train.lora_rank=3", "did you mean `adapter.rank`?"),
    ] {
        refused(undamaged, &[set], &[words]);
    }
}

#[test]
fn values_out_of_range_are_all_listed_at_once() {
    refused(
        undamaged,
        &[
            "objective.beta=-1",
            "objective.lambda=1.5",
            "validation.lambda=-0.1",
            "train.learning_rate=nan",
            "train.resolution=20",
            "adapter.rank=0",
            "sampler.guidance=0.5",
        ],
        &[
            "`objective.beta` must be 0 or more",
            "`objective.lambda` must be between 0 and 1",
            "`validation.lambda` must be between 0 and 1",
            "`train.learning_rate` must be above 0",
            "`train.resolution` must be a multiple of 8",
            "`adapter.rank` must be between 1 and 4096",
            "`sampler.guidance` must be 1 or more",
        ],
    );
    for (set, words) in [
        (
            "train.learning_rate=inf",
            "`train.learning_rate` must be above 0",
        ),
        ("train.steps=many", "`train.steps`: invalid type"),
        ("run.seed=-1", "`run.seed`: invalid value"),
        (
            "objective.kind=ppo",
            "`objective.kind`: unknown variant `ppo`",
        ),
        (
            "train",
            "`--set train` is not of the form `section.key=value`",
        ),
        ("train=3", "`train` is a section"),
    ] {
        refused(undamaged, &[set], &[words]);
    }
}

#[test]
fn photos_that_cannot_be_used_are_named() {
    refused(
        |world| fs::remove_dir_all(world.path("photos")).unwrap(),
        &[],
        &["cannot read `photos`: No such file"],
    );
    refused(
        |world| {
            fs::remove_dir_all(world.path("photos")).unwrap();
            fs::create_dir(world.path("photos")).unwrap();
        },
        &[],
        &["`photos`: no images in this folder"],
    );
    // Nothing is left when what is no photo is left out.
    refused(
        |world| {
            fs::remove_dir_all(world.path("photos")).unwrap();
            fs::create_dir(world.path("photos")).unwrap();
            world.write("photos/notes.txt", "three photos, to be taken");
            world.write("photos/._0.jpg", "left by a Mac");
        },
        &[],
        &["`photos`: no images in this folder"],
    );
    refused(
        |world| {
            let bytes = fs::read(world.path("photos/1.png")).unwrap();
            fs::write(world.path("photos/1.png"), &bytes[..bytes.len() / 2]).unwrap();
        },
        &[],
        &[
            "`photos/1.png`: a truncated image",
            "copy or download the file again",
        ],
    );
    refused(
        |world| world.write("photos/9.jpg", "no photo"),
        &[],
        &["`photos/9.jpg`: text, not an image"],
    );
    refused(
        |world| {
            // Signature, length and name of the first chunk, then width and height.
            let mut header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
            header.extend([20_000u32.to_be_bytes(), 20_000u32.to_be_bytes()].concat());
            fs::write(world.path("photos/huge.png"), header).unwrap();
        },
        &[],
        &["`photos/huge.png`: an image of 20000 x 20000 pixels"],
    );
    let world = World::new();
    world
        .train(&["subject.photos=nowhere"])
        .failed(2, &["cannot read `nowhere`"]);
    assert!(!world.path("run").exists());
}

#[test]
fn prompts_are_read_before_anything_is_made() {
    for (key, name) in [
        ("negatives.prompts", "train"),
        ("validation.prompts", "validation"),
    ] {
        let world = World::new();
        world
            .train(&[&format!("{key}=nowhere.txt")])
            .failed(2, &["cannot read `nowhere.txt`"]);
        world.write("odd.txt", "a {token} {class}\na {colour} {class}\n");
        world
            .train(&[&format!("{key}=odd.txt")])
            .failed(2, &["`odd.txt`, line 2: unknown placeholder `{colour}`"]);
        world.write("none.txt", "# none\n\n");
        world
            .train(&[&format!("{key}=none.txt")])
            .failed(2, &["`none.txt`: no prompts in this file"]);
        assert!(!world.path("run").exists(), "{name}");
    }
}

/// A copy of the tiny model in `model`, which the run is told to use.
const OWN_MODEL: &str = "model.base=model";

fn with_model(damage: impl Fn(&Path)) -> impl Fn(&World) {
    move |world| {
        copy_folder(&golden("diffusion/sd1"), &world.path("model"));
        damage(&world.path("model"));
    }
}

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// Rewrites the U-Net's tensors.
fn change_tensors(model: &Path, change: impl Fn(&mut Vec<(String, Tensor)>)) {
    let file = model.join(UNET);
    let checkpoint = Checkpoint::open_file(&file).unwrap();
    let read = |name: &str| (name.to_owned(), checkpoint.tensor(name).unwrap());
    let mut tensors: Vec<_> = checkpoint.names().map(read).collect();
    change(&mut tensors);
    save(&file, &tensors, &std::collections::BTreeMap::new()).unwrap();
}

#[test]
fn weights_that_cannot_be_used_are_named() {
    refused(
        undamaged,
        &["model.base=nowhere"],
        &["`nowhere`: no such file or folder"],
    );
    refused(
        undamaged,
        &["reward.encoder=nowhere"],
        &["`nowhere`: no such file or folder"],
    );
    let unet = |what: &str| format!("`model/{UNET}`{what}");
    refused(
        with_model(|model| {
            let bytes = fs::read(model.join(UNET)).unwrap();
            fs::write(model.join(UNET), &bytes[..bytes.len() - 1]).unwrap();
        }),
        &[OWN_MODEL],
        &[&unet(": not a readable safetensors file"), "fetch it again"],
    );
    refused(
        with_model(|model| {
            let mut bytes = fs::read(model.join(UNET)).unwrap();
            let longer = bytes.len() as u64 + 1;
            bytes[..8].copy_from_slice(&longer.to_le_bytes());
            fs::write(model.join(UNET), bytes).unwrap();
        }),
        &[OWN_MODEL],
        &[&unet(": not a readable safetensors file")],
    );
    refused(
        with_model(|model| {
            change_tensors(model, |tensors| {
                tensors.retain(|(name, _)| name != "conv_in.bias");
            });
        }),
        &[OWN_MODEL],
        &[&unet(", tensor `conv_in.bias`: missing")],
    );
    refused(
        with_model(|model| {
            change_tensors(model, |tensors| {
                tensors[3].1 = Tensor::cat(&[&tensors[3].1, &tensors[3].1], 0);
            });
        }),
        &[OWN_MODEL],
        &[
            &unet(", tensor `"),
            "has shape [",
            "but the configuration asks for [",
        ],
    );
    refused(
        with_model(|model| {
            change_tensors(model, |tensors| {
                let _ = tensors[3].1.view(-1).get(0).fill_(f64::NAN);
            });
        }),
        &[OWN_MODEL],
        &[&unet(", tensor `"), "holds NaN or infinite values"],
    );
    refused(
        with_model(|model| {
            fs::remove_file(model.join(UNET)).unwrap();
            let pickle = model.join(UNET).with_extension("bin");
            fs::write(pickle, b"\x80\x02cos\nsystem\nU\x04true\x85R.").unwrap();
        }),
        &[OWN_MODEL],
        &[
            "diffusion_pytorch_model.bin`: cannot be read: the pickle in it names `os.system`",
            "safetensors",
        ],
    );
}

#[test]
fn configurations_of_models_that_cannot_be_are_named() {
    refused(
        with_model(|model| fs::write(model.join("vae/config.json"), b"\xff\xfe").unwrap()),
        &[OWN_MODEL],
        &["cannot read `model/vae/config.json`", "UTF-8"],
    );
    refused(
        with_model(|model| {
            let file = model.join("vae/config.json");
            let text = fs::read_to_string(&file).unwrap();
            let wide = text.replace(
                "\"layers_per_block\": 1",
                "\"layers_per_block\": 1000000000",
            );
            assert!(wide != text);
            fs::write(file, wide).unwrap();
        }),
        &[OWN_MODEL],
        &["`model/vae/config.json`", "`layers_per_block` 1000000000"],
    );
    refused(
        with_model(|model| {
            let file = model.join("text_encoder/config.json");
            let text = fs::read_to_string(&file).unwrap();
            let none = text.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 0");
            assert!(none != text);
            fs::write(file, none).unwrap();
        }),
        &[OWN_MODEL],
        &["0 layers make no transformer", "`num_hidden_layers`"],
    );
}

#[test]
fn every_file_of_a_model_may_be_missing_or_cut_without_a_panic() {
    let base = golden("diffusion/sd1");
    let names: Vec<String> = crate::tiny_run::contents(&base).into_keys().collect();
    let world = World::new();
    for name in names {
        for cut in [true, false] {
            let model = world.path("model");
            copy_folder(&base, &model);
            let file = model.join(&name);
            if cut {
                let bytes = fs::read(&file).unwrap();
                fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
            } else {
                fs::remove_file(&file).unwrap();
            }
            let outcome = world.generate("model", &["--quiet"]);
            // What a tokenizer's special tokens are called can be guessed, and a merge list has no end.
            let optional = name.starts_with("tokenizer/") && (!cut || name.ends_with("merges.txt"));
            if outcome.code != Some(0) || !optional {
                outcome.failed(2, &["model"]);
            }
        }
    }
}

#[test]
fn a_start_that_fails_does_not_block_its_folder() {
    for mistake in [
        "model.base=nowhere",
        "reward.encoder=nowhere",
        "subject.class=' '",
    ] {
        let world = World::new();
        world.train(&[mistake]).failed(2, &[]);
        assert_nothing_made(&world);
    }
    let world = World::new();
    world.train(&["run.output=config.toml"]).failed(
        2,
        &["`config.toml`: a file, where the run's folder is to be"],
    );
    // A folder with a configuration of the user's own is not taken over.
    fs::create_dir(world.path("mine")).unwrap();
    world.write("mine/config.toml", "# my notes\n[train]\nsteps = 9\n");
    world.train(&["run.output=mine"]).failed(
        2,
        &[
            "another configuration",
            "`train.steps` is 9 there and 6 here",
        ],
    );
    assert!(world.read("mine/config.toml").starts_with("# my notes"));
}

#[test]
fn a_folder_that_is_taken_is_left_alone() {
    let world = World::new();
    world
        .train(&["run.output=photos"])
        .failed(2, &["`photos`: exists and is not a run folder"]);
    assert_eq!(world.files("photos").len(), 3);

    world.train(&["train.steps=2"]).succeeded();
    let before = world.files("run");
    world.train(&["train.steps=2"]).failed(
        2,
        &[
            "`run`: holds a run of this configuration already",
            "--resume",
        ],
    );
    world
        .resume(&["train.steps=1", "adapter.rank=2", "checkpoint.keep=7"])
        .failed(
            2,
            &[
                "`run`: holds a run with another configuration: `adapter.rank` is 4 there and 2 here; \
                 `train.steps` is 2 there and 1 here",
            ],
        );
    assert!(before == world.files("run"));
}

#[test]
fn a_second_process_keeps_out_of_a_run() {
    let world = World::new();
    let long = ["train.steps=100000", "validation.every=0"];
    let mut first = world.training(&long, &["--quiet"]).spawn().unwrap();
    let begin = Instant::now();
    while !world.path("run/metrics.jsonl").exists() {
        assert!(first.try_wait().unwrap().is_none() && begin.elapsed().as_secs() < 60);
        sleep(Duration::from_millis(5));
    }
    let second = world.resume(&long);
    first.kill().unwrap();
    first.wait().unwrap();
    second.failed(2, &["`run`: another process is working in this folder"]);
}

#[test]
fn a_device_that_is_not_there_is_refused_before_anything_is_made() {
    let world = World::new();
    let train = |device: &str| {
        let flags = ["--device", device];
        Outcome::of(world.training(&[], &flags).spawn().unwrap())
    };
    train("gpu").failed(
        2,
        &[
            "device `gpu`",
            "known are `auto`, `cpu`, `cuda` and `cuda:N`",
        ],
    );
    train("cuda:x").failed(2, &["device `cuda:x`", "not a device"]);
    train("cuda:99").failed(2, &["device `cuda:99` is not available"]);
    if Path::new("/dev/nvidiactl").exists() {
        println!("not run: `--device cuda` is available here");
    } else {
        train("cuda").failed(2, &["device `cuda` is not available", "--device cpu"]);
    }
    assert!(!world.path("run").exists());
}

#[test]
fn a_run_that_diverges_keeps_its_last_checkpoint() {
    let world = World::new();
    let set = [
        "train.learning_rate=1e6",
        "checkpoint.every=1",
        "train.steps=50",
    ];
    world.train(&set).failed(
        1,
        &["training diverged at step ", "lower `train.learning_rate`"],
    );
    let manifest = world.manifest("run");
    assert_eq!(manifest["status"], "failed");
    let step = manifest["steps"].as_u64().unwrap();
    assert!((2..50).contains(&step), "{step}");
    let last = format!("run/checkpoints/step-{:06}", step - 1);
    for file in ["weights", "optimizer"] {
        let tensors = world.tensors(&format!("{last}/{file}.safetensors"));
        for name in tensors.names() {
            // Reading refuses what is not finite.
            drop(tensors.tensor(name).unwrap());
        }
    }
    assert!(
        world
            .files("run")
            .keys()
            .all(|name| !name.contains("partial"))
    );
    world.generate("run", &[]).succeeded();

    // The loss of the only step is finite, the weights after it are not.
    world
        .train(&[
            "train.learning_rate=1e39",
            "train.steps=1",
            "validation.every=0",
            "run.output=once",
        ])
        .failed(1, &["training diverged at step 1: a weight is not finite"]);
    assert!(!world.path("once/best").exists());
    assert!(!world.path("once/checkpoints").exists());
}

/// Checkpoints of all weights: 200 KB of weights and 400 KB of moments.
const LARGE: [&str; 3] = ["adapter.kind=full", "checkpoint.every=1", "train.steps=3"];

#[test]
fn a_file_that_cannot_be_written_leaves_no_part_of_itself() {
    let world = World::new();
    world
        .train(&[&LARGE[..], &["run.output=whole"]].concat())
        .succeeded();
    // Beyond 300 KB a write fails as on a full disk.
    let script = "trap '' XFSZ; ulimit -f 300; exec \"$0\" \"$@\"";
    let mut limited = Command::new("bash");
    let training = world.training(&LARGE, &[]);
    limited
        .args(["-c", script])
        .arg(training.get_program())
        .args(training.get_args())
        .current_dir(world.path(""))
        .env("OMP_NUM_THREADS", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Outcome::of(limited.spawn().unwrap()).failed(
        1,
        &["cannot write `run/checkpoints/step-000001.partial/optimizer.safetensors`: File too large"],
    );
    assert_eq!(world.manifest("run")["status"], "failed");
    let files = world.files("run");
    assert!(
        files
            .keys()
            .all(|name| !name.contains("checkpoints/") && !name.contains("partial")),
        "{:?}",
        files.keys()
    );
    world.generate("run", &[]).succeeded();
    world.resume(&LARGE).succeeded();
    assert_eq!(world.metrics("run"), world.metrics("whole"));
}

#[test]
fn on_a_full_disk_the_old_checkpoint_stays_and_the_run_goes_on_when_there_is_room() {
    let flags = ["-m", "-rm"].into_iter().find(|flags| {
        let script = "mkdir -p /tmp && mount -t tmpfs none /tmp";
        let tried = Command::new("unshare")
            .args([flags, "sh", "-c", script])
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    });
    let Some(flags) = flags else {
        println!("not run: no small disk can be mounted here");
        return;
    };
    let world = World::new();
    world
        .train(&[&LARGE[..], &["run.output=whole"]].concat())
        .succeeded();
    fs::create_dir(world.path("disk")).unwrap();
    // The folder exists only while the script runs.
    let script = "mount -t tmpfs -o size=1200k none disk || exit 90
        \"$0\" \"$@\" 2>&1
        echo \"ended with $?\"
        cp -r disk/run full
        mount -o remount,size=9m disk || exit 91
        \"$0\" \"$@\" --resume --quiet || exit 92
        cp -r disk/run run";
    let training = world.training(&[&LARGE[..], &["run.output=disk/run"]].concat(), &[]);
    let output = Command::new("unshare")
        .args([flags, "sh", "-c", script])
        .arg(training.get_program())
        .args(training.get_args())
        .current_dir(world.path(""))
        .env("OMP_NUM_THREADS", "1")
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{:?}: {stdout}", output.status);
    assert!(stdout.contains("No space left on device"), "{stdout}");
    assert!(stdout.contains("ended with 1\n"), "{stdout}");
    assert!(!stdout.contains("internal error"), "{stdout}");
    let files = world.files("full");
    let names: Vec<&String> = files.keys().collect();
    assert!(
        files.contains_key("checkpoints/step-000001/optimizer.safetensors"),
        "{stdout} {names:?}"
    );
    assert!(
        files
            .keys()
            .all(|name| !name.contains("checkpoints/step-000002") && !name.contains("partial")),
        "{:?}",
        files.keys()
    );
    assert_eq!(world.metrics("run"), world.metrics("whole"));
    let weights = "checkpoints/step-000003/weights.safetensors";
    assert!(world.files("run")[weights] == world.files("whole")[weights]);
}

#[test]
fn a_closed_pipe_ends_the_output_and_not_the_work() {
    let world = World::new();
    let arguments = [
        "generate", "--model", "model", "--prompt", "a dog", "--out", "out", "--steps", "1",
        "--width", "16", "--height", "16", "--device", "cpu",
    ];
    copy_folder(&golden("diffusion/sd1"), &world.path("model"));
    let mut child = world.command(&arguments).spawn().unwrap();
    drop(child.stdout.take());
    let outcome = Outcome::of(child).succeeded();
    assert!(!outcome.stderr.contains("error"), "{}", outcome.stderr);
    assert_eq!(world.files("out").len(), 2);

    // A run whose terminal has gone is still made to its end.
    let mut child = world.training(&["train.steps=2"], &[]).spawn().unwrap();
    drop(child.stderr.take());
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(world.manifest("run")["status"], "finished");
    // And an error keeps its exit code.
    let mut child = world.training(&["train.steps=0"], &[]).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(2));
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        println!("not run: there is no /dev/full");
        return;
    };
    let world = World::new();
    let child = world
        .command(&["check", "config.toml"])
        .stdout(full)
        .spawn()
        .unwrap();
    Outcome::of(child).failed(1, &["cannot write `standard output`: No space left"]);
}
