//! What can befall a run in each of its phases: signals, a disk that takes no more, something in the way of a file. The run
//! ends in words, loses nothing, and goes on to the very result of an undisturbed one.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::command::quoted;
use crate::resume::{assert_same_result, wait_until};
use crate::support::golden;
use crate::tiny_run::{Outcome, World};

/// A run on photos, one on texts, each small and with every phase: `(configuration, values)`.
const RUNS: [(&str, &[&str]); 2] = [
    (
        "config.toml",
        &[
            "negatives.per_prompt=3",
            "sampler.batch=1",
            "train.steps=4",
            "validation.every=2",
            "checkpoint.every=1",
        ],
    ),
    ("text.toml", &[]),
];

fn world() -> World {
    let world = World::new();
    world.write(
        "text.toml",
        &format!(
            "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[data]\ntrain = {}\nvalidation_share = 0.3\n\
             [objective]\nkind = \"dpo\"\n[adapter]\nrank = 4\ntargets = \"all-linear\"\n\
             [train]\nsteps = 6\nbatch = 2\nlearning_rate = 1e-3\nlog_every = 1\n\
             [validation]\nevery = 2\npatience = 0\n[checkpoint]\nevery = 1\n",
            quoted(&golden("text/model")),
            quoted(&golden("text/pairs.jsonl")),
        ),
    );
    world
}

/// `train` of a configuration, going on where it was; below these limits of the shell.
fn train(world: &World, limits: &str, config: &str, set: &[&str]) -> Command {
    let mut command = Command::new("bash");
    command
        .current_dir(world.path("."))
        .env("OMP_NUM_THREADS", "1")
        .args(["-c", &format!("{limits}; exec \"$0\" \"$@\"")])
        .args([
            env!("CARGO_BIN_EXE_preftune"),
            "train",
            config,
            "--resume",
            "--quiet",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for assignment in set {
        command.args(["--set", assignment]);
    }
    command
}

fn to_the_end(world: &World, config: &str, set: &[&str]) {
    let child = train(world, "true", config, set).spawn().unwrap();
    Outcome::of(child).succeeded();
}

/// The undisturbed run, in `whole`.
fn undisturbed(world: &World, config: &str, set: &[&str]) {
    to_the_end(world, config, &[set, &["run.output=whole"]].concat());
}

fn send(child: &Child, signal: &str) {
    let kill = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
}

/// What is there once a phase has begun.
fn phases(config: &str) -> &'static [&'static str] {
    if config == "config.toml" {
        &[
            ".lock",
            "negatives/0001.png",
            "manifest.json",
            "metrics.jsonl",
            "checkpoints/step-000001",
            "checkpoints/step-000003",
        ]
    } else {
        &[
            ".lock",
            "reference",
            "manifest.json",
            "metrics.jsonl",
            "checkpoints/step-000001",
            "best",
        ]
    }
}

#[test]
fn a_signal_in_any_phase_saves_and_the_run_goes_on_to_the_same_result() {
    for (config, set) in RUNS {
        let world = world();
        undisturbed(&world, config, set);
        for (number, phase) in phases(config).iter().enumerate() {
            // The terminal that goes away is obeyed as a request to stop is.
            let signal = ["-HUP", "-TERM"][number % 2];
            let mut child = train(&world, "true", config, set).spawn().unwrap();
            wait_until(&mut child, phase, || world.path("run").join(phase).exists());
            send(&child, signal);
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.signal(), None, "{phase}: died of {signal}");
            // It may have come too late to find anything left to do.
            assert!(
                matches!(output.status.code(), Some(0 | 75 | 130)),
                "{phase}: {said}"
            );
            assert!(
                output.status.code() == Some(0) || said.contains("interrupted at step"),
                "{phase}: {said}"
            );
            to_the_end(&world, config, set);
            // An interruption leaves a checkpoint of its own between those that were asked for.
            assert_same_result(&world, "run", "whole");
            fs::remove_dir_all(world.path("run")).unwrap();
        }
    }
}

#[test]
fn a_run_that_was_told_to_outlive_its_terminal_does() {
    let world = world();
    let (config, set) = RUNS[1];
    let mut child = train(&world, "trap '' HUP", config, set).spawn().unwrap();
    wait_until(&mut child, "the start", || world.path("run/.lock").exists());
    send(&child, "-HUP");
    Outcome::of(child).succeeded();
}

#[test]
fn a_disk_that_takes_no_more_ends_a_run_that_then_goes_on_to_the_same_result() {
    for (config, set) in RUNS {
        let world = world();
        undisturbed(&world, config, set);
        let mut failures = 0;
        // Files of at most so many KiB: at first no image fits, then no checkpoint, then no best weights.
        for most in [0, 1, 2, 4, 8, 16, 24, 32, 48] {
            let limits = format!("trap '' XFSZ; ulimit -f {most}");
            let outcome = Outcome::of(train(&world, &limits, config, set).spawn().unwrap());
            if outcome.code == Some(0) {
                fs::remove_dir_all(world.path("run")).unwrap();
                continue;
            }
            failures += 1;
            outcome.failed(1, &["cannot write", "File too large"]);
            to_the_end(&world, config, set);
            assert_same_result(&world, "run", "whole");
            fs::remove_dir_all(world.path("run")).unwrap();
        }
        assert!(failures >= 3, "{config}: {failures}");
    }
}

#[test]
fn what_is_in_the_way_of_a_phase_is_named_and_the_run_goes_on_without_it() {
    let places = [
        "negatives",
        "metrics.jsonl",
        "manifest.json",
        "samples",
        "best",
        "checkpoints",
        "checkpoints/step-000002",
        "reference",
    ];
    for (config, set) in RUNS {
        let world = world();
        undisturbed(&world, config, set);
        let mut failures = 0;
        for place in places {
            fs::create_dir_all(world.path("run")).unwrap();
            fs::copy(
                world.path("whole/config.toml"),
                world.path("run/config.toml"),
            )
            .unwrap();
            let in_the_way = world.path("run").join(place);
            // A folder in the way of a file, and the reverse.
            let parent: &Path = in_the_way.parent().unwrap();
            fs::create_dir_all(parent).unwrap();
            if place.contains(".json") {
                fs::create_dir(&in_the_way).unwrap();
            } else {
                fs::write(&in_the_way, "x").unwrap();
            }
            let outcome = Outcome::of(train(&world, "true", config, set).spawn().unwrap());
            if outcome.code == Some(0) {
                // Of the other kind of run.
                fs::remove_dir_all(world.path("run")).unwrap();
                continue;
            }
            failures += 1;
            println!("{config}, {place}: {}", outcome.stderr);
            let code = outcome.code.unwrap();
            outcome.failed(
                if code == 2 { 2 } else { 1 },
                &[place.split('/').next().unwrap()],
            );
            for left in [
                in_the_way.clone(),
                in_the_way.with_file_name(format!(
                    "{}.old",
                    in_the_way.file_name().unwrap().to_string_lossy()
                )),
            ] {
                if left.is_dir() {
                    fs::remove_dir_all(&left).unwrap();
                } else if left.exists() {
                    fs::remove_file(&left).unwrap();
                }
            }
            to_the_end(&world, config, set);
            assert_same_result(&world, "run", "whole");
            fs::remove_dir_all(world.path("run")).unwrap();
        }
        assert!(failures >= 4, "{config}: {failures}");
    }
}
