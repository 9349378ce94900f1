//! A folder with photos, prompts and the configuration of a run that takes a second, and the binary to run on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use image::{Rgb, RgbImage};
use preftune::models::weights::Checkpoint;
use serde_json::{Map, Value};

use crate::support::golden;

/// Photos, training prompts with images, validation images (with the token and without) and steps of [`World::new`]'s
/// configuration.
pub const PHOTOS: u64 = 3;
pub const NEGATIVES: u64 = 4;
pub const VALIDATION_IMAGES: u64 = 4;
pub const STEPS: u64 = 6;
/// At steps 0, 2, 4 and 6.
pub const VALIDATIONS: u64 = 4;
pub const SAMPLER_STEPS: u64 = 2;

/// What the command did.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn of(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// Ended with this code and these words on stderr, and without a word of a panic.
    #[track_caller]
    pub fn failed(self, code: i32, words: &[&str]) -> Self {
        println!("{}", self.stderr);
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "`{word}`: {}", self.stderr);
        }
        assert!(!self.stderr.contains("internal error"), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }
}

/// A temporary folder in which `preftune` is run.
pub struct World {
    root: tempfile::TempDir,
}

/// A photo whose colours and waves depend on its number.
pub fn photo(number: u32) -> RgbImage {
    RgbImage::from_fn(40, 32, |x, y| {
        let wave = |k: u32| {
            let phase = f64::from((x + 3 * number) * k) / 5.0 + f64::from(y * number) / 9.0;
            (127.0 + 120.0 * phase.sin()) as u8
        };
        Rgb([wave(1 + number % 2), wave(2), (x * 6 % 256) as u8])
    })
}

impl World {
    /// RPO with a LoRA on the tiny SD 1.
    pub fn new() -> Self {
        Self::with_base("diffusion/sd1")
    }

    /// The same on another golden model.
    pub fn with_base(base: &str) -> Self {
        let world = Self {
            root: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(world.path("photos")).unwrap();
        for number in 0..PHOTOS as u32 {
            let path = world.path(&format!("photos/{number}.png"));
            photo(number).save(path).unwrap();
        }
        world.write(
            "train.txt",
            "a {token} {class} on the moon\na green {token} {class}\n",
        );
        world.write(
            "validation.txt",
            "a {token} {class} at the beach\na blue {token} {class}\n",
        );
        let (base, encoder) = (golden(base), golden("encoders/clip"));
        let (base, encoder) = (base.display(), encoder.display());
        world.write(
            "config.toml",
            &format!(
                r#"
                [run]
                output = "run"
                device = "cpu"
                [model]
                base = "{base}"
                [subject]
                photos = "photos"
                class = "dog"
                [adapter]
                rank = 4
                alpha = 4
                [reward]
                encoder = "{encoder}"
                [negatives]
                per_prompt = 2
                prompts = "train.txt"
                [train]
                resolution = 16
                steps = 6
                learning_rate = 1e-3
                [validation]
                every = 2
                images_per_prompt = 1
                prompts = "validation.txt"
                patience = 0
                [sampler]
                steps = 2
                [checkpoint]
                every = 2
                "#
            ),
        );
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Not yet started, in this folder, with its output piped.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_preftune"));
        command
            .current_dir(self.root.path())
            // Many of these run at once.
            .env("OMP_NUM_THREADS", "1")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments).spawn().unwrap())
    }

    /// `train config.toml` with these values set and these flags.
    pub fn training(&self, set: &[&str], flags: &[&str]) -> Command {
        let mut command = self.command(&["train", "config.toml"]);
        for assignment in set {
            command.args(["--set", assignment]);
        }
        command.args(flags);
        command
    }

    pub fn train(&self, set: &[&str]) -> Outcome {
        Outcome::of(self.training(set, &[]).spawn().unwrap())
    }

    pub fn resume(&self, set: &[&str]) -> Outcome {
        Outcome::of(self.training(set, &["--resume"]).spawn().unwrap())
    }

    /// Two images of a model or run.
    pub fn generate(&self, model: &str, more: &[&str]) -> Outcome {
        let arguments = [
            "generate",
            "--model",
            model,
            "--prompt",
            "a [V] dog in a garden",
            "--count",
            "2",
            "--out",
            "out",
            "--steps",
            "2",
            "--width",
            "16",
            "--height",
            "16",
            "--device",
            "cpu",
        ];
        self.run(&[&arguments, more].concat())
    }

    /// The rows of a run's metrics, without the time they took.
    pub fn metrics(&self, run: &str) -> Vec<Map<String, Value>> {
        let row = |line: &str| {
            let mut row: Map<String, Value> = serde_json::from_str(line).unwrap();
            assert!(row.remove("seconds").is_some(), "{line}");
            row
        };
        let text = self.read(&format!("{run}/metrics.jsonl"));
        text.lines().map(row).collect()
    }

    /// One figure of all rows of a kind.
    pub fn figures(&self, run: &str, kind: &str, name: &str) -> Vec<f64> {
        let rows = self.metrics(run);
        let rows = rows.iter().filter(|row| row["kind"] == kind);
        rows.map(|row| row[name].as_f64().unwrap()).collect()
    }

    pub fn manifest(&self, run: &str) -> Value {
        serde_json::from_str(&self.read(&format!("{run}/manifest.json"))).unwrap()
    }

    pub fn tensors(&self, file: &str) -> Checkpoint {
        Checkpoint::open_file(&self.path(file)).unwrap()
    }

    /// All files below a folder with their content, by their path in it.
    pub fn files(&self, folder: &str) -> BTreeMap<String, Vec<u8>> {
        contents(&self.path(folder))
    }
}

/// All files below a folder with their content, by their path in it.
pub fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
                found.insert(name.to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// A copy of a folder that a test may damage.
pub fn copy_folder(from: &Path, to: &Path) {
    for (name, bytes) in contents(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
