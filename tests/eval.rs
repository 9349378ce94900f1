//! `preftune eval dreambench` through the binary, on runs that `preftune train` makes of a tiny model.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use image::{Rgb, RgbImage};
use preftune::data::photo;
use preftune::data::png;
use preftune::models::encoders::{DualEncoder, ImageEncoder};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::support::golden;

const LIST: &str = "subject_name,class\ncan,can\ndog,dog\ndog2,dog\n\nPrompts\n\nObject Prompts\n\
    'a {0} {1} in the jungle'.format(unique_token, class_token),\n\
    'a red {0} {1}'.format(unique_token, class_token)\n\n\
    Live Subject Prompts\n'a {0} {1} in the snow'.format(unique_token, class_token),\n\
    'a {0} {1} wearing a red hat'.format(unique_token, class_token)\n";

/// Photos of a subject: waves whose direction depends on the subject and, a little, on the photo.
fn photograph(folder: &Path, subject: f64, count: u32) {
    fs::create_dir_all(folder).unwrap();
    for number in 0..count {
        let wave = |x: u32, y: u32, k: f64| {
            let phase = f64::from(x) * (subject + 0.1 * f64::from(number)) / 9.0;
            (127.0 + 120.0 * (phase + k * f64::from(y) / 7.0).sin()) as u8
        };
        let image = RgbImage::from_fn(40, 32, |x, y| {
            Rgb([wave(x, y, 1.0), wave(x, y, 2.0), wave(y, x, subject)])
        });
        image.save(folder.join(format!("{number}.png"))).unwrap();
    }
}

fn preftune(folder: &Path, arguments: &[&str]) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_preftune"))
        .current_dir(folder)
        .env("OMP_NUM_THREADS", "1")
        .args(arguments)
        .output()
        .unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Outcome {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Wrong input: exit code 2, the message and the hint, no trace of a panic.
    #[track_caller]
    fn refused(&self, message: &str, hint: &str) {
        assert_eq!(self.code, 2, "{}", self.stderr);
        assert!(self.stderr.contains(message), "{message}: {}", self.stderr);
        assert!(self.stderr.contains("hint: "), "{}", self.stderr);
        assert!(self.stderr.contains(hint), "{hint}: {}", self.stderr);
        assert!(self.stdout.is_empty(), "{}", self.stdout);
    }
}

/// Runs of three DreamBench subjects (LoRA) below `bench-runs` and of an own one (whole U-Net) in `cup`.
fn trained() -> &'static Path {
    static RUNS: OnceLock<PathBuf> = OnceLock::new();
    RUNS.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("eval");
        let _ = fs::remove_dir_all(&root);
        for (subject, (name, photos)) in [("can", 3), ("dog", 2), ("dog2", 1)].into_iter().enumerate() {
            let folder = root.join("bench/dataset").join(name);
            photograph(&folder, 1.0 + subject as f64, photos);
        }
        photograph(&root.join("cups"), 5.0, 2);
        fs::write(root.join("bench/dataset/prompts_and_classes.txt"), LIST).unwrap();
        fs::write(root.join("negatives.txt"), "a {token} {class} outside\n").unwrap();
        let config = |subject: &str, adapter: &str| {
            format!(
                "[run]\noutput = \"unset\"\ndevice = \"cpu\"\n[model]\nbase = '{}'\n[subject]\n{subject}\n\
                 [adapter]\n{adapter}\n[reward]\nencoder = '{}'\n\
                 [negatives]\nper_prompt = 1\nprompts = \"negatives.txt\"\n\
                 [train]\nresolution = 16\nsteps = 1\nlearning_rate = 0.02\n[validation]\nevery = 0\n\
                 patience = 0\n[sampler]\nsteps = 1\n",
                golden("diffusion/sd1").display(),
                golden("encoders/clip").display()
            )
        };
        let bench = config("dreambench = \"bench\"", "rank = 2\nalpha = 2.0");
        let cup = config("photos = \"cups\"\nclass = \"cup\"", "kind = \"full\"");
        fs::write(root.join("bench.toml"), bench).unwrap();
        fs::write(root.join("cup.toml"), cup).unwrap();
        for arguments in [
            ["train", "bench.toml", "--all-subjects", "--output", "bench-runs"].as_slice(),
            &["train", "cup.toml", "--output", "cup"],
        ] {
            let outcome = preftune(&root, arguments);
            assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        }
        root
    })
}

/// A copy of the runs to evaluate and to damage.
struct World {
    root: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for run in ["bench-runs/can", "bench-runs/dog", "bench-runs/dog2", "cup"] {
            let (from, to) = (trained().join(run), root.path().join(run));
            fs::create_dir_all(&to).unwrap();
            for file in ["config.toml", "manifest.json"] {
                fs::copy(from.join(file), to.join(file)).unwrap();
            }
            let best = if run == "cup" { "best/unet" } else { "best" };
            fs::create_dir_all(to.join(best)).unwrap();
            for entry in fs::read_dir(from.join(best)).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), to.join(best).join(entry.file_name())).unwrap();
            }
        }
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Evaluates with the tiny CLIP, few steps and two images for each prompt.
    fn eval(&self, runs: &str, flags: &[&str]) -> Outcome {
        let clip = golden("encoders/clip");
        let few = [
            "--device",
            "cpu",
            "--quiet",
            "--steps",
            "2",
            "--images-per-prompt",
            "2",
        ];
        let arguments = [
            &["eval", "dreambench", runs, "--clip", clip.to_str().unwrap()],
            few.as_slice(),
            flags,
        ];
        preftune(self.root.path(), &arguments.concat())
    }

    fn bench(&self, flags: &[&str]) -> Outcome {
        let root = trained().join("bench");
        let bench = ["--dreambench", root.to_str().unwrap()];
        self.eval("bench-runs", &[&bench, flags].concat())
    }
}

fn value(json: &Value, pointer: &str) -> f64 {
    let value = json.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no number at {pointer} in {json}"))
}

#[track_caller]
fn near(actual: f64, expected: f64) {
    assert!((actual - expected).abs() < 1e-6, "{actual}, not {expected}");
}

/// Mean of all cosines of two sets of unit vectors.
fn mean_cosine(one: &Tensor, two: &Tensor) -> f64 {
    one.matmul(&two.tr()).mean(Kind::Double).double_value(&[])
}

#[test]
fn figures_are_those_of_the_stored_images() {
    let world = World::new();
    let dino = golden("encoders/dino");
    let flags = ["--dino", dino.to_str().unwrap(), "--base", "--json"];
    let report = world.bench(&flags).json();

    let clip = DualEncoder::open(&golden("encoders/clip"), Device::Cpu, Kind::Float).unwrap();
    let dino = ImageEncoder::open(&dino, Device::Cpu, Kind::Float).unwrap();
    let images = |folder: &Path| -> Vec<RgbImage> {
        let photos = photo::load_folder(folder).unwrap();
        photos.into_iter().map(|photo| photo.image).collect()
    };
    let photos = images(&trained().join("bench/dataset/dog"));
    let (photos_clip, photos_dino) = (
        clip.encode_images(&photos).unwrap(),
        dino.encode_images(&photos).unwrap(),
    );
    let run = &report["runs"][1];
    assert_eq!(run["subject"], "dog");
    let texts = ["a dog in the snow", "a dog wearing a red hat"];
    let drawn = ["a [V] dog in the snow", "a [V] dog wearing a red hat"];
    for (of, folder) in [
        ("", "bench-runs/dog/eval"),
        ("/base", "bench-runs/dog/eval/base"),
    ] {
        let (mut clip_i, mut clip_t, mut with_token, mut by_dino) = (0.0, 0.0, 0.0, 0.0);
        for row in 0..2 {
            let shown = images(&world.path(folder).join(format!("{row:03}")));
            assert_eq!(shown.len(), 2);
            let features = clip.encode_images(&shown).unwrap();
            let text = |text: &str| clip.encode_texts(&[text.to_owned()]).unwrap();
            clip_i += mean_cosine(&features, &photos_clip) / 2.0;
            clip_t += mean_cosine(&features, &text(texts[row])) / 2.0;
            with_token += mean_cosine(&features, &text(drawn[row])) / 2.0;
            by_dino += mean_cosine(&dino.encode_images(&shown).unwrap(), &photos_dino) / 2.0;
        }
        near(value(run, &format!("{of}/mean/clip_i")), clip_i);
        near(value(run, &format!("{of}/mean/clip_t")), clip_t);
        near(
            value(run, &format!("{of}/mean/clip_t_with_token")),
            with_token,
        );
        near(value(run, &format!("{of}/mean/dino")), by_dino);
        near(
            value(run, &format!("{of}/mean/image_similarity")),
            f64::midpoint(clip_i, 1.0),
        );
    }
    let single = photos_clip
        .get(0)
        .dot(&photos_clip.get(1))
        .double_value(&[]);
    near(value(run, "/oracle/clip_i"), single);
    // A single photo has nothing to be compared with.
    assert!(report["runs"][2]["oracle"]["clip_i"].is_null());

    let of = |subject: usize| value(&report["runs"][subject], "/mean/clip_t");
    near(
        value(&report, "/mean/clip_t"),
        (of(0) + of(1) + of(2)) / 3.0,
    );
    let (low, high) = (
        value(&report, "/interval/low/clip_t"),
        value(&report, "/interval/high/clip_t"),
    );
    assert!(low < value(&report, "/mean/clip_t") && value(&report, "/mean/clip_t") < high);
    let gain = value(&report, "/mean/dino") - value(&report, "/base/mean/dino");
    near(value(&report, "/gain/mean/dino"), gain);

    // 3 subjects of 4 images, 2 classes of 4 base images; every image once by each encoder.
    assert_eq!(report["counts"]["images_sampled"], 12 + 8);
    assert_eq!(report["counts"]["images_encoded"], 2 * (6 + 12 + 8));
    assert_eq!(
        run["encoders"]["clip"]["weights_sha256"],
        clip.weights_sha256()
    );
    assert_eq!(
        run["encoders"]["dino"]["preprocessing"]["image_processor_type"],
        "ViTImageProcessor"
    );
    // Both dogs have the base model's images of the first of them.
    assert_eq!(report["runs"][2]["base"]["images"], run["base"]["images"]);
    let stored = fs::read(world.path("bench-runs/dog/eval/metrics.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&stored).unwrap(), *run);
}

#[test]
fn interrupted_evaluation_samples_only_what_is_missing_and_ends_with_the_same_figures() {
    let world = World::new();
    let first = world.bench(&["--json"]).json();
    let eval = world.path("bench-runs/dog/eval");
    let before = fs::read(eval.join("000/001.png")).unwrap();
    for lost in ["000/001.png", "001/000.png"] {
        fs::remove_file(eval.join(lost)).unwrap();
    }
    fs::write(eval.join("001/001.png"), "not an image").unwrap();
    fs::write(eval.join("000/000.png.partial"), "half").unwrap();
    let second = world.bench(&["--json", "--batch", "1"]).json();
    assert_eq!(first["counts"]["images_sampled"], 12);
    assert_eq!(second["counts"]["images_sampled"], 3);
    assert_eq!(second["counts"]["images_reused"], 9);
    assert_eq!(fs::read(eval.join("000/001.png")).unwrap(), before);
    assert_eq!(first["runs"], second["runs"]);
    assert_eq!(first["interval"], second["interval"]);

    let third = world.bench(&["--json"]).json();
    assert_eq!(third["counts"]["images_sampled"], 0);
    assert_eq!(third["counts"]["unet_sample_forwards"], 0);
    assert_eq!(first["runs"], third["runs"]);
}

#[test]
fn images_of_other_settings_or_weights_are_not_reused() {
    let world = World::new();
    let sampled = |flags: &[&str]| {
        let report = world
            .eval("bench-runs/can", &[&["--json"], flags].concat())
            .json();
        report["counts"]["images_sampled"].as_u64().unwrap()
    };
    let bench = trained().join("bench");
    let bench = ["--dreambench", bench.to_str().unwrap()];
    let with = |flags: &[&'static str]| sampled(&[bench.as_slice(), flags].concat());
    assert_eq!(with(&[]), 4);
    assert_eq!(with(&[]), 0);
    assert_eq!(with(&["--seed", "1"]), 4);
    assert_eq!(with(&["--seed", "1", "--guidance", "2"]), 4);
    assert_eq!(
        with(&["--seed", "1", "--guidance", "2", "--sampler", "euler"]),
        4
    );
    assert_eq!(
        with(&[
            "--seed",
            "1",
            "--guidance",
            "2",
            "--sampler",
            "euler",
            "--size",
            "24"
        ]),
        4
    );
    let other = world.path("bench-runs/dog/best/pytorch_lora_weights.safetensors");
    fs::copy(
        other,
        world.path("bench-runs/can/best/pytorch_lora_weights.safetensors"),
    )
    .unwrap();
    assert_eq!(
        with(&[
            "--seed",
            "1",
            "--guidance",
            "2",
            "--sampler",
            "euler",
            "--size",
            "24"
        ]),
        4
    );
    assert_eq!(
        with(&[
            "--seed",
            "1",
            "--guidance",
            "2",
            "--sampler",
            "euler",
            "--size",
            "24"
        ]),
        0
    );
}

#[test]
fn own_subject_is_judged_by_a_prompt_file() {
    let world = World::new();
    fs::write(
        world.path("prompts.txt"),
        "# mine\na {token} {class} on a roof\na photo of a {class}\n",
    )
    .unwrap();
    let flags = [
        "--prompts",
        "prompts.txt",
        "--out",
        "figures",
        "--json=all.json",
    ];
    let outcome = world.eval("cup", &flags);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let report: Value = serde_json::from_slice(&fs::read(world.path("all.json")).unwrap()).unwrap();
    let run = &report["runs"][0];
    assert_eq!(run["prompts"][0]["prompt"], "a [V] cup on a roof");
    assert_eq!(run["prompts"][1]["prompt"], "a photo of a cup");
    assert_eq!(run["protocol"]["width"], 16);
    // Without a token the two kinds of CLIP-T are one.
    let second = &run["prompts"][1]["figures"];
    near(
        value(second, "/clip_t"),
        value(second, "/clip_t_with_token"),
    );
    assert!(report["interval"].is_null());
    assert!(!world.path("cup/eval").exists());
    let image = world.path("figures/cup/000/001.png");
    assert_eq!(
        png::read_text(&image, "prompt").unwrap().unwrap(),
        "a [V] cup on a roof"
    );

    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(
        lines[0].trim_start().starts_with("CLIP-I"),
        "{}",
        outcome.stdout
    );
    assert!(lines[1].starts_with("cups "), "{}", outcome.stdout);
    let clip_i = value(run, "/mean/clip_i");
    assert!(
        lines[1].contains(&format!("{clip_i:.3}")),
        "{}",
        outcome.stdout
    );
    assert!(
        lines[2].starts_with("photos themselves"),
        "{}",
        outcome.stdout
    );
    assert!(!outcome.stdout.contains("DINO") && !outcome.stdout.contains("95 %"));
}

#[test]
fn two_runs_of_one_subject_are_one_subject() {
    let world = World::new();
    let two = world.path("bench-runs/dog");
    fs::rename(world.path("bench-runs/can"), world.path("spare")).unwrap();
    fs::rename(world.path("bench-runs/dog2"), world.path("spare2")).unwrap();
    fs::create_dir(world.path("bench-runs/again")).unwrap();
    fs::create_dir(world.path("bench-runs/again/best")).unwrap();
    for file in [
        "config.toml",
        "manifest.json",
        "best/pytorch_lora_weights.safetensors",
    ] {
        fs::copy(two.join(file), world.path("bench-runs/again").join(file)).unwrap();
    }
    let report = world.bench(&["--json"]).json();
    assert_eq!(report["runs"].as_array().unwrap().len(), 2);
    assert_eq!(report["subjects"], 1);
    assert!(report["interval"].is_null());
    let table = world.bench(&[]).stdout;
    assert!(table.contains("dog (bench-runs/again)"), "{table}");
}

#[test]
fn wrong_input_is_refused_before_anything_is_sampled() {
    let world = World::new();
    world
        .eval("nowhere", &[])
        .refused("no such folder", "preftune train");
    world
        .eval("bench-runs/dog/best", &[])
        .refused("neither a run nor a folder of runs", "run.output");
    world
        .eval("cup", &[])
        .refused("where DreamBench's prompts are", "--prompts");
    world
        .eval("cup", &["--dreambench", "cup"])
        .refused("not DreamBench", "clone");
    fs::write(world.path("empty.txt"), "# nothing\n").unwrap();
    world
        .eval("cup", &["--prompts", "empty.txt"])
        .refused("no prompts", "one prompt a line");
    fs::write(world.path("bare.txt"), "{token}\n").unwrap();
    world
        .eval("cup", &["--prompts", "bare.txt"])
        .refused("nothing but the token", "{class}");
    fs::write(world.path("good.txt"), "a {token} {class}\n").unwrap();
    let good = |flags: &[&str]| world.eval("cup", &[&["--prompts", "good.txt"], flags].concat());
    good(&["--dino", "nowhere"]).refused("no such encoder folder", "ViTModel");
    good(&["--reward", "nowhere"]).refused("no such encoder folder", "--reward");
    let clip = golden("encoders/clip");
    good(&["--dino", clip.to_str().unwrap()])
        .refused("is a CLIP model", "an encoder of images alone");
    good(&["--json=nowhere/all.json"]).refused("no such folder", "create");
    let guidance = good(&["--guidance", "nan"]);
    assert_eq!(guidance.code, 2, "{}", guidance.stderr);

    let manifest = world.path("cup/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("cups/0.png", "cups/gone.png")).unwrap();
    good(&[]).refused("gone.png", "put it back");
    fs::write(&manifest, &text[..text.len() / 2]).unwrap();
    let broken = good(&[]);
    assert_eq!(broken.code, 2, "{}", broken.stderr);
    fs::write(&manifest, &text).unwrap();

    fs::remove_dir_all(world.path("bench-runs/can/best")).unwrap();
    world.bench(&[]).refused("no best weights", "--resume");
    for run in ["cup", "bench-runs/dog"] {
        assert!(!world.path(run).join("eval").exists(), "{run}");
    }
}
