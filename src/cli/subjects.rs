//! `preftune train --all-subjects`: a queue of runs, one for each subject, some at a time.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::str::FromStr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::configuration::ConfigArgs;
use crate::cli::processes::{last_error, own_command, spawn};
use crate::cli::progress::Progress;
use crate::config::{self, Config, ConfigKind, SubjectConfig};
use crate::data::dreambench::DreamBench;
use crate::error::{Error, Result};
use crate::jobs::interrupt::Interrupt;
use crate::jobs::{self, RunOptions};
use crate::models::device::gpus;
use crate::run::manifest::{Record, SubjectManifest};

/// How often the runs are looked at.
const POLL: Duration = Duration::from_millis(50);
/// The variable that says which GPUs a process sees.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

#[derive(Args)]
#[command(next_help_heading = "All subjects of DreamBench")]
pub(super) struct SubjectsArgs {
    /// Tune to every DreamBench subject, each in a folder of its own under the run folder. Finished ones are skipped; one that
    /// fails does not keep the others back.
    #[arg(long, conflicts_with_all = ["subject", "photos", "class"])]
    pub(super) all_subjects: bool,
    /// Work on N subjects at a time, each in a process of its own and, where there are GPUs, on the next one of them.
    #[arg(long, value_name = "N", requires = "all_subjects", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// Take the subjects of one of N machines, counted from 0: every N-th one, beginning with number I.
    #[arg(long, value_name = "I/N", requires = "all_subjects")]
    shard: Option<Shard>,
}

/// The command that the runs are made of.
pub(super) struct Call<'a> {
    pub(super) config: &'a ConfigArgs,
    pub(super) subjects: &'a SubjectsArgs,
    pub(super) profile: bool,
    pub(super) quiet: bool,
}

/// One of several equal parts of the work.
#[derive(Clone, Copy)]
struct Shard {
    number: usize,
    of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts = text.split_once('/');
        let parts = parts.and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((number, of)) if number < of => Ok(Self { number, of }),
            _ => Err("write it as 0/4, 1/4, 2/4 and 3/4 for four parts".to_owned()),
        }
    }
}

/// A subject's run that is to be made.
struct Task {
    name: String,
    output: PathBuf,
}

impl Task {
    /// The keys that make a configuration this subject's.
    fn sets(&self) -> [String; 2] {
        [
            format!("subject.name={:?}", self.name),
            format!("run.output={:?}", self.output.to_string_lossy()),
        ]
    }
}

/// Tunes to the DreamBench subjects and prints a row for each. A subject that fails is counted.
pub(super) fn run(args: &Call, interrupt: &Interrupt) -> Result<()> {
    let path = &args.config.config;
    let kind = config::kind_of(path, &[])?;
    if kind != ConfigKind::Subject {
        return Err(Error::config(format!(
            "`--all-subjects` belongs to runs on a subject's photos, and `{}` describes a run {}",
            path.display(),
            kind.name()
        )));
    }
    let placeholder = ["subject.name=\"\"".to_owned()];
    let overrides = args.config.overrides()?;
    let listing = config::load(path, &[&overrides[..], &placeholder].concat())?;
    let tasks = tasks(&listing, args.subjects.shard)?;
    println!(
        "{:<22} {:>8} {:>8} {:>10} {:>10}",
        "subject", "steps", "best at", "reward", "untuned"
    );
    let failed = if args.subjects.jobs > 1 {
        Queue::new(args, &listing, &overrides).work(&tasks, interrupt)?
    } else {
        one_by_one(args, &tasks, interrupt)?
    };
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::RunsFailed(format!(
        "{} of {} subjects failed: {}",
        failed.len(),
        tasks.len(),
        failed.join(", ")
    ))
    .with_hint(
        "each says above what it lacks; the same command leaves the finished ones as they are",
    ))
}

/// The runs of a configuration, those of one part where that is asked for.
fn tasks(listing: &SubjectConfig, shard: Option<Shard>) -> Result<Vec<Task>> {
    let Some(root) = &listing.subject.dreambench else {
        return Err(Error::config(
            "`--all-subjects` needs `subject.dreambench`: the folder of a DreamBench clone",
        ));
    };
    let bench = DreamBench::open(root)?;
    let mine = |place: &usize| shard.is_none_or(|shard| place % shard.of == shard.number);
    let names = bench.names().enumerate().filter(|(place, _)| mine(place));
    let task = |(_, name): (usize, &str)| Task {
        name: name.to_owned(),
        output: listing.run.output.join(name),
    };
    let tasks: Vec<Task> = names.map(task).collect();
    if tasks.is_empty() {
        return Err(Error::config(format!(
            "`--shard`: there are fewer subjects ({}) than parts",
            bench.names().count()
        )));
    }
    Ok(tasks)
}

fn show(name: &str, record: &Record) {
    let (step, reward) = record.best.unwrap_or((record.steps, f64::NAN));
    let untuned = record.untuned_reward.unwrap_or(f64::NAN);
    println!(
        "{name:<22} {:>8} {step:>8} {reward:>10.4} {untuned:>10.4}",
        record.steps
    );
}

fn show_failure(name: &str, words: &str) {
    println!("{name:<22} failed");
    eprintln!("{name}: {}", words.trim_end());
}

/// One after the other in this process: the names of those that failed.
fn one_by_one(args: &Call, tasks: &[Task], interrupt: &Interrupt) -> Result<Vec<String>> {
    let mut failed = Vec::new();
    for task in tasks {
        match tune(args, task, interrupt) {
            Ok(record) => show(&task.name, &record),
            Err(error @ Error::Interrupted { .. }) => return Err(error),
            Err(error) => {
                show_failure(&task.name, &error.describe());
                failed.push(task.name.clone());
            }
        }
    }
    Ok(failed)
}

fn tune(args: &Call, task: &Task, interrupt: &Interrupt) -> Result<Record> {
    match args.config.load_with(&task.sets())? {
        Config::Subject(config) => {
            let mut display = Progress::new(args.quiet);
            let options = RunOptions {
                resume: true,
                profile: args.profile,
                ..RunOptions::default()
            };
            jobs::subject::train(&config, options, &mut display, interrupt)
                .map(|manifest| manifest.record)
        }
        other => Err(other.refuse(&args.config.config, "one on a subject's photos")),
    }
}

/// Runs in processes of their own, so many at a time.
struct Queue<'a> {
    args: &'a Call<'a>,
    overrides: &'a [String],
    jobs: usize,
    /// The GPUs that runs are dealt out to, as [`VISIBLE`] names them; none where they choose themselves.
    gpus: Vec<String>,
}

/// A run that works.
struct Working {
    task: usize,
    slot: usize,
    child: Child,
    said: Option<JoinHandle<String>>,
}

impl<'a> Queue<'a> {
    fn new(args: &'a Call<'a>, listing: &SubjectConfig, overrides: &'a [String]) -> Self {
        // A device that the user names is taken by all.
        let free = ["auto", "cuda"].contains(&listing.run.device.as_str());
        let listed = std::env::var(VISIBLE).ok().filter(|list| !list.is_empty());
        let gpus = match (free, listed) {
            (false, _) => Vec::new(),
            (true, Some(list)) => list.split(',').map(str::to_owned).collect(),
            (true, None) => (0..gpus().unwrap_or(0))
                .map(|gpu| gpu.to_string())
                .collect(),
        };
        Self {
            args,
            overrides,
            jobs: usize::from(args.subjects.jobs),
            gpus,
        }
    }

    /// Makes all runs: the names of those that failed.
    fn work(&self, tasks: &[Task], interrupt: &Interrupt) -> Result<Vec<String>> {
        let mut failed = Vec::new();
        let mut waiting = 0..tasks.len();
        let mut working: Vec<Working> = Vec::new();
        let mut told = false;
        loop {
            while working.len() < self.jobs && !told {
                let Some(task) = waiting.next() else { break };
                let slots: Vec<usize> = working.iter().map(|one| one.slot).collect();
                let slot = (0..self.jobs).find(|slot| !slots.contains(slot));
                working.push(self.start(tasks, task, slot.unwrap_or_default())?);
            }
            if working.is_empty() {
                break;
            }
            if interrupt.requested() && !told {
                told = true;
                for one in &working {
                    let _ = kill_process(Pid::from_child(&one.child), Signal::TERM);
                }
            }
            let ended = working.iter_mut().position(|one| {
                let status = one.child.try_wait();
                !matches!(status, Ok(None))
            });
            let Some(ended) = ended else {
                thread::sleep(POLL);
                continue;
            };
            let one = working.swap_remove(ended);
            let task = &tasks[one.task];
            if !finish(one, task)? && !told {
                failed.push(task.name.clone());
            }
        }
        if told {
            let output = tasks[0].output.parent().unwrap_or(Path::new(""));
            return Err(Error::Interrupted {
                step: 0,
                checkpoint: output.to_owned(),
            });
        }
        Ok(failed)
    }

    fn start(&self, tasks: &[Task], task: usize, slot: usize) -> Result<Working> {
        let mut command = own_command(self.jobs)?;
        command
            .args(["train".as_ref(), self.args.config.config.as_os_str()])
            .args(["--resume", "--quiet"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        for set in self.overrides.iter().chain(&tasks[task].sets()) {
            command.args(["--set", set]);
        }
        for (flag, given) in [
            ("--paper", self.args.config.paper),
            ("--profile", self.args.profile),
        ] {
            command.args(given.then_some(flag));
        }
        if !self.gpus.is_empty() {
            command.env(VISIBLE, &self.gpus[slot % self.gpus.len()]);
        }
        let (child, said) = spawn(&mut command)?;
        Ok(Working {
            task,
            slot,
            child,
            said,
        })
    }
}

/// Shows how a run ended; `true` if it is finished.
fn finish(mut one: Working, task: &Task) -> Result<bool> {
    let status = one
        .child
        .wait()
        .map_err(|source| Error::io("wait for", "a run", source))?;
    let said = one.said.take().and_then(|said| said.join().ok());
    let said = said.unwrap_or_default();
    if status.success() {
        show(&task.name, &SubjectManifest::read(&task.output)?.record);
        return Ok(true);
    }
    let words = last_error(&said);
    let words = if words.is_empty() {
        status.to_string()
    } else {
        words.to_owned()
    };
    show_failure(&task.name, &words);
    Ok(false)
}
