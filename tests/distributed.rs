//! Several processes that train one model, over Gloo on this machine: the result is that of one process, what fails ends all of
//! them in words, and what cannot be shared is refused.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use image::RgbImage;
use preftune::config::FirstMoment;
use preftune::distributed::{Launcher, Meeting, Peers, Place, Share};
use preftune::error::Result;
use preftune::models::weights::{Checkpoint, save};
use preftune::ops::random::{derive_seed, randn};
use preftune::trainer::early_stopping::GainRule;
use preftune::trainer::event::{Event, Metrics, Observer, Progress, Snapshot, Validation};
use preftune::trainer::optimizer::{AdamW, AdamWConfig};
use preftune::trainer::schedule::Schedule;
use preftune::trainer::{self, LoopConfig, Scalar, Task};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::command::quoted;
use crate::resume::wait_until;
use crate::support::golden;
use crate::tiny_run::{Outcome, World};

/// Largest difference of weights that rounding in f32 explains: AdamW moves a weight by the sign of a gradient that is almost 0.
const ROUNDING: f64 = 2e-6;

/// Largest relative difference of a metric.
const OF_METRICS: f64 = 1e-4;

/// A line for each value.
fn lines(rows: impl Iterator<Item = Value>) -> String {
    let rows: Vec<String> = rows.map(|row| row.to_string()).collect();
    rows.join("\n") + "\n"
}

/// A world with texts, pairs of images and embeddings beside the photos.
fn world() -> World {
    let world = World::new();
    let words = [
        "the", "cat", "sat", "on", "a", "mat", "far", "red", "was", "so",
    ];
    let text = |seed: i64, count: i64| {
        let word = |at: i64| words[((seed * 7 + at * at * 3 + at) % 10) as usize];
        (0..count).map(word).collect::<Vec<_>>().join(" ")
    };
    let pair = |n: i64| {
        json!({"prompt": text(n, 3), "chosen": format!(" {}", text(n + 1, 2 + n % 3)),
               "rejected": format!(" {}", text(n + 5, 1 + n % 4))})
    };
    let marked = |n: i64| json!({"prompt": text(n, 3), "completion": format!(" {}", text(n + 1, 2 + n % 3)), "label": n % 3 != 0});
    world.write("pairs.jsonl", &lines((0..15).map(pair)));
    world.write("marked.jsonl", &lines((0..15).map(marked)));
    world.write(
        "text.toml",
        &format!(
            "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[data]\ntrain = \"pairs.jsonl\"\n\
             chat = \"raw\"\nvalidation_share = 0.3\n[objective]\nkind = \"dpo\"\n[adapter]\nrank = 4\ntargets = \"all-linear\"\n\
             [train]\nsteps = 4\nbatch = 4\nlearning_rate = 1e-3\nlog_every = 1\n\
             [validation]\nevery = 2\npatience = 0\n[checkpoint]\nevery = 1\n",
            quoted(&golden("text/model")),
        ),
    );
    world
}

/// `train` of a configuration into a folder.
fn train(world: &World, config: &str, output: &str, more: &[&str]) -> Command {
    world.command(&[&["train", config, "--quiet", "--output", output], more].concat())
}

fn done(world: &World, config: &str, output: &str, more: &[&str]) {
    let child = train(world, config, output, more).spawn().unwrap();
    Outcome::of(child).succeeded();
}

fn values(set: &[&'static str]) -> Vec<&'static str> {
    set.iter().flat_map(|one| ["--set", *one]).collect()
}

fn last_weights(world: &World, run: &str) -> Checkpoint {
    let folders = fs::read_dir(world.path(run).join("checkpoints")).unwrap();
    let newest = folders.map(|entry| entry.unwrap().path()).max().unwrap();
    Checkpoint::open_file(&newest.join("weights.safetensors")).unwrap()
}

/// Asserts that two runs have the same weights, metrics and decisions, but for rounding.
#[track_caller]
fn assert_alike(world: &World, one: &str, other: &str) {
    let (weights, others) = (last_weights(world, one), last_weights(world, other));
    let mut largest: f64 = 0.0;
    for name in weights.names() {
        let value = |of: &Checkpoint| of.tensor(name).unwrap().to_kind(Kind::Double);
        let off = (value(&weights) - value(&others)).abs().max();
        largest = largest.max(off.double_value(&[]));
    }
    println!("{one}, {other}: weights differ by {largest:.1e}");
    assert!(largest <= ROUNDING, "{one}, {other}: {largest:e}");
    let (rows, others) = (world.metrics(one), world.metrics(other));
    assert_eq!(rows.len(), others.len(), "{one}, {other}");
    for (row, other) in rows.iter().zip(&others) {
        let names = |row: &serde_json::Map<String, Value>| row.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(row), names(other));
        for (name, value) in row {
            let in_training = row["kind"] == "train";
            // Means over tokens and over rows of padding, which shares of a batch have of their own.
            let own = ["entropy", "padding_fraction"].contains(&name.as_str());
            // Before the first step all rewards are 0, and rounding says which one is larger.
            let rounded = name == "rewards/accuracies" && row["step"] == 1;
            if in_training && (own || rounded) {
                continue;
            }
            let (Some(here), Some(there)) = (value.as_f64(), other[name].as_f64()) else {
                assert_eq!(value, &other[name]);
                continue;
            };
            let off = (here - there).abs();
            assert!(
                off <= OF_METRICS * here.abs().max(1.0),
                "step {}, {name}: {here}, {there}",
                row["step"]
            );
        }
    }
    let (record, others) = (world.manifest(one), world.manifest(other));
    for key in ["status", "steps", "stopped_early", "examples"] {
        assert_eq!(record[key], others[key], "{key}");
    }
    assert_eq!(
        record["best"][0], others["best"][0],
        "step of the best weights"
    );
}

#[test]
fn text_runs_by_several_processes_are_those_of_one() {
    let world = world();
    let cases: [(&str, &[&str], &[&str]); 4] = [
        // The last batch of an epoch has 2 or 3 examples: of four processes, some have none.
        ("lora", &[], &["2", "4"]),
        (
            "full",
            &["adapter.kind=\"full\"", "train.checkpoint_activations=true"],
            &["2"],
        ),
        (
            "accumulated",
            &["train.batch=3", "train.accumulation=2"],
            &["2"],
        ),
        // The reference point is a mean over the batch.
        (
            "kto",
            &["objective.kind=\"kto\"", "data.train=\"marked.jsonl\""],
            &["2", "4"],
        ),
    ];
    for (name, set, counts) in cases {
        let set = values(set);
        done(&world, "text.toml", name, &set);
        for count in counts {
            let output = format!("{name}-{count}");
            done(
                &world,
                "text.toml",
                &output,
                &[&set[..], &["--procs", count]].concat(),
            );
            assert_alike(&world, name, &output);
            let processes = world.manifest(&output)["processes"].as_u64().unwrap();
            assert_eq!(processes.to_string(), *count);
        }
    }
    assert!(world.manifest("lora").get("processes").is_none());
    let counts = |run: &str| world.manifest(run)["counts"].clone();
    assert_eq!(counts("lora"), counts("lora-4"), "work of all processes");
}

#[test]
fn reward_heads_by_several_processes_are_those_of_one() {
    let world = world();
    let embeddings = randn(derive_seed(0, "embeddings", &[]), &[40, 5], Device::Cpu);
    let tensors = [("responses".to_owned(), embeddings)];
    save(
        &world.path("embeddings.safetensors"),
        &tensors,
        &BTreeMap::new(),
    )
    .unwrap();
    let rows = (0..32).map(|n| json!({"chosen": n, "rejected": (n * 7 + 3) % 40}));
    world.write("train.jsonl", &lines(rows));
    world.write(
        "reward.toml",
        "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[reward_model]\ntask = \"bradley_terry\"\n[data]\n\
         embeddings = \"embeddings.safetensors\"\ntrain = \"train.jsonl\"\nvalidation_share = 0.25\n\
         [train]\nsteps = 6\nbatch = 6\nlearning_rate = 0.01\nlog_every = 1\n\
         [validation]\nevery = 2\npatience = 0\n[checkpoint]\nevery = 2\n",
    );
    done(&world, "reward.toml", "one", &[]);
    done(&world, "reward.toml", "three", &["--procs", "3"]);
    assert_alike(&world, "one", "three");
}

/// The images of a validation by their names.
fn samples(world: &World, run: &str, step: u64) -> Vec<RgbImage> {
    let folder = world.path(run).join(format!("samples/step-{step:06}"));
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let read = |file: &PathBuf| image::open(file).unwrap().to_rgb8();
    files.iter().map(read).collect()
}

#[track_caller]
fn assert_same_images(world: &World, one: &str, other: &str, step: u64) {
    let (ours, theirs) = (samples(world, one, step), samples(world, other, step));
    assert!(!ours.is_empty() && ours.len() == theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let pairs = ours.as_raw().iter().zip(theirs.as_raw());
        let off = pairs.map(|(one, two)| one.abs_diff(*two)).max().unwrap();
        // Once weights differ in their last digits, a channel may round the other way.
        assert!(off <= u8::from(step > 0), "step {step}: {off}");
    }
}

#[test]
fn subject_runs_by_several_processes_are_those_of_one_to_the_images_and_the_early_stop() {
    let world = world();
    let stops = values(&[
        "train.batch=4",
        "train.steps=12",
        "train.learning_rate=1e-4",
        "validation.patience=2",
        "validation.min_gain=0.5",
        "sampler.batch=1",
    ]);
    done(&world, "config.toml", "one", &stops);
    done(
        &world,
        "config.toml",
        "two",
        &[&stops[..], &["--procs", "2"]].concat(),
    );
    assert_alike(&world, "one", "two");
    assert!(world.manifest("two")["stopped_early"].as_bool().unwrap());
    for step in [0, 2, 4] {
        assert_same_images(&world, "one", "two", step);
    }
    let negatives = |run: &str| world.files(&format!("{run}/negatives"));
    assert_eq!(negatives("one"), negatives("two"));

    let dreambooth = values(&[
        "objective.kind=\"dreambooth\"",
        "train.accumulation=2",
        "train.learning_rate=1e-4",
    ]);
    done(&world, "config.toml", "alone", &dreambooth);
    done(
        &world,
        "config.toml",
        "both",
        &[&dreambooth[..], &["--procs", "2"]].concat(),
    );
    assert_alike(&world, "alone", "both");
}

#[test]
fn runs_on_pairs_of_images_by_several_processes_are_those_of_one() {
    let world = world();
    fs::create_dir(world.path("images")).unwrap();
    // More than are decoded at a time, so that both processes encode some.
    for number in 0..40 {
        let image = crate::tiny_run::photo(number);
        image
            .save(world.path(&format!("images/{number:02}.png")))
            .unwrap();
    }
    let row = |at: usize| {
        let split = if at < 30 { "train" } else { "validation" };
        json!({"prompt": "a lamp", "chosen": format!("{:02}.png", at), "rejected": format!("{:02}.png", (at + 5) % 40),
               "split": split})
    };
    world.write("images.jsonl", &lines((0..40).map(row)));
    world.write(
        "pairs.toml",
        &format!(
            "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[pairs]\ntrain = \"images.jsonl\"\nimages = \"images\"\n\
             [adapter]\nrank = 4\nalpha = 4\n[train]\nresolution = 16\nsteps = 4\nbatch = 2\nlearning_rate = 1e-4\nlog_every = 1\n\
             [validation]\nevery = 2\npatience = 0\n[preview]\nprompts = [\"a lamp\", \"a light\"]\n\
             [sampler]\nsteps = 2\nbatch = 1\n[checkpoint]\nevery = 2\n",
            quoted(&golden("diffusion/sd1"))
        ),
    );
    // This steep problem shows in its weights in what shapes it was computed: one process takes pairs one by one here too.
    let one_by_one = values(&["train.batch=1", "train.accumulation=2"]);
    done(&world, "pairs.toml", "one", &one_by_one);
    done(&world, "pairs.toml", "two", &["--procs", "2"]);
    assert_alike(&world, "one", "two");
    assert_same_images(&world, "one", "two", 0);
}

/// The process of this rank that a launcher has started.
fn of_rank(launcher: &Child, rank: &str) -> Option<u32> {
    let id = launcher.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    let wanted = format!("RANK={rank}");
    children
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .find(|child: &u32| {
            let environment = fs::read(format!("/proc/{child}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|one| one == wanted.as_bytes())
        })
}

fn send(signal: &str, process: u32) {
    let kill = Command::new("kill")
        .args([signal, &process.to_string()])
        .status();
    assert!(kill.unwrap().success());
}

const LONG: [&str; 4] = ["--set", "train.steps=40", "--set", "validation.every=0"];

#[test]
fn a_process_that_is_killed_or_stopped_ends_all_with_its_name_and_another_number_of_processes_resumes()
 {
    let world = world();
    done(&world, "text.toml", "whole", &LONG);
    let begun = |run: &str| world.path(run).join("checkpoints/step-000003").exists();
    let disturbed = |run: &str, rank: &str, signal: &str, words: &[&str]| {
        let more = [&LONG[..], &["--procs", "2", "--peer-timeout", "3"]].concat();
        let mut launcher = train(&world, "text.toml", run, &more).spawn().unwrap();
        wait_until(&mut launcher, "three steps", || begun(run));
        let since = Instant::now();
        send(signal, of_rank(&launcher, rank).unwrap());
        Outcome::of(launcher).failed(1, words);
        assert!(since.elapsed() < Duration::from_secs(40));
    };
    let killed = ["process 1 of 2 was ended by signal 9", "`--resume`"];
    disturbed("killed", "1", "-KILL", &killed);
    let first = ["process 0 of 2 was ended by signal 9", "`--resume`"];
    disturbed("first", "0", "-KILL", &first);
    let stopped = [
        "has not answered for 3 s",
        "process 1 of 2 did not answer the others and was ended",
    ];
    disturbed("stopped", "1", "-STOP", &stopped);
    // One process goes on, or four.
    done(
        &world,
        "text.toml",
        "killed",
        &[&LONG[..], &["--resume"]].concat(),
    );
    assert_alike(&world, "whole", "killed");
    done(
        &world,
        "text.toml",
        "stopped",
        &[&LONG[..], &["--resume", "--procs", "4"]].concat(),
    );
    assert_alike(&world, "whole", "stopped");
    // What is finished is so for all.
    done(
        &world,
        "text.toml",
        "stopped",
        &[&LONG[..], &["--resume", "--procs", "4"]].concat(),
    );
}

#[test]
fn a_signal_to_whoever_started_the_processes_stores_a_checkpoint() {
    let world = world();
    let more = [&LONG[..], &["--procs", "2", "--set", "checkpoint.every=0"]].concat();
    let mut launcher = train(&world, "text.toml", "run", &more).spawn().unwrap();
    let rows = || world.path("run/metrics.jsonl");
    wait_until(&mut launcher, "a step", || {
        fs::metadata(rows()).is_ok_and(|file| file.len() > 400)
    });
    send("-TERM", launcher.id());
    let outcome =
        Outcome::of(launcher).failed(75, &["interrupted at step", "--procs 2", "--resume"]);
    assert!(
        !outcome.stderr.contains("another process"),
        "{}",
        outcome.stderr
    );
    assert_eq!(world.manifest("run")["status"], "interrupted");
    assert!(last_weights(&world, "run").names().count() > 0);
}

/// A process of two that a script has started, without a launcher.
fn by_hand(world: &World, rank: &str, port: u16, more: &[&str]) -> Child {
    let mut command = train(world, "text.toml", "run", more);
    command
        .env("RANK", rank)
        .env("WORLD_SIZE", "2")
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
        .env("GLOO_SOCKET_IFNAME", "lo");
    command.spawn().unwrap()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn processes_that_do_not_come_or_bring_something_else_are_named() {
    let world = world();
    let waits = ["--peer-timeout", "1"];
    let alone = by_hand(&world, "0", free_port(), &waits);
    Outcome::of(alone).failed(76, &["process 0 of 2", "within 1 s", "`--peer-timeout`"]);

    let port = free_port();
    let other = by_hand(&world, "1", port, &["--set", "run.seed=5"]);
    let first = by_hand(&world, "0", port, &[]);
    for process in [first, other] {
        let words = [
            "process 1 was given another configuration than process 0",
            "same command",
        ];
        Outcome::of(process).failed(2, &words);
    }
    assert!(!world.path("run").exists());
}

#[test]
fn what_several_processes_cannot_share_is_refused() {
    let world = world();
    let refuse = |arguments: &[&str], words: &[&str]| {
        Outcome::of(world.command(arguments).spawn().unwrap()).failed(2, words);
    };
    refuse(
        &["train", "text.toml", "--procs", "3"],
        &[
            "3 processes cannot share",
            "`train.batch` 4",
            "multiple of 3",
        ],
    );
    refuse(
        &["train", "config.toml", "--all-subjects", "--procs", "2"],
        &["`--all-subjects` works in one process"],
    );
    assert!(!world.path("run").exists());
    let mut half = train(&world, "text.toml", "run", &[]);
    half.env("RANK", "0").env("WORLD_SIZE", "2");
    Outcome::of(half.spawn().unwrap()).failed(
        2,
        &["`MASTER_ADDR` and `MASTER_PORT` are not set", "torchrun"],
    );
    let mut pretrain = world.command(&["pretrain", "configs/world/vae.toml"]);
    pretrain.envs([
        ("RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("MASTER_ADDR", "localhost"),
        ("MASTER_PORT", "1"),
    ]);
    Outcome::of(pretrain.spawn().unwrap()).failed(2, &["`pretrain` works in one process"]);
    let mut more = train(&world, "text.toml", "run", &["--procs", "4"]);
    more.envs([
        ("RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("MASTER_ADDR", "localhost"),
        ("MASTER_PORT", "1"),
    ]);
    Outcome::of(more.spawn().unwrap()).failed(2, &["`--procs 4`, and a launcher has started 2"]);
}

#[test]
fn the_variables_of_torchrun_and_of_slurm_say_where_a_process_is() {
    let read = |launcher, variables: &[(&str, &str)]| {
        let variables: HashMap<String, String> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Place::read(launcher, |name| variables.get(name).cloned())
    };
    let torchrun = [
        ("RANK", "3"),
        ("WORLD_SIZE", "4"),
        ("MASTER_ADDR", "node"),
        ("MASTER_PORT", "29500"),
        ("LOCAL_RANK", "1"),
    ];
    let place = read(Launcher::Environment, &torchrun).unwrap().unwrap();
    assert_eq!((place.rank, place.world, place.local_rank), (3, 4, Some(1)));
    assert_eq!(
        (place.host.as_str(), place.port, place.is_served),
        ("node", 29500, false)
    );
    // What an earlier attempt has left at the meeting is not read by the next one.
    let again = [&torchrun[..], &[("TORCHELASTIC_RESTART_COUNT", "1")]].concat();
    assert_ne!(
        read(Launcher::Environment, &again)
            .unwrap()
            .unwrap()
            .attempt,
        place.attempt
    );
    assert_eq!(read(Launcher::Environment, &[]).unwrap(), None);
    assert_eq!(
        read(
            Launcher::Environment,
            &[
                ("RANK", "0"),
                ("WORLD_SIZE", "1"),
                ("MASTER_ADDR", "node"),
                ("MASTER_PORT", "1")
            ]
        )
        .unwrap(),
        None
    );
    let beyond = [
        ("RANK", "4"),
        ("WORLD_SIZE", "4"),
        ("MASTER_ADDR", "node"),
        ("MASTER_PORT", "1"),
    ];
    assert!(read(Launcher::Environment, &beyond).is_err());
    let wrong = [
        ("RANK", "first"),
        ("WORLD_SIZE", "4"),
        ("MASTER_ADDR", "node"),
        ("MASTER_PORT", "1"),
    ];
    assert!(
        read(Launcher::Environment, &wrong)
            .unwrap_err()
            .to_string()
            .contains("`RANK` is `first`")
    );

    // Slurm's variables are there in a batch script too, where only one process runs.
    let slurm = [
        ("SLURM_PROCID", "5"),
        ("SLURM_NTASKS", "8"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_JOB_ID", "123"),
        ("SLURM_STEP_NODELIST", "gpu[03-05,9],login"),
    ];
    assert_eq!(read(Launcher::Environment, &slurm).unwrap(), None);
    let place = read(Launcher::Slurm, &slurm).unwrap().unwrap();
    assert_eq!((place.rank, place.world, place.local_rank), (5, 8, Some(1)));
    assert_eq!((place.host.as_str(), place.port), ("gpu03", 15123));
    let missing = read(Launcher::Slurm, &slurm[1..]).unwrap_err();
    assert!(
        missing.to_string().contains("`SLURM_PROCID` is not set"),
        "{missing}"
    );
}

/// A small regression in f64 with an input that one example of a batch alone has.
struct Regression {
    parameters: [Tensor; 3],
    batch: usize,
    accumulation: u64,
    share: Share,
}

impl Regression {
    fn new(batch: usize, accumulation: u64) -> Self {
        let start = |seed: i64, shape: [i64; 2]| {
            let tensor = randn(seed, &shape, Device::Cpu).to_kind(Kind::Double);
            tensor.set_requires_grad(true)
        };
        Self {
            parameters: [start(1, [6, 8]), start(2, [8, 1]), start(3, [1, 1])],
            batch,
            accumulation,
            share: Share::whole(),
        }
    }
}

impl Task for Regression {
    fn accumulate(&mut self, step: u64, micro: u64) -> Result<Vec<Scalar>> {
        let begin = (step * self.accumulation + micro) as usize * self.batch;
        let own = self.share.examples(self.batch);
        let count = own.len() as f64;
        let rows = Tensor::arange_start(
            (begin + own.start) as i64,
            (begin + own.end) as i64,
            (Kind::Double, Device::Cpu),
        );
        let columns = Tensor::arange(6, (Kind::Double, Device::Cpu)) + 1.0;
        let inputs = (rows.unsqueeze(1) * columns * 0.37).sin(); // [b, 6]
        let [first, second, rare] = &self.parameters;
        let mut outputs = inputs.matmul(first).tanh().matmul(second).squeeze_dim(1); // [b]
        if own.start == 0 {
            outputs += rare.view([1]) * rows.eq(begin as i64);
        }
        let loss = (outputs - (rows * 0.11).cos()).square().mean(Kind::Double);
        let weight = count / self.batch as f64;
        (&loss * (weight / self.accumulation as f64)).backward();
        Ok(Scalar::all(weight, vec![("loss", loss.detach())]))
    }

    fn take(&mut self, share: &Share) -> Result<()> {
        self.share = share.clone();
        Ok(())
    }

    fn validate(&mut self, _: u64, _: &mut dyn Observer) -> Result<Validation> {
        unreachable!("it is not asked to")
    }

    fn alarms(&self, _: &Validation, _: &Metrics) -> Vec<String> {
        Vec::new()
    }

    fn counts(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
}

struct Deaf;

impl Observer for Deaf {
    fn interrupted(&self) -> bool {
        false
    }

    fn event(&mut self, _: &Event) -> Result<()> {
        Ok(())
    }

    fn checkpoint(&mut self, _: &Snapshot) -> Result<PathBuf> {
        Ok(PathBuf::new())
    }

    fn best(&mut self, _: &Snapshot) -> Result<()> {
        Ok(())
    }
}

/// Fifty steps; the weights in one row.
fn fit(peers: Peers, batch: usize, accumulation: u64) -> Tensor {
    let mut task = Regression::new(batch, accumulation);
    let share = Share::new(peers, batch, accumulation as usize).unwrap();
    task.take(&share).unwrap();
    let named = ["first", "second", "rare"]
        .into_iter()
        .zip(&task.parameters);
    let parameters = named.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()));
    let adamw = AdamWConfig {
        beta_1: 0.9,
        beta_2: 0.99,
        epsilon: 1e-8,
        weight_decay: 0.01,
        ema: 0.0,
        first_moment: FirstMoment::Fp32,
    };
    let mut optimizer = AdamW::new(adamw, parameters.collect());
    let config = LoopConfig {
        steps: 50,
        accumulation,
        clip_norm: 0.0,
        schedule: Schedule {
            peak: 1e-2,
            warmup: 0,
            steps: 50,
            course: preftune::config::LearningRateSchedule::Constant,
        },
        log_every: 1,
        validate_every: 0,
        patience: 0,
        gain: GainRule {
            least: 0.0,
            standard_errors: 0.0,
        },
        checkpoint_every: 0,
    };
    let mut progress = Progress::default();
    trainer::run(
        &mut task,
        &mut optimizer,
        &config,
        &share,
        &mut progress,
        &mut Deaf,
    )
    .unwrap();
    let flat = task
        .parameters
        .iter()
        .map(|tensor| tensor.detach().view(-1));
    Tensor::cat(&flat.collect::<Vec<_>>(), 0)
}

const WEIGHTS: &str = "PREFTUNE_TEST_WEIGHTS";

/// One of several processes; writes its weights where it is told.
#[test]
#[ignore = "a process of `in_f64_the_weights_are_those_of_one_process_to_twelve_digits`"]
fn process_of_a_regression() {
    let number = |name: &str| std::env::var(name).unwrap().parse().unwrap();
    let place = Place::find(Launcher::Environment).unwrap().unwrap();
    let peers = Peers::join(place, Duration::from_secs(30)).unwrap();
    let weights = fit(peers, number("BATCH") as usize, number("ACCUMULATION"));
    let file = PathBuf::from(std::env::var(WEIGHTS).unwrap());
    save(&file, &[("all".to_owned(), weights)], &BTreeMap::new()).unwrap();
}

#[test]
fn in_f64_the_weights_are_those_of_one_process_to_twelve_digits() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [(2_usize, 6, 1), (4, 8, 1), (2, 3, 4)];
    for (world, batch, accumulation) in cases {
        let whole = fit(Peers::alone(), batch, accumulation);
        let meeting = Meeting::serve().unwrap();
        let file = |rank: usize| folder.path().join(format!("{world}-{batch}-{rank}"));
        let start = |rank: usize| {
            Command::new(std::env::current_exe().unwrap())
                .args([
                    "distributed::process_of_a_regression",
                    "--exact",
                    "--ignored",
                ])
                .env("RANK", rank.to_string())
                .env("WORLD_SIZE", world.to_string())
                .env("MASTER_ADDR", "127.0.0.1")
                .env("MASTER_PORT", meeting.port.to_string())
                .env("TORCHELASTIC_USE_AGENT_STORE", "True")
                .env("GLOO_SOCKET_IFNAME", "lo")
                .env("OMP_NUM_THREADS", "1")
                .env("BATCH", batch.to_string())
                .env("ACCUMULATION", accumulation.to_string())
                .env(WEIGHTS, file(rank))
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let processes: Vec<Child> = (0..world).map(start).collect();
        for process in processes {
            let outcome = Outcome::of(process);
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
        }
        for rank in 0..world {
            let weights = Checkpoint::open_file(&file(rank))
                .unwrap()
                .tensor("all")
                .unwrap();
            let off = (weights - &whole).abs().max().double_value(&[]);
            println!("{world} processes, {batch} x {accumulation}, rank {rank}: {off:.1e}");
            assert!(off <= 1e-12, "{off:e}");
        }
    }
}
