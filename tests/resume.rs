//! Runs that are killed, interrupted or damaged go on to the very result of an undisturbed run.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use preftune::ops::random::uniform;
use serde_json::Value;

use crate::tiny_run::{Outcome, World, contents, photo};

/// Waits until `ready`; fails where the process ends first or nothing happens.
#[track_caller]
pub fn wait_until(child: &mut Child, what: &str, ready: impl Fn() -> bool) {
    let begin = Instant::now();
    while !ready() {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("ended with {status} before {what}");
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        sleep(Duration::from_millis(2));
    }
}

fn interrupt(child: &Child) {
    let status = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

fn rows(world: &World, run: &str) -> usize {
    fs::read_to_string(world.path(run).join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

fn entries(world: &World, folder: &str) -> usize {
    let images = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|end| end == "png");
    fs::read_dir(world.path(folder)).map_or(0, |entries| {
        entries.filter_map(Result::ok).filter(images).count()
    })
}

/// What must be equal: everything but times and counts of work, which a kill makes larger.
fn lasting(world: &World, run: &str) -> BTreeMap<String, Vec<u8>> {
    let passing = |name: &str| {
        name.starts_with("events.out.tfevents.")
            || ["metrics.jsonl", "manifest.json", "config.toml", ".lock"].contains(&name)
    };
    let mut files = world.files(run);
    files.retain(|name, _| !passing(name));
    for (name, bytes) in &mut files {
        if name.ends_with("progress.json") {
            let mut progress: Value = serde_json::from_slice(bytes).unwrap();
            progress.as_object_mut().unwrap().remove("counts");
            *bytes = progress.to_string().into_bytes();
        }
    }
    files
}

#[track_caller]
pub fn assert_same_result(world: &World, run: &str, undisturbed: &str) {
    assert_eq!(world.metrics(run), world.metrics(undisturbed), "metrics");
    let (ours, theirs) = (lasting(world, run), lasting(world, undisturbed));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    // Equal lists also mean that no half-written file is left.
    assert_eq!(names(&ours), names(&theirs));
    for (name, bytes) in ours {
        assert!(bytes == theirs[&name], "{name} differs");
    }
    let (ours, theirs) = (world.manifest(run), world.manifest(undisturbed));
    for key in ["status", "steps", "best", "untuned_reward", "labels"] {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
}

/// Ten kills, then to the end. A run that gets to its end in spite of them is compared, and another one begun.
fn kill_ten_times(set: &[&str], seed: i64) {
    let world = World::new();
    let undisturbed: Vec<&str> = [set, &["run.output=whole"]].concat();
    world.train(&undisturbed).succeeded();
    let (mut killed, mut round) = (0, 0);
    while killed < 10 {
        let mut child = world
            .training(set, &["--resume", "--quiet"])
            .spawn()
            .unwrap();
        let there = rows(&world, "run");
        if round % 2 == 0 {
            // Anywhere: while loading, sampling negatives, encoding, training, validating.
            sleep(Duration::from_secs_f64(0.05 + 0.6 * uniform(seed + round)));
        } else {
            // Just after a new row of metrics, where checkpoints and best weights are written.
            while rows(&world, "run") <= there && child.try_wait().unwrap().is_none() {
                sleep(Duration::from_millis(1));
            }
            sleep(Duration::from_secs_f64(0.08 * uniform(seed + round)));
        }
        child.kill().unwrap();
        if child.wait().unwrap().signal() == Some(9) {
            killed += 1;
        } else {
            assert_same_result(&world, "run", "whole");
            fs::remove_dir_all(world.path("run")).unwrap();
        }
        round += 1;
    }
    println!(
        "{round} rounds, {} of {} rows",
        rows(&world, "run"),
        rows(&world, "whole")
    );
    world.resume(set).succeeded();
    assert_same_result(&world, "run", "whole");
}

#[test]
fn ten_kills_change_nothing_of_a_lora_run() {
    let set = [
        "checkpoint.every=1",
        "train.steps=12",
        "validation.every=3",
        "objective.labels=sampled",
        "train.accumulation=2",
        "sampler.batch=1",
    ];
    kill_ten_times(&set, 11);
}

#[test]
fn ten_kills_change_nothing_of_a_full_run() {
    let set = [
        "adapter.kind=full",
        "objective.noise_bank=2",
        "checkpoint.every=2",
        "checkpoint.keep=1",
        "train.steps=12",
        "validation.every=4",
        "train.schedule=cosine",
        "train.warmup=3",
    ];
    kill_ten_times(&set, 23);
}

#[test]
fn a_kill_while_negatives_are_made_loses_only_the_batch_in_hand() {
    let world = World::new();
    let set = [
        "negatives.per_prompt=10",
        "sampler.batch=1",
        "sampler.steps=8",
        "train.steps=1",
    ];
    world
        .train(&[&set[..], &["run.output=whole"]].concat())
        .succeeded();
    let mut child = world.training(&set, &["--quiet"]).spawn().unwrap();
    wait_until(&mut child, "three negatives", || {
        entries(&world, "run/negatives") >= 3
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let modified =
        |name: &str| -> SystemTime { fs::metadata(world.path(name)).unwrap().modified().unwrap() };
    let made = entries(&world, "run/negatives");
    assert!((3..20).contains(&made), "{made}");
    let times: Vec<_> = (0..made)
        .map(|index| modified(&format!("run/negatives/{index:04}.png")))
        .collect();
    // There are no metrics yet, so the run may also simply be started again.
    world.train(&set).succeeded();
    for (index, time) in times.iter().enumerate() {
        let name = format!("run/negatives/{index:04}.png");
        assert_eq!(modified(&name), *time, "{name} was made again");
    }
    assert_same_result(&world, "run", "whole");
    let sampled = |run: &str| {
        world.manifest(run)["counts"]["unet_forwards_sampling"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(sampled("whole") - sampled("run"), made as u64 * 8 * 2);
}

/// Exit code and message of an interruption, and the checkpoint that it names.
#[track_caller]
fn assert_interrupted(world: &World, child: Child) -> (u64, String) {
    let said = [
        "stopping: ",
        "interrupted at step ",
        "resume from `",
        "continue with `preftune train config.toml ",
        " --resume`",
    ];
    let outcome = Outcome::of(child).failed(130, &said);
    let after = |mark: &str| {
        let rest = outcome.stderr.rsplit_once(mark).unwrap().1;
        rest.chars()
            .take_while(|letter| !";`".contains(*letter))
            .collect::<String>()
    };
    let (step, named) = (after("interrupted at step "), after("resume from `"));
    assert!(world.path(&named).is_dir(), "{named}");
    assert!(outcome.stdout.is_empty());
    (step.parse().unwrap(), named)
}

#[test]
fn control_c_while_negatives_are_made_resumes_to_the_same_result() {
    let world = World::new();
    let set = [
        "negatives.per_prompt=10",
        "sampler.batch=1",
        "sampler.steps=8",
        "train.steps=1",
    ];
    world
        .train(&[&set[..], &["run.output=whole"]].concat())
        .succeeded();
    let mut child = world.training(&set, &[]).spawn().unwrap();
    wait_until(&mut child, "two negatives", || {
        entries(&world, "run/negatives") >= 2
    });
    interrupt(&child);
    let (step, named) = assert_interrupted(&world, child);
    assert_eq!((step, named.as_str()), (0, "run"));
    assert!(entries(&world, "run/negatives") < 20);
    world.resume(&set).succeeded();
    assert_same_result(&world, "run", "whole");
}

#[test]
fn control_c_while_training_resumes_to_the_same_result() {
    let world = World::new();
    let set = [
        "train.steps=30",
        "validation.every=15",
        "checkpoint.every=0",
    ];
    world
        .train(&[&set[..], &["run.output=whole"]].concat())
        .succeeded();
    let mut child = world.training(&set, &[]).spawn().unwrap();
    wait_until(&mut child, "four steps", || rows(&world, "run") >= 5);
    interrupt(&child);
    let (step, named) = assert_interrupted(&world, child);
    assert!((4..30).contains(&step), "{step}");
    assert_eq!(named, format!("run/checkpoints/step-{step:06}"));
    assert_eq!(world.manifest("run")["status"], "interrupted");
    assert_eq!(world.manifest("run")["steps"], step);
    // The best weights so far are there to be tried.
    world.generate("run", &[]).succeeded();
    let before = world.manifest("run")["seconds"]["train"].as_f64().unwrap();
    world.resume(&set).succeeded();
    let after = world.manifest("run")["seconds"]["train"].as_f64().unwrap();
    assert!(after > before, "the seconds of the parts add up");
    fs::remove_dir_all(world.path(&named)).unwrap_or_default();
    assert_same_result(&world, "run", "whole");
}

#[test]
fn control_c_while_validating_resumes_to_the_same_result() {
    let world = World::new();
    let set = [
        "train.steps=4",
        "validation.every=2",
        "validation.images_per_prompt=10",
        "sampler.batch=1",
        "sampler.steps=8",
    ];
    world
        .train(&[&set[..], &["run.output=whole"]].concat())
        .succeeded();
    // Rows: the untuned model, two steps, then the validation that is to be interrupted; and the untuned model's.
    for (seen, at) in [(3, 2), (0, 0)] {
        let run = format!("run.output=run-{at}");
        let set = [&set[..], &[run.as_str()]].concat();
        let run = format!("run-{at}");
        let mut child = world.training(&set, &[]).spawn().unwrap();
        wait_until(&mut child, "the validation", || {
            rows(&world, &run) >= seen && world.path(&run).join("manifest.json").exists()
        });
        sleep(Duration::from_millis(10));
        interrupt(&child);
        let (step, named) = assert_interrupted(&world, child);
        assert_eq!(step, at);
        let progress: Value =
            serde_json::from_str(&world.read(&format!("{named}/progress.json"))).unwrap();
        assert!(progress["validated"] != at, "the validation was over");
        world.resume(&set).succeeded();
        if at == 0 {
            fs::remove_dir_all(world.path(&named)).unwrap_or_default();
        }
        assert_same_result(&world, &run, "whole");
    }
}

#[test]
fn resuming_a_finished_run_says_so_and_changes_nothing() {
    let world = World::new();
    let first = world.train(&[]).succeeded();
    let before = world.files("run");
    let second = world.resume(&[]).succeeded();
    assert!(second.stderr.contains("`run` is finished"), "{second:?}");
    assert_eq!(first.stdout, second.stdout);
    assert!(before == world.files("run"), "the run was changed");
}

#[test]
fn a_finished_run_goes_on_with_more_steps_as_if_it_had_never_ended() {
    let world = World::new();
    for kind in ["lora", "full"] {
        let (run, whole) = (format!("run-{kind}"), format!("whole-{kind}"));
        let set = |output: &str, more: &[&str]| {
            let own = [
                format!("run.output={output}"),
                format!("adapter.kind={kind}"),
            ];
            let more = more.iter().map(|&word| word.to_owned());
            own.into_iter().chain(more).collect::<Vec<_>>()
        };
        let words = |set: &[String]| {
            set.iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join("\n")
        };
        let train = |output: &str, more: &[&str]| {
            let set = words(&set(output, more));
            world.train(&set.lines().collect::<Vec<_>>())
        };
        let resume = |output: &str, more: &[&str]| {
            let set = words(&set(output, more));
            world.resume(&set.lines().collect::<Vec<_>>())
        };
        train(&whole, &["train.steps=8"]).succeeded();
        train(&run, &["train.steps=4"]).succeeded();
        assert_eq!(world.manifest(&run)["status"], "finished");
        // Without `--resume` the folder stays as it is, and fewer steps than were asked for are another run.
        train(&run, &["train.steps=8"]).failed(2, &["continue it with `--resume`"]);
        resume(&run, &["train.steps=2"]).failed(2, &["`train.steps` is 4 there and 2 here"]);
        resume(&run, &["train.steps=8"]).succeeded();
        assert_same_result(&world, &run, &whole);
        let seconds = |run: &str| world.manifest(run)["counts"]["unet_forwards_training"].clone();
        assert_eq!(seconds(&run), seconds(&whole));
    }
    // Ended by patience: with more of it the run goes on, with more steps alone it does not.
    let patient = ["run.output=patient", "train.steps=8"];
    world.train(&patient).succeeded();
    let early = ["run.output=early", "train.steps=8"];
    let with = |more: &'static str| [&early[..], &[more]].concat();
    // No validation is so much better than the one before.
    let greedy = "validation.min_gain=10";
    let ended = world
        .train(&[&with("validation.patience=1")[..], &[greedy]].concat())
        .succeeded();
    assert!(
        ended.stderr.contains("stopped early after 2 steps"),
        "{ended:?}"
    );
    let same = world
        .resume(&[&with("validation.patience=1")[..], &[greedy]].concat())
        .succeeded();
    assert!(same.stderr.contains("`early` is finished"), "{same:?}");
    world
        .resume(&[&with("validation.patience=0")[..], &[greedy]].concat())
        .succeeded();
    assert_eq!(world.metrics("early"), world.metrics("patient"));
}

#[test]
fn a_kill_between_two_renames_is_mended() {
    let world = World::new();
    let set = [
        "train.steps=30",
        "checkpoint.every=0",
        "validation.every=15",
    ];
    world
        .train(&[&set[..], &["run.output=whole"]].concat())
        .succeeded();
    let mut child = world.training(&set, &[]).spawn().unwrap();
    wait_until(&mut child, "two steps", || rows(&world, "run") >= 3);
    interrupt(&child);
    let (step, named) = assert_interrupted(&world, child);
    // The old folder has been moved away, the new one not yet put in its place, and a row is half written.
    for folder in [named.as_str(), "run/best"] {
        let old = format!("{folder}.old");
        fs::rename(world.path(folder), world.path(&old)).unwrap();
    }
    fs::create_dir(world.path(&format!("{named}.partial"))).unwrap();
    let torn = world.read("run/metrics.jsonl") + "{\"kind\":\"train\",\"step\":";
    world.write("run/metrics.jsonl", &torn);
    world.generate("run", &[]).succeeded();
    let outcome = world.resume(&set).succeeded();
    let sampled = world.manifest("run")["counts"]["unet_forwards_training"]
        .as_u64()
        .unwrap();
    assert_eq!(
        sampled,
        30 * 2 * 2,
        "step {step} was not resumed: {outcome:?}"
    );
    for leftover in ["", ".partial"] {
        fs::remove_dir_all(world.path(&format!("{named}{leftover}"))).unwrap_or_default();
    }
    assert_same_result(&world, "run", "whole");
}

#[test]
fn what_does_not_change_the_numbers_may_change_when_a_run_is_resumed() {
    let world = World::new();
    let set = [
        "train.steps=30",
        "validation.every=15",
        "checkpoint.every=0",
    ];
    world
        .train(&[&set[..], &["run.output=whole"]].concat())
        .succeeded();
    let mut child = world.training(&set, &[]).spawn().unwrap();
    wait_until(&mut child, "two steps", || rows(&world, "run") >= 3);
    interrupt(&child);
    let (_, named) = assert_interrupted(&world, child);
    // The folder has moved, checkpoints are wanted and more of them kept.
    fs::rename(world.path("run"), world.path("moved")).unwrap();
    world
        .resume(&[
            "train.steps=30",
            "validation.every=15",
            "checkpoint.every=10",
            "checkpoint.keep=9",
            "run.output=moved",
        ])
        .succeeded();
    for step in [named.trim_start_matches("run/"), "checkpoints/step-000020"] {
        fs::remove_dir_all(world.path("moved").join(step)).unwrap_or_default();
    }
    fs::remove_dir_all(world.path("moved/checkpoints/step-000010")).unwrap_or_default();
    assert_same_result(&world, "moved", "whole");
}

#[test]
fn a_run_is_not_resumed_with_other_photos() {
    let world = World::new();
    let set = ["train.steps=30", "validation.every=15"];
    let mut child = world.training(&set, &[]).spawn().unwrap();
    wait_until(&mut child, "two steps", || rows(&world, "run") >= 3);
    interrupt(&child);
    assert_interrupted(&world, child);
    let checkpoints = contents(&world.path("run/checkpoints"));
    photo(77).save(world.path("photos/0.png")).unwrap();
    world
        .resume(&set)
        .failed(2, &["run", "was started with other files as its photos"]);
    assert_eq!(contents(&world.path("run/checkpoints")), checkpoints);
    photo(0).save(world.path("photos/0.png")).unwrap();
    world.resume(&set).succeeded();
}
