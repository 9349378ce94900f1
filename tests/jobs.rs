//! Runs through `preftune::jobs`, as a Rust program makes them: what a run that was interrupted keeps, counts and checks, whatever
//! is trained.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use preftune::config;
use preftune::distributed::Peers;
use preftune::error::Error;
use preftune::jobs::interrupt::Interrupt;
use preftune::jobs::{self, Display, RunOptions, Silent};
use preftune::run::manifest::{PretrainManifest, Record, SubjectManifest};
use preftune::trainer::event::Event;
use serde_json::Value;

use crate::tiny_run::World;

/// Asks the run to stop after a step, as Ctrl-C does.
struct StopAfter<'a>(u64, &'a Interrupt);

impl Display for StopAfter<'_> {
    fn show(&mut self, event: &Event) {
        if let Event::Progress {
            phase: "train",
            done,
            ..
        } = event
            && *done >= self.0
        {
            self.1.request();
        }
    }

    fn say(&mut self, _line: &str) {}

    fn advance(&mut self, _phase: &'static str, _done: u64, _total: u64) {}
}

const RESUME: RunOptions = RunOptions {
    resume: true,
    profile: false,
    peers: Peers::alone(),
};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A path as a string of TOML.
fn quote(path: &Path) -> String {
    toml::Value::String(path.to_str().unwrap().to_owned()).to_string()
}

fn read(run: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(run.join("manifest.json")).unwrap()).unwrap()
}

/// A folder with the embedded world's autoencoder without weights, and a few sprites of its own.
struct Pretraining(tempfile::TempDir);

impl Pretraining {
    fn new() -> Self {
        let own = Self(tempfile::tempdir().unwrap());
        let (template, sprites) = (own.path("vae"), own.path("sprites"));
        fs::create_dir(&template).unwrap();
        let mut settings: Value = serde_json::from_str(
            &fs::read_to_string(repository("assets/emoji-world/vae/config.json")).unwrap(),
        )
        .unwrap();
        settings["block_out_channels"] = serde_json::json!([8, 8, 8]);
        settings["norm_num_groups"] = serde_json::json!(4);
        fs::write(template.join("config.json"), settings.to_string()).unwrap();
        let copied = Command::new("cp")
            .arg("-r")
            .args([repository("assets/sprites"), sprites])
            .status();
        assert!(copied.unwrap().success());
        own
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Six steps into the folder `run`, stopped after some of them.
    fn train(&self, run: &str, stop_after: Option<u64>) -> Result<PretrainManifest, Error> {
        let text = format!(
            "run.output = {}\nrun.device = \"cpu\"\npart.kind = \"vae\"\npart.template = {}\npart.dtype = \"fp32\"\n\
             world.sprites = {}\nworld.validation_scenes = 8\ntrain.steps = 6\ntrain.batch = 4\nvalidation.every = 3\n\
             validation.patience = 0\ncheckpoint.every = 2\n",
            quote(&self.path(run)),
            quote(&self.path("vae")),
            quote(&self.path("sprites"))
        );
        let file = self.path("config.toml");
        fs::write(&file, text).unwrap();
        let config = config::load_pretrain(&file, &[]).unwrap();
        let interrupt = Interrupt::never();
        match stop_after {
            Some(step) => {
                let mut display = StopAfter(step, &interrupt);
                jobs::pretrain::train(&config, RESUME, &mut display, &interrupt)
            }
            None => jobs::pretrain::train(&config, RESUME, &mut Silent, &interrupt),
        }
    }
}

#[track_caller]
fn assert_interrupted<M: std::fmt::Debug>(outcome: Result<M, Error>, after: u64) {
    match outcome {
        Err(Error::Interrupted { step, .. }) => assert_eq!(step, after),
        other => panic!("{other:?}"),
    }
}

#[test]
fn resumed_pretraining_counts_the_work_of_all_its_parts() {
    let own = Pretraining::new();
    let whole = own.train("whole", None).unwrap();
    assert_interrupted(own.train("parts", Some(4)), 4);
    let parts = own.train("parts", None).unwrap();
    assert_eq!(parts.record.steps, 6);
    assert!(!whole.record.counts.is_empty());
    for (name, count) in &whole.record.counts {
        assert!(
            parts.record.counts[name] >= *count,
            "{name}: {} of {count}",
            parts.record.counts[name]
        );
    }
}

#[test]
fn resumed_pretraining_refuses_other_sprites_and_another_architecture() {
    for change in ["sprites", "vae/config.json"] {
        let own = Pretraining::new();
        assert_interrupted(own.train("run", Some(2)), 2);
        let path = own.path(change);
        let file = if path.is_dir() {
            let folders = fs::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().path());
            let folder = folders.filter(|entry| entry.is_dir()).min().unwrap();
            let mut drawings: Vec<PathBuf> = fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            drawings.retain(|path| path.extension().is_some_and(|ending| ending == "png"));
            drawings.sort();
            let last = drawings.pop().unwrap();
            fs::copy(&drawings[0], &last).unwrap();
            last
        } else {
            let text = fs::read_to_string(&path).unwrap() + " ";
            fs::write(&path, text).unwrap();
            path
        };
        let refused = own.train("run", None).unwrap_err().to_string();
        assert!(
            refused.contains("was started with other files as its"),
            "{}: {refused}",
            file.display()
        );
    }
}

/// A run on a subject in the folder `run` of a world, stopped after some steps.
fn tune(world: &World, stop_after: Option<u64>) -> Result<SubjectManifest, Error> {
    let absolute = |key: &str, name: &str| format!("{key}={}", quote(&world.path(name)));
    let keys = [
        absolute("run.output", "run"),
        absolute("subject.photos", "photos"),
        absolute("negatives.prompts", "train.txt"),
        absolute("validation.prompts", "validation.txt"),
    ];
    let config = config::load(&world.path("config.toml"), &keys).unwrap();
    let interrupt = Interrupt::never();
    match stop_after {
        Some(step) => {
            let mut display = StopAfter(step, &interrupt);
            jobs::subject::train(&config, RESUME, &mut display, &interrupt)
        }
        None => jobs::subject::train(&config, RESUME, &mut Silent, &interrupt),
    }
}

#[test]
fn the_manifest_of_an_interrupted_run_names_its_best_weights() {
    let world = World::new();
    assert_interrupted(tune(&world, Some(3)), 3);
    let run = world.path("run");
    let manifest = read(&run);
    assert_eq!(manifest["status"], "interrupted");
    assert_eq!(manifest["steps"], 3);
    assert!(run.join("best").exists());
    let (step, reward) = (&manifest["best"][0], &manifest["best"][1]);
    let rows = world.metrics("run");
    let row = rows
        .iter()
        .find(|row| row["kind"] == "validation" && row["step"] == *step)
        .unwrap();
    assert_eq!(row["reward"], *reward);
    assert!(manifest["untuned_reward"].is_f64());
    let finished = tune(&world, None).unwrap();
    assert_eq!(finished.record.status, "finished");
    assert_eq!(finished.record.steps, 6);
}

#[test]
fn a_record_says_what_a_run_began_with() {
    let record = Record::of_inputs([("photos".to_owned(), "ab".to_owned())].into());
    let text = serde_json::to_string(&record).unwrap();
    let read: Record = serde_json::from_str(&text).unwrap();
    assert_eq!(read.inputs, record.inputs);
    // Manifests of earlier versions have no inputs in their record.
    let earlier = text.replace(r#","inputs":{"photos":"ab"}"#, "");
    assert!(
        serde_json::from_str::<Record>(&earlier)
            .unwrap()
            .inputs
            .is_empty()
    );
}

#[test]
fn the_example_tunes_the_embedded_world() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run");
    let keys = [
        "train.steps=2",
        "train.batch=1",
        "negatives.per_prompt=1",
        "negatives.prompts=[\"a photo of a {token} {class}\"]",
        "validation.every=2",
        "validation.images_per_prompt=1",
        "validation.prompts=[\"a {token} {class} on the beach\"]",
        "sampler.steps=2",
    ];
    let ran = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["run", "--quiet", "--example", "tune", "--"])
        .arg(&output)
        .args(keys)
        .output()
        .unwrap();
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(
        ran.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(text.contains("step 2: reward "), "{text}");
    assert!(output.join("best").exists());
}
